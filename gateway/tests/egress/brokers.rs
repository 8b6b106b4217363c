//! Brokers that mean harm, by name and inside the deadline; and connections that are kept, shared and closed.

use std::sync::Arc;
use std::time::Duration;

use tidegate::clock::{Clock, Timestamp};
use tidegate::egress::{
    Broker, Egress, EgressConfig, Labels, Login, Mechanism, OutRequest, Protocol, Sent, Speaks, Target, TargetConfig,
};
use tidegate::event::{DeliveryId, DestinationId, EventId, TenantId};
use tidegate::secret::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::join;

use crate::authority::{Authority, certificate_for};
use crate::peer::*;
use crate::tls::trusting;

const PASSWORD: &str = "hunter2-at-the-broker";
const INFO: &str = "INFO {\"max_payload\":1000,\"headers\":true}\r\n";

fn redis() -> Protocol {
    Protocol::RedisStream { stream: "hooks".to_owned(), max_length: None, database: 0 }
}

fn nats() -> Protocol {
    Protocol::Nats { subject: "hooks".to_owned(), stream: None }
}

fn amqp() -> Protocol {
    Protocol::Amqp { vhost: "/".to_owned(), exchange: String::new(), routing_key: "hooks".to_owned() }
}

fn kafka() -> Protocol {
    Protocol::Kafka { topic: "hooks".to_owned(), mechanism: Mechanism::ScramSha256 }
}

fn broker(url: &str, protocol: Protocol, login: Login) -> Arc<Target> {
    broker_of(1, url, protocol, login)
}

fn broker_of(tenant: u128, url: &str, protocol: Protocol, login: Login) -> Arc<Target> {
    let speaks = Speaks::Broker(Broker { protocol, login });
    Arc::new(Target::new(&TargetConfig { tenant: TenantId(tenant), speaks, ..target_config(url) }, &policy()).unwrap())
}

fn user() -> Login {
    Login::User { name: "tidegate".to_owned(), password: Secret::new(PASSWORD) }
}

fn message(target: &Arc<Target>, delivery: u128, deadline: Duration) -> OutRequest {
    let labels = Labels { delivery: DeliveryId(delivery), event: EventId(2), accepted_at: Timestamp(0) };
    request(target, deadline).labelled(labels).unwrap()
}

async fn publish(egress: &Egress, target: &Arc<Target>, deadline: Duration) -> Sent {
    publish_as(egress, target, 1, deadline).await
}

async fn publish_as(egress: &Egress, target: &Arc<Target>, delivery: u128, deadline: Duration) -> Sent {
    egress.send(message(target, delivery, deadline), &Clock::system()).await
}

