//! The other side of a connection, step by step, and a client to meet it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::Clock;
use tidegate::egress::policy::AddressPolicy;
use tidegate::egress::{Egress, EgressConfig, OutRequest, Sent, Speaks, Target, TargetConfig, TlsOptions};
use tidegate::event::{DestinationId, Header, Request, Revision, TenantId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// No step of a peer takes longer, or the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A deadline that is meant to be met.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// A deadline that is meant to be missed.
pub(crate) const SHORT: Duration = Duration::from_millis(200);

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

pub(crate) fn policy() -> AddressPolicy {
    AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()], ..AddressPolicy::default() }
}

pub(crate) fn config() -> EgressConfig {
    EgressConfig { policy: policy(), ..EgressConfig::default() }
}

pub(crate) fn egress(config: EgressConfig) -> Egress {
    Egress::new(config).unwrap()
}

pub(crate) fn target_config(url: &str) -> TargetConfig {
    TargetConfig {
        tenant: TenantId(1),
        destination: DestinationId(1),
        revision: Revision(1),
        url: url.to_owned(),
        append_path: false,
        append_query: false,
        tls: TlsOptions::default(),
        speaks: Speaks::Http,
    }
}

pub(crate) fn target(url: &str) -> Arc<Target> {
    Arc::new(Target::new(&target_config(url), &policy()).unwrap())
}

pub(crate) fn request(target: &Arc<Target>, deadline: Duration) -> OutRequest {
    let header = |name: &str, value: &'static [u8]| Header { name: name.to_owned(), value: Bytes::from_static(value) };
    let request = Request {
        method: "POST".to_owned(),
        headers: vec![header("content-type", b"text/plain"), header("x-many", b"1"), header("x-many", b"2")],
        body: Bytes::from_static(b"hello"),
        ..Request::default()
    };
    OutRequest::new(target, &request, deadline).unwrap()
}

pub(crate) fn send(egress: &Egress, target: &Arc<Target>, deadline: Duration) -> impl Future<Output = Sent> + Send + use<> {
    let (egress, request) = (egress.clone(), request(target, deadline));
    async move { egress.send(request, &Clock::system()).await }
}

/// The code of the failure.
pub(crate) fn code(sent: &Sent) -> &str {
    sent.failure.as_ref().map_or("none", |failure| &failure.code)
}

pub(crate) struct Server {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::at("127.0.0.1".parse().unwrap()).await
    }

    pub(crate) async fn at(ip: IpAddr) -> Self {
        Self::on((ip, 0).into()).await
    }

    pub(crate) async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn target(&self) -> Arc<Target> {
        target(&self.url())
    }

    pub(crate) async fn accept(&self) -> Peer<TcpStream> {
        Peer { stream: within(self.listener.accept()).await.unwrap().0 }
    }

    /// Whether nobody has connected since the last accept. A connection of our own tells: whoever came before it is accepted first.
    pub(crate) async fn is_lonely(&self) -> bool {
        let own = within(TcpStream::connect(self.address)).await.unwrap();
        let (_, from) = within(self.listener.accept()).await.unwrap();
        from == own.local_addr().unwrap()
    }
}

pub(crate) async fn within<T>(step: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, step).await.expect("a step of the peer took too long")
}

pub(crate) struct Peer<T> {
    pub(crate) stream: T,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Peer<T> {
    /// One request with a body of five bytes, as text.
    pub(crate) async fn read_request(&mut self) -> String {
        let mut read = Vec::new();
        loop {
            let mut byte = [0];
            let count = within(self.stream.read(&mut byte)).await.unwrap();
            assert_eq!(count, 1, "the connection ended inside a request: {:?}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
            if read.ends_with(b"\r\n\r\nhello") {
                return String::from_utf8(read).unwrap();
            }
        }
    }

    pub(crate) async fn write(&mut self, text: &str) {
        within(self.stream.write_all(text.as_bytes())).await.unwrap();
    }

    /// Reads a request and answers it.
    pub(crate) async fn answer(&mut self, response: &str) -> String {
        let request = self.read_request().await;
        self.write(response).await;
        request
    }

    /// Waits until the other side has closed; anything that it still sends is a fault.
    pub(crate) async fn closed(&mut self) {
        let mut byte = [0];
        match within(self.stream.read(&mut byte)).await {
            Ok(count) => assert_eq!(count, 0, "there was something more"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }

    /// Writes until the other side has closed. Returns how much it took.
    pub(crate) async fn write_until_closed(&mut self, piece: &[u8]) -> usize {
        let mut written = 0;
        while let Ok(count) = within(self.stream.write(piece)).await {
            written += count;
        }
        written
    }
}
