//! Whatever a broker answers, publishing to it ends with an acknowledgement or a named failure, in bounds: the gateway's own readers of RESP, NATS, AMQP and
//! Kafka's protocol, behind real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use tidegate::clock::{Clock, Timestamp};
use tidegate::egress::policy::AddressPolicy;
use tidegate::egress::{
    Broker, Egress, EgressConfig, Labels, Login, Mechanism, OutRequest, Protocol, Speaks, Target, TargetConfig, TlsOptions,
};
use tidegate::event::{DeliveryId, DestinationId, EventId, Request, Revision, TenantId};
use tidegate::secret::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Cases, mutate};

/// By a name, so that a leader elsewhere is another name, which nobody knows, and no address of somebody else's.
const HOST: &str = "here.test";
const MAX_RESPONSE: usize = 100;
/// Nobody waits for it: the broker closes when it has said what it has to say.
const DEADLINE: Duration = Duration::from_secs(20);
const CODES: [&str; 14] = [
    "address_refused",
    "bad_response",
    "broker_blocked",
    "broker_refused",
    "dns_failed",
    "dns_timeout",
    "login_refused",
    "message_too_large",
    "none",
    "not_acknowledged",
    "reset",
    "stream_missing",
    "topic_missing",
    "unroutable",
];

/// A broker whose answers are changed from some place on.
struct Hostile<'a> {
    stream: TcpStream,
    /// Answers that go out as they are.
    honest: u32,
    random: &'a mut StdRng,
}

/// The broker has nothing more to say.
struct Ended;