/// Publishes to a server that says this, whatever it is told, and then closes.
async fn told(scheme: &str, protocol: Protocol, login: Login, says: &[u8]) -> Sent {
    let server = Server::start().await;
    let target = broker(&format!("{scheme}://{}", server.address), protocol, login);
    let egress = egress(config());
    let serving = async {
        let mut stream = server.accept().await.stream;
        // It may be closed before all is said.
        let _ = stream.write_all(says).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    join!(publish(&egress, &target, LONG), serving).0
}

fn frame(kind: u8, length: u32, payload: &[u8], end: u8) -> Vec<u8> {
    [&[kind, 0, 0][..], &length.to_be_bytes(), payload, &[end]].concat()
}

#[tokio::test]
async fn answers_that_make_no_sense_are_named() {
    let long = "a".repeat(1 << 20);
    for says in [
        "$4294967295\r\n",
        "*3\r\n",
        "*2147483647\r\n*2147483647\r\n",
        "$-1\r\n",
        "HTTP/1.1 400 Bad\r\n",
        "\r\n",
        &format!("+{long}"),
        // Nothing but an entry's id says that there is an entry.
        "+OK\r\n",
        "+1-1\r\n",
        "$2\r\nOK\r\n",
        "$2\r\n1-\r\n",
        ":1\r\n",
    ] {
        let sent = told("redis", redis(), Login::None, says.as_bytes()).await;
        assert_eq!(code(&sent), "bad_response", "{:.40}", says);
    }
    let large = format!("INFO {long}\r\n");
    let lying = format!("{INFO}PONG\r\n");
    for says in [
        "HTTP/1.1 400 Bad\r\n\r\n",
        "INFO {\r\n",
        "INFO {\"max_payload\":1000}\r\n",
        &large,
        // All at once is more than a greeting.
        &lying,
    ] {
        let sent = told("nats", nats(), Login::None, says.as_bytes()).await;
        assert_eq!(code(&sent), "bad_response", "{:.40}", says);
    }
    for says in [
        frame(1, u32::MAX, b"", 0xce),
        frame(1, 4, &[0, 10, 0, 10], 0xcf),
        frame(1, 2, &[0, 10], 0xce),
        frame(7, 0, b"", 0xce),
        b"AMQP\x00\x01\x00\x00".to_vec(),
        // A message of four gigabytes that comes back.
        [frame(3, u32::MAX, &vec![0; 4 << 20], 0)].concat(),
    ] {
        let sent = told("amqp", amqp(), Login::None, &says).await;
        assert_eq!(code(&sent), "bad_response", "{:?}", &says[..8]);
    }
    for says in [
        i32::MAX.to_be_bytes().to_vec(),
        (-1_i32).to_be_bytes().to_vec(),
        answer(7, b""),
        answer(1, b""),
        // Two billion servers.
        answer(1, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
    ] {
        let sent = told("kafka", kafka(), Login::None, &says).await;
        assert_eq!(code(&sent), "bad_response", "{says:?}");
    }
}

/// What Kafka answers to the request of this number.
fn answer(number: i32, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &number.to_be_bytes(), body].concat()
}

#[tokio::test]
async fn what_kafka_says_to_a_log_in_is_told() {
    let welcome = answer(1, &[0, 0, 0, 0, 0, 0]);
    let challenge = answer(2, b"\0\0\xff\xff\0\0\0\x10r=me,s=AAAA,i=10");
    for (says, expected) in [
        (answer(1, &[0, 33, 0, 0, 0, 0]), "login_refused"),
        ([&welcome[..], &answer(2, b"\0\x3a\0\x04nope\0\0\0\0")].concat(), "login_refused"),
        // A challenge for somebody else.
        ([&welcome[..], &challenge].concat(), "bad_response"),
    ] {
        let sent = told("kafka", kafka(), user(), &says).await;
        assert_eq!(code(&sent), expected, "{says:?}");
    }
}

/// Metadata of one partition, whose leader is at this address.
fn leader_at(host: &str, port: u16) -> Vec<u8> {
    let text = |text: &str| [&i16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    let number = |number: i32| number.to_be_bytes().to_vec();
    let node = [number(1), text(host), number(i32::from(port)), vec![0xff, 0xff]].concat();
    let partition = [vec![0, 0], number(0), number(1), number(0), number(0)].concat();
    let topic = [vec![0, 0], text("hooks"), vec![0], number(1), partition].concat();
    let body = [number(1), number(0), number(1), node, vec![0xff, 0xff], number(1), number(1), topic].concat();
    [number(i32::try_from(body.len()).unwrap()), body].concat()
}

#[tokio::test]
async fn a_leader_that_kafka_names_is_judged_like_any_address() {
    for (host, expected) in
        [("10.0.0.1", "address_refused"), ("0x0a000001", "address_refused"), ("169.254.169.254", "address_refused")]
    {
        let sent = told("kafka", kafka(), Login::None, &leader_at(host, 9092)).await;
        assert_eq!(code(&sent), expected, "{host}");
    }
    for host in ["", "a b", "me@127.0.0.1", "127.0.0.1/x"] {
        let sent = told("kafka", kafka(), Login::None, &leader_at(host, 9092)).await;
        assert!(matches!(code(&sent), "bad_response" | "connect_refused"), "{host}: {}", code(&sent));
    }
}

#[tokio::test]
async fn a_connection_that_ends_is_a_failure() {
    for (scheme, protocol) in [("redis", redis()), ("nats", nats()), ("amqp", amqp()), ("kafka", kafka())] {
        for says in [&b""[..], b"$5\r\nab"] {
            let sent = told(scheme, protocol.clone(), Login::None, says).await;
            let expected = if says.is_empty() || scheme == "redis" { "reset" } else { "bad_response" };
            let found = code(&sent);
            assert!(found == expected || found == "reset", "{scheme}: {found}");
        }
    }
}

#[tokio::test]
async fn words_of_a_broker_are_shown_without_the_password() {
    let says = format!("-WRONGPASS I know {PASSWORD}\x07 and you\r\n");
    let sent = told("redis", redis(), user(), says.as_bytes()).await;
    let failure = sent.failure.unwrap();
    assert_eq!(failure.code, "login_refused");
    assert!(failure.detail.ends_with("WRONGPASS I know [redacted]  and you"), "{}", failure.detail);
    assert!(failure.retryable);
}

/// Reads a command that adds an entry, to its end.
async fn command(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    // The last field is the last header's value.
    while !read.ends_with(b"\r\n2\r\n") {
        read.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    within(stream.write_all(text.as_bytes())).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_kept_until_it_has_been_idle_for_long_or_is_closed() {
    let server = Server::start().await;
    let target = broker(&format!("redis://{}", server.address), redis(), Login::None);
    let egress = egress(EgressConfig { idle_timeout: SHORT, ..config() });
    let serving = async {
        let mut first = server.accept().await.stream;
        for entry in ["1-1", "1-2"] {
            let said = command(&mut first).await;
            assert!(said.contains("XADD") && said.contains("$5\r\nhello\r\n"), "{said}");
            say(&mut first, &format!("$3\r\n{entry}\r\n")).await;
        }
        // Closed while it is idle: the next message has a new one.
        drop(first);
        let mut second = server.accept().await.stream;
        command(&mut second).await;
        say(&mut second, "$3\r\n2-1\r\n").await;
        assert_eq!(within(second.read(&mut [0])).await.unwrap(), 0, "closed when it has been idle for long");
        assert!(server.is_lonely().await);
    };
    let sending = async {
        for entry in ["1-1", "1-2"] {
            let sent = publish(&egress, &target, LONG).await;
            assert_eq!((code(&sent), &*sent.response), ("none", entry.as_bytes()));
        }
        let closed = async || (publish(&egress, &target, LONG).await.response == b"2-1"[..]).then_some(());
        tidegate_test_support::eventually("the end of the first is seen", LONG, closed).await;
    };
    join!(serving, sending);
}

#[tokio::test]
async fn one_destination_has_a_bounded_number_of_connections() {
    const MOST: usize = 16;
    let server = Server::start().await;
    let target = broker(&format!("redis://{}", server.address), redis(), Login::None);
    let egress = egress(config());
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..MOST * 2 {
        let (egress, target) = (egress.clone(), Arc::clone(&target));
        sending.spawn(async move { publish(&egress, &target, LONG).await });
    }
    let mut held = Vec::new();
    for _ in 0..MOST {
        let mut stream = server.accept().await.stream;
        command(&mut stream).await;
        held.push(stream);
    }
    // The others wait for these, and go out on them.
    assert!(server.is_lonely().await);
    for _ in 0..2 {
        for stream in &mut held {
            say(stream, "$3\r\n1-1\r\n").await;
        }
        if sending.len() == MOST * 2 {
            for _ in 0..MOST {
                assert_eq!(code(&sending.join_next().await.unwrap().unwrap()), "none");
            }
            for stream in &mut held {
                command(stream).await;
            }
        }
    }
    for sent in sending.join_all().await {
        assert_eq!(code(&sent), "none");
    }
    assert!(server.is_lonely().await);
}

#[tokio::test]
async fn a_broker_s_certificate_is_checked_for_its_name() {
    let authority = Authority::new();
    for (name, expected) in [("own.example", "none"), ("other.example", "tls_failed")] {
        let server = Server::start().await;
        let url = format!("rediss://own.example:{}", server.address.port());
        let target = broker(&url, redis(), Login::None);
        let (acceptor, egress) = (authority.acceptor(certificate_for(name), &[]), trusting(&authority));
        let serving = async {
            let Ok(mut stream) = within(acceptor.accept(server.accept().await.stream)).await else { return };
            command(&mut stream).await;
            say(&mut stream, "$3\r\n1-1\r\n").await;
        };
        let (sent, ()) = join!(publish(&egress, &target, LONG), serving);
        assert_eq!(code(&sent), expected);
    }
}

#[tokio::test]
async fn nats_is_told_the_password_only_over_tls_where_the_url_says_so() {
    let authority = Authority::new();
    let url = |server: &Server| format!("tls://own.example:{}", server.address.port());
    // A server that offers none, or somebody between who says so.
    let server = Server::start().await;
    let egress = trusting(&authority);
    let target = broker(&url(&server), nats(), user());
    let serving = async {
        let mut stream = server.accept().await.stream;
        say(&mut stream, INFO).await;
        let mut said = Vec::new();
        within(stream.read_to_end(&mut said)).await.unwrap();
        assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    };
    let (sent, ()) = join!(publish(&egress, &target, LONG), serving);
    assert_eq!(code(&sent), "tls_failed");

    let server = Server::start().await;
    let target = broker(&url(&server), nats(), user());
    let acceptor = authority.acceptor(certificate_for("own.example"), &[]);
    let serving = async {
        let mut stream = server.accept().await.stream;
        say(&mut stream, "INFO {\"max_payload\":1000,\"headers\":true,\"tls_required\":true}\r\n").await;
        let mut stream = within(acceptor.accept(stream)).await.unwrap();
        let mut said = String::new();
        while !said.ends_with("PING\r\n") {
            said.push(char::from(within(stream.read_u8()).await.unwrap()));
        }
        assert!(said.contains(PASSWORD));
        say(&mut stream, "-ERR 'Authorization Violation'\r\n").await;
    };
    let (sent, ()) = join!(publish(&egress, &target, LONG), serving);
    assert_eq!(code(&sent), "login_refused");
}

#[tokio::test]
async fn an_acknowledgement_is_kept_inside_the_limits_of_a_response() {
    for (most, kept, is_cut) in [(100, "1-12345", false), (3, "1-1", true), (0, "", true)] {
        let server = Server::start().await;
        let target = broker(&format!("redis://{}", server.address), redis(), Login::None);
        let egress = egress(EgressConfig { max_response: most, ..config() });
        let serving = async {
            let mut stream = server.accept().await.stream;
            command(&mut stream).await;
            say(&mut stream, "$7\r\n1-12345\r\n").await;
        };
        let (sent, ()) = join!(publish(&egress, &target, LONG), serving);
        assert_eq!((code(&sent), &*sent.response, sent.response_cut), ("none", kept.as_bytes(), is_cut));
    }
}

/// Whoever does the hashing on the runtime's own threads holds up everything else on them: here the one thread for other work is busy, and the
/// runtime goes on while the proof waits for it.
#[test]
fn what_proves_a_password_is_worked_out_beside_the_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.blocking_recv());
        let server = Server::start().await;
        let target = broker(&format!("kafka://{}", server.address), kafka(), user());
        let egress = egress(config());
        let serving = async {
            let mut stream = challenged(&server).await;
            assert!(tokio::time::timeout(SHORT, stream.read(&mut [0])).await.is_err(), "there is no proof yet");
            release.send(()).unwrap();
            let proof = asked(&mut stream).await;
            assert!(proof.contains(",p="), "{proof}");
            within(stream.write_all(&answer(3, b"\0\x3a\0\x04nope\0\0\0\0"))).await.unwrap();
        };
        let (sent, ()) = join!(publish(&egress, &target, LONG), serving);
        assert_eq!(code(&sent), "login_refused");
        holding.await.unwrap().unwrap();
    });
}

