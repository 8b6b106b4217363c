//! Ports for servers that must be told theirs, and ports that nobody has.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::TcpSocket;

/// Below the range that the kernel takes for outgoing connections. A port from that range could, while its server is down, become the
/// source port of a client that tries to reach the server: the client would then connect to itself.
const FIRST: u32 = 12_000;
const COUNT: u32 = 18_000;

/// A port that nobody listens on. Somebody may still come first: start again with another if the server says so.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run side by side begin at different places.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("the range ends below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// An address that refuses connections for as long as this lives: nobody else can listen there, and no client can come from there.
pub struct Closed {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Closed {
    /// On a free port of 127.0.0.1. Needs a runtime around it.
    #[allow(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        Self { address: socket.local_addr().expect("a bound socket has an address"), _socket: socket }
    }

    /// Where nobody listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
