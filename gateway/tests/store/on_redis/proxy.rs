//! A proxy that breaks a connection at the worst moment.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the proxy does with the next `EXEC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    None = 0,
    /// The server executes it, and the connection breaks before the answer is passed on.
    DropAnswer = 1,
    /// The connection breaks before the server has seen it.
    DropRequest = 2,
}

pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

struct State {
    fault: AtomicU8,
    faults: AtomicU64,
    /// A command, and what its answer must contain to be dropped.
    dropped: Mutex<Option<(&'static str, &'static str)>>,
}

impl State {
    fn is_asked(&self, request: &[u8]) -> bool {
        self.dropped.lock().unwrap().is_some_and(|(command, _)| contains(request, command))
    }

    /// Whether this is the answer to be dropped; it is no more from then on.
    fn drops(&self, answer: &[u8]) -> bool {
        self.dropped.lock().unwrap().take_if(|(_, text)| contains(answer, text)).is_some()
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

impl Proxy {
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { fault: AtomicU8::new(0), faults: AtomicU64::new(0), dropped: Mutex::new(None) });
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, shared.clone()));
            }
        });
        Self { port, state, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Arms it for one `EXEC`.
    pub(crate) fn arm(&self, fault: Fault) {
        self.state.fault.store(fault as u8, Ordering::SeqCst);
    }

    /// Breaks the next connection that is about to pass on an answer with this text to a request with this command.
    pub(crate) fn drop_answer(&self, command: &'static str, text: &'static str) {
        *self.state.dropped.lock().unwrap() = Some((command, text));
    }

    /// How often it broke a connection.
    pub(crate) fn faults(&self) -> u64 {
        self.state.faults.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut client: TcpStream, server: u16, state: Arc<State>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut is_asked = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(1..) = read else { return };
                let request = &asked[..read.unwrap()];
                is_asked = state.is_asked(request);
                // The engine sends MULTI to EXEC in one write, which ends with EXEC; large ones come in parts, of which the last counts.
                let fault = if request.ends_with(b"\r\nEXEC\r\n") { state.fault.swap(0, Ordering::SeqCst) } else { 0 };
                if fault != Fault::None as u8 {
                    state.faults.fetch_add(1, Ordering::SeqCst);
                }
                if fault == Fault::DropRequest as u8 || server.write_all(request).await.is_err() {
                    return;
                }
                if fault == Fault::DropAnswer as u8 {
                    // The first byte of the answer says that the server is at it; a transaction is executed as a whole.
                    let _executed = server.read(&mut answered).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(1..) = read else { return };
                if is_asked && state.drops(&answered[..read.as_ref().map_or(0, |read| *read)]) {
                    state.faults.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if client.write_all(&answered[..read.unwrap()]).await.is_err() {
                    return;
                }
            }
        }
    }
}