/// One tenant's proofs stand in line behind each other, not before another tenant's: the one thread that works them out is busy until all of them
/// are wanted.
#[test]
fn many_proofs_of_one_tenant_hold_up_no_other() {
    const MANY: u128 = 12;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.blocking_recv());
        let server = Server::start().await;
        let egress = egress(config());
        let mut proofs = tokio::task::JoinSet::new();
        let mut sending = tokio::task::JoinSet::new();
        for tenant in std::iter::repeat_n(1, MANY as usize).chain([2]) {
            let target = broker_of(tenant, &format!("kafka://{}", server.address), kafka(), user());
            let egress = egress.clone();
            sending.spawn(async move { publish(&egress, &target, LONG).await });
            let mut stream = challenged(&server).await;
            if tenant == 2 {
                assert!(tokio::time::timeout(SHORT, stream.read(&mut [0])).await.is_err(), "there is no proof yet");
            }
            proofs.spawn(async move {
                assert!(asked(&mut stream).await.contains(",p="));
                tenant
            });
        }
        release.send(()).unwrap();
        holding.await.unwrap().unwrap();
        let order = proofs.join_all().await;
        let place = order.iter().position(|tenant| *tenant == 2).unwrap();
        assert!(place < 4, "{order:?}");
    });
}

/// A connection to Kafka up to its being asked for a proof.
async fn challenged(server: &Server) -> tokio::net::TcpStream {
    let mut stream = server.accept().await.stream;
    asked(&mut stream).await;
    within(stream.write_all(&answer(1, &[0, 0, 0, 0, 0, 0]))).await.unwrap();
    let first = asked(&mut stream).await;
    let (_, nonce) = first.rsplit_once("r=").unwrap();
    let challenge = format!("r={nonce}more,s=AAAA,i=20000");
    let length = i32::try_from(challenge.len()).unwrap().to_be_bytes();
    let body = [b"\0\0\xff\xff", &length[..], challenge.as_bytes()].concat();
    within(stream.write_all(&answer(2, &body))).await.unwrap();
    stream
}