impl Hostile<'_> {
    /// Says this, or something like it; after that it says no more.
    async fn say(&mut self, mut answer: Vec<u8>) -> Result<(), Ended> {
        let is_last = self.honest == 0;
        if is_last {
            mutate(&mut answer, self.random);
        }
        self.honest = self.honest.saturating_sub(1);
        let said = self.stream.write_all(&answer).await;
        if is_last || said.is_err() { Err(Ended) } else { Ok(()) }
    }

    /// What the gateway says up to this.
    async fn hear(&mut self, end: &[u8]) -> Result<Vec<u8>, Ended> {
        let mut heard = Vec::new();
        while !heard.ends_with(end) {
            heard.push(self.stream.read_u8().await.map_err(|_| Ended)?);
        }
        Ok(heard)
    }

    async fn redis(&mut self) -> Result<(), Ended> {
        self.say(b"+OK\r\n".to_vec()).await?;
        self.say(b"$15\r\n1526919030474-5\r\n".to_vec()).await
    }

    async fn nats(&mut self) -> Result<(), Ended> {
        let info = "INFO {\"server_id\":\"S\",\"max_payload\":1000,\"headers\":true,\"connect_urls\":[\"127.0.0.1:4222\"]}\r\n";
        self.say(info.as_bytes().to_vec()).await?;
        let hello = self.hear(b"PING\r\n").await?;
        let hello = String::from_utf8_lossy(&hello).into_owned();
        let inbox = hello.split("SUB ").nth(1).and_then(|rest| rest.split(".*").next()).ok_or(Ended)?;
        self.say(b"PING\r\nINFO {\"max_payload\":900,\"headers\":true}\r\nPONG\r\n".to_vec()).await?;
        self.hear(b"hello\r\n").await?;
        let body = "{\"stream\":\"HOOKS\",\"seq\":1}";
        let answers = [
            format!("MSG {inbox}.1 1 {}\r\n{body}\r\n", body.len()),
            format!("HMSG {inbox}.1 1 30 30\r\nNATS/1.0 503 No Responders\r\n\r\n\r\n"),
            format!("MSG {inbox}.1 1 46\r\n{{\"error\":{{\"err_code\":10054,\"description\":\"x\"}}}}\r\n"),
            "-ERR 'Maximum Payload Violation'\r\n".to_owned(),
        ];
        let answer = answers[self.random.random_range(0..answers.len())].clone();
        self.say(answer.into_bytes()).await
    }

    async fn amqp(&mut self) -> Result<(), Ended> {
        let method = |class: u16, number: u16, arguments: &[u8]| {
            let payload = [&class.to_be_bytes()[..], &number.to_be_bytes(), arguments].concat();
            frame(1, &payload)
        };
        let start =
            [&[0, 9][..], &13_u32.to_be_bytes(), b"\x07product\x46\0\0\0\0", &5_u32.to_be_bytes(), b"PLAIN", &[0; 4]].concat();
        let tune = [&1_u16.to_be_bytes()[..], &8192_u32.to_be_bytes(), &0_u16.to_be_bytes()].concat();
        for answer in
            [method(10, 10, &start), method(10, 30, &tune), method(10, 41, &[0]), method(20, 11, &[0; 4]), method(85, 11, &[])]
        {
            self.say(answer).await?;
        }
        // A broker that answers before it is asked is one of the hostile.
        if self.random.random_range(0..8) > 0 {
            self.hear(b"hello\xce").await?;
        }
        let (acknowledged, nacked) =
            (method(60, 80, &[0, 0, 0, 0, 0, 0, 0, 1, 0]), method(60, 120, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0]));
        let returned = method(60, 50, &[&312_u16.to_be_bytes()[..], b"\x08NO_ROUTE\0\x05hooks"].concat());
        let content = [frame(2, &[0; 14]), frame(3, b"hello")].concat();
        let closed = method(10, 50, &[&320_u16.to_be_bytes()[..], b"\x03bye", &[0; 4]].concat());
        let (blocked, unblocked) = (method(10, 60, b"\x06memory"), method(10, 61, &[]));
        let answers = [
            acknowledged.clone(),
            nacked,
            [returned, content, acknowledged.clone()].concat(),
            closed,
            [unblocked, frame(8, &[]), acknowledged].concat(),
            blocked,
        ];
        let answer = answers[self.random.random_range(0..answers.len())].clone();
        self.say(answer).await
    }

    async fn kafka(&mut self) -> Result<(), Ended> {
        loop {
            let length = self.stream.read_i32().await.map_err(|_| Ended)?;
            let mut request = vec![0; usize::try_from(length).map_err(|_| Ended)?];
            self.stream.read_exact(&mut request).await.map_err(|_| Ended)?;
            let number = &request[4..8];
            let body = match request[1] {
                0 => produced(),
                3 => self.metadata(),
                17 => [&[0, 0][..], &number_of(1), &text("SCRAM-SHA-256")].concat(),
                _ => {
                    let said = String::from_utf8_lossy(&request).into_owned();
                    let nonce = said.split("r=").nth(1).unwrap_or_default();
                    let said = if said.contains(",p=") { "v=AAAA".to_owned() } else { format!("r={nonce}more,s=QSXCR+Q6,i=64") };
                    [&[0, 0, 0xff, 0xff][..], &number_of(said.len()), said.as_bytes()].concat()
                }
            };
            let answer = [&number_of(body.len() + 4)[..], number, &body].concat();
            self.say(answer).await?;
        }
    }

    /// One server, this one, and a topic with two partitions.
    fn metadata(&self) -> Vec<u8> {
        let port = usize::from(self.stream.local_addr().map_or(0, |address| address.port()));
        let server = [number_of(1).to_vec(), text(HOST), number_of(port).to_vec(), vec![0xff, 0xff]].concat();
        let partition = |number: usize| {
            [&[0, 0][..], &number_of(number), &number_of(1), &number_of(1), &number_of(1), &number_of(1), &number_of(1)].concat()
        };
        let partitions = [&number_of(2)[..], &partition(0), &partition(0)].concat();
        let topic = [&[0, 0][..], &text("hooks"), &[0], &partitions].concat();
        [&[0; 4][..], &number_of(1), &server, &[0xff, 0xff], &number_of(1), &number_of(1), &topic].concat()
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1][..], &length, payload, &[0xce]].concat()
}