/// One request of Kafka's, as text.
async fn asked(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let length = within(stream.read_i32()).await.unwrap();
    let mut request = vec![0; usize::try_from(length).unwrap()];
    within(stream.read_exact(&mut request)).await.unwrap();
    String::from_utf8_lossy(&request).into_owned()
}

fn method(class: u16, number: u16, arguments: &[u8]) -> Vec<u8> {
    let payload = [&class.to_be_bytes()[..], &number.to_be_bytes(), arguments].concat();
    frame(1, u32::try_from(payload.len()).unwrap(), &payload, 0xce)
}

/// All that a broker says until it can be published to, whatever it is told.
fn welcome() -> Vec<u8> {
    let tune = [&1_u16.to_be_bytes()[..], &131_072_u32.to_be_bytes(), &0_u16.to_be_bytes()].concat();
    [method(10, 10, &[]), method(10, 30, &tune), method(10, 41, &[0]), method(20, 11, &[0; 4]), method(85, 11, &[])].concat()
}

/// Reads a message to its end.
async fn published(stream: &mut (impl AsyncRead + Unpin)) {
    let mut read = Vec::new();
    while !read.ends_with(b"hello\xce") {
        read.push(within(stream.read_u8()).await.unwrap());
    }
}

const BLOCKED: (u16, u16) = (10, 60);
const UNBLOCKED: (u16, u16) = (10, 61);
const ACK: (u16, u16) = (60, 80);

async fn tell(stream: &mut tokio::net::TcpStream, (class, number): (u16, u16), arguments: &[u8]) {
    within(stream.write_all(&method(class, number, arguments))).await.unwrap();
}

fn acknowledgement(tag: u64) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &[0]].concat()
}

/// Publishes message 1 on a new connection to a broker that is short of memory. Gives the broker's end of it.
async fn blocked(server: &Server, egress: &Egress, target: &Arc<Target>) -> tokio::net::TcpStream {
    let serving = async {
        let mut stream = server.accept().await.stream;
        within(stream.write_all(&welcome())).await.unwrap();
        published(&mut stream).await;
        tell(&mut stream, BLOCKED, b"\x06memory").await;
        stream
    };
    let (sent, stream) = join!(publish_as(egress, target, 1, LONG), serving);
    assert_eq!(code(&sent), "broker_blocked");
    assert!(sent.failure.unwrap().detail.ends_with("memory"));
    stream
}

/// A broker that is short of something has read a message, or will: it says so and falls silent, and goes on where it was when it is well again.
#[tokio::test]
async fn what_was_published_to_a_blocked_broker_is_not_published_again() {
    let server = Server::start().await;
    let target = broker(&format!("amqp://{}", server.address), amqp(), Login::None);
    let egress = egress(EgressConfig { idle_timeout: SHORT, ..config() });
    let mut stream = blocked(&server, &egress, &target).await;
    // Idle for longer than others may be, it is still there: another connection would take a copy.
    for delivery in [1, 2, 1] {
        assert!(tokio::time::timeout(SHORT * 2, stream.read(&mut [0])).await.is_err(), "neither a copy nor an end");
        assert_eq!(code(&publish_as(&egress, &target, delivery, LONG).await), "broker_blocked");
    }
    assert!(server.is_lonely().await);
    tell(&mut stream, UNBLOCKED, &[]).await;
    tell(&mut stream, ACK, &acknowledgement(1)).await;
    // Another is published on the same connection, after the one that was owed.
    let serving = async {
        published(&mut stream).await;
        tell(&mut stream, ACK, &acknowledgement(2)).await;
    };
    let sending = tidegate_test_support::eventually("the broker takes messages", LONG, async || {
        let sent = publish_as(&egress, &target, 2, LONG).await;
        (code(&sent) == "none").then_some(sent)
    });
    let (second, ()) = join!(sending, serving);
    assert_eq!(second.response, b"confirmed, delivery tag 2"[..]);
    let sent = publish_as(&egress, &target, 1, LONG).await;
    assert_eq!((code(&sent), &*sent.response), ("none", &b"confirmed, delivery tag 1"[..]));
    assert!(server.is_lonely().await);
    drop(egress);
    assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0, "nothing else was published");
}