fn number_of(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap().to_be_bytes()
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// One partition's, number 0, with an offset.
fn produced() -> Vec<u8> {
    let partition = [&number_of(1)[..], &number_of(0), &[0, 0], &[0, 0, 0, 0, 0, 0, 0, 7], &[0xff; 8]].concat();
    [&number_of(1)[..], &text("hooks"), &partition, &[0; 4]].concat()
}

#[tokio::test]
async fn any_answer_of_a_broker_is_an_acknowledgement_or_a_named_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Nothing but this one is dialled, whatever it says.
    let policy =
        AddressPolicy { allow: vec!["127.0.0.1/32".parse().unwrap()], ports: vec![address.port()], ..AddressPolicy::default() };
    // Names are asked for where nobody is.
    let hosts = [(HOST.to_owned(), vec![address.ip()])].into();
    let nobody = ([127, 0, 0, 1], 1).into();
    let config = EgressConfig {
        policy: policy.clone(),
        max_response: MAX_RESPONSE,
        name_servers: vec![nobody],
        hosts,
        ..EgressConfig::default()
    };
    let egress = Egress::new(config).unwrap();
    let protocols = [
        ("redis", Protocol::RedisStream { stream: "hooks".to_owned(), max_length: None, database: 0 }),
        ("nats", Protocol::Nats { subject: "hooks".to_owned(), stream: None }),
        ("amqp", Protocol::Amqp { vhost: "/".to_owned(), exchange: String::new(), routing_key: "hooks".to_owned() }),
        ("kafka", Protocol::Kafka { topic: "hooks".to_owned(), mechanism: Mechanism::ScramSha256 }),
    ];
    let mut found = BTreeMap::<(&str, String), u64>::new();
    let mut cases = 0;
    Cases::new(4_000)
        .run(async |random| {
            cases += 1;
            let (scheme, protocol) = protocols[random.random_range(0..protocols.len())].clone();
            let login = if scheme == "kafka" && random.random() {
                Login::None
            } else {
                Login::User { name: "me".to_owned(), password: Secret::new("secret") }
            };
            let target = TargetConfig {
                tenant: TenantId(1),
                destination: DestinationId(cases),
                revision: Revision(1),
                url: format!("{scheme}://{HOST}:{}", address.port()),
                append_path: false,
                append_query: false,
                tls: TlsOptions::default(),
                speaks: Speaks::Broker(Broker { protocol, login }),
            };
            let target = Arc::new(Target::new(&target, &policy).unwrap());
            let event = Request { method: "POST".to_owned(), body: Bytes::from_static(b"hello"), ..Request::default() };
            let labels = Labels { delivery: DeliveryId(1), event: EventId(2), accepted_at: Timestamp(0) };
            let request = OutRequest::new(&target, &event, DEADLINE).unwrap().labelled(labels).unwrap();
            let honest = random.random_range(0..8);
            let serving = async {
                let stream = listener.accept().await.unwrap().0;
                let mut broker = Hostile { stream, honest, random };
                let _ended = match scheme {
                    "redis" => broker.redis().await,
                    "nats" => broker.nats().await,
                    "amqp" => broker.amqp().await,
                    _ => broker.kafka().await,
                };
                let _ = broker.stream.shutdown().await;
                let mut rest = [0; 4096];
                while matches!(broker.stream.read(&mut rest).await, Ok(1..)) {}
                // A leader in another spelling of this address is dialled anew.
                loop {
                    drop(listener.accept().await);
                }
            };
            let clock = Clock::system();
            let sending = egress.send(request, &clock);
            let sent = tokio::select! {
                sent = sending => sent,
                () = serving => unreachable!("it goes on for ever"),
            };
            let code = sent.failure.as_ref().map_or("none", |failure| failure.code.as_str());
            assert!(CODES.contains(&code), "{scheme}: {:?}", sent.failure);
            assert!(sent.response.len() <= MAX_RESPONSE && sent.response.is_empty() == (code != "none"), "{scheme}: {sent:?}");
            assert!(sent.failure.as_ref().is_none_or(|failure| failure.detail.len() < 2_000), "{scheme}: {:?}", sent.failure);
            *found.entry((scheme, code.to_owned())).or_default() += 1;
        })
        .await;
    println!("{found:?}");
    for (scheme, _) in protocols {
        assert!(cases < 1000 || found.contains_key(&(scheme, "none".to_owned())), "{scheme} was never heard to the end: {found:?}");
    }
}