/// The broker goes on, but has not said yet what became of message 1. Another message that waits for that in vain leaves the connection as it is.
async fn unblocked(stream: &mut tokio::net::TcpStream, egress: &Egress, target: &Arc<Target>) {
    tell(stream, UNBLOCKED, &[]).await;
    let waits = async || (code(&publish_as(egress, target, 2, SHORT).await) == "response_timeout").then_some(());
    tidegate_test_support::eventually("it is heard that the broker goes on", LONG, waits).await;
}

/// The connection that a message is owed on may be another message's at the moment: until it is known what became of it, it is not published on
/// one more, and from then on it is delivered.
#[tokio::test]
async fn what_is_owed_on_a_connection_that_is_in_use_is_not_published_again() {
    let server = Server::start().await;
    let target = broker(&format!("amqp://{}", server.address), amqp(), Login::None);
    let egress = egress(config());
    let mut stream = blocked(&server, &egress, &target).await;
    unblocked(&mut stream, &egress, &target).await;
    // It waits for what is owed, and is published then.
    let mut other = std::pin::pin!(publish_as(&egress, &target, 2, LONG));
    assert!(futures_util::poll!(&mut other).is_pending());
    assert_eq!(code(&publish_as(&egress, &target, 1, LONG).await), "broker_blocked");
    assert!(server.is_lonely().await);
    let serving = async {
        tell(&mut stream, ACK, &acknowledgement(1)).await;
        published(&mut stream).await;
        let sent = publish_as(&egress, &target, 1, LONG).await;
        assert_eq!((code(&sent), &*sent.response), ("none", &b"confirmed, delivery tag 1"[..]));
        assert!(server.is_lonely().await);
        tell(&mut stream, ACK, &acknowledgement(2)).await;
    };
    let (sent, ()) = join!(other, serving);
    assert_eq!(sent.response, b"confirmed, delivery tag 2"[..]);
}

#[tokio::test]
async fn who_waits_in_vain_for_what_another_is_owed_leaves_it_to_that() {
    let server = Server::start().await;
    let target = broker(&format!("amqp://{}", server.address), amqp(), Login::None);
    let egress = egress(config());
    let mut stream = blocked(&server, &egress, &target).await;
    unblocked(&mut stream, &egress, &target).await;
    let acknowledgement = acknowledgement(1);
    let (sent, ()) = join!(publish_as(&egress, &target, 1, LONG), tell(&mut stream, ACK, &acknowledgement));
    assert_eq!((code(&sent), &*sent.response), ("none", &b"confirmed, delivery tag 1"[..]));
    assert!(server.is_lonely().await);
}

/// What is idle counts as its tenant's: it makes room for what that tenant wants to do.
#[tokio::test]
async fn idle_connections_to_brokers_count_in_their_tenant_s_share() {
    let (server, http) = (Server::start().await, Server::start().await);
    let egress = egress(EgressConfig { max_connections: 8, ..config() });
    let mut idle = idle(&server, &egress, [1, 1]).await;
    let sending = (0..4).map(|_| tokio::spawn(send(&egress, &http.target(), LONG))).collect::<Vec<_>>();
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = http.accept().await;
        peer.read_request().await;
        peers.push(peer);
    }
    for mut idle in idle.drain(..) {
        assert_eq!(within(idle.read(&mut [0])).await.unwrap(), 0, "closed");
    }
    for (sending, mut peer) in sending.into_iter().zip(peers) {
        peer.write(OK).await;
        assert_eq!(sending.await.unwrap().status, Some(200));
    }
}

/// What is idle makes room for other tenants too.
#[tokio::test]
async fn an_idle_connection_to_a_broker_makes_room_for_others() {
    let (server, http) = (Server::start().await, Server::start().await);
    let egress = egress(EgressConfig { max_connections: 4, ..config() });
    let mut idle = idle(&server, &egress, [1]).await;
    let mut sending = tokio::task::JoinSet::new();
    let mut peers = Vec::new();
    for tenant in [2, 2, 3, 3] {
        let target = TargetConfig { tenant: TenantId(tenant), ..target_config(&http.url()) };
        sending.spawn(send(&egress, &Arc::new(Target::new(&target, &policy()).unwrap()), LONG));
        let mut peer = http.accept().await;
        peer.read_request().await;
        peers.push(peer);
    }
    assert_eq!(within(idle[0].read(&mut [0])).await.unwrap(), 0, "closed");
}

/// A message's connection is not kept for the next one while somebody waits for its place: of the same tenant, or of all.
#[tokio::test]
async fn who_waits_gets_the_place_of_a_connection_to_a_broker_that_becomes_idle() {
    for (max_connections, tenant) in [(2, 1), (1, 2)] {
        let (server, http) = (Server::start().await, Server::start().await);
        let egress = egress(EgressConfig { max_connections, ..config() });
        let target = broker(&format!("redis://{}", server.address), redis(), Login::None);
        let waiting = TargetConfig { tenant: TenantId(tenant), ..target_config(&http.url()) };
        let waiting = Arc::new(Target::new(&waiting, &policy()).unwrap());
        let serving = async {
            let mut stream = server.accept().await.stream;
            command(&mut stream).await;
            let (sent, ()) = join!(send(&egress, &waiting, LONG), async {
                assert!(http.is_lonely().await);
                say(&mut stream, "$3\r\n1-1\r\n").await;
                assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0, "closed");
                http.accept().await.answer(OK).await;
            });
            assert_eq!(sent.status, Some(200));
        };
        let (sent, ()) = join!(publish(&egress, &target, LONG), serving);
        assert_eq!(code(&sent), "none");
    }
}

/// Connections to Redis of these tenants, each of another destination, that are idle.
async fn idle(server: &Server, egress: &Egress, tenants: impl IntoIterator<Item = u128>) -> Vec<tokio::net::TcpStream> {
    let mut idle = Vec::new();
    for (destination, tenant) in tenants.into_iter().enumerate() {
        let speaks = Speaks::Broker(Broker { protocol: redis(), login: Login::None });
        let (tenant, destination) = (TenantId(tenant), DestinationId(destination as u128));
        let config = TargetConfig { tenant, destination, speaks, ..target_config(&format!("redis://{}", server.address)) };
        let target = Arc::new(Target::new(&config, &policy()).unwrap());
        let serving = async {
            let mut stream = server.accept().await.stream;
            command(&mut stream).await;
            say(&mut stream, "$3\r\n1-1\r\n").await;
            stream
        };
        let (sent, stream) = join!(publish(egress, &target, LONG), serving);
        assert_eq!(code(&sent), "none");
        idle.push(stream);
    }
    idle
}
