//! A proxy that breaks a connection at the worst moment.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

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
    traps: Mutex<Vec<Trap>>,
}

/// Catches the next answer with this text to a request with this command.
struct Trap {
    command: &'static str,
    text: &'static str,
    /// Told that it has; then it is told whether to pass the answer on. Without this the answer is dropped.
    keeper: Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>,
}

impl Trap {
    async fn passes_on(self) -> bool {
        let Some((caught, passed_on)) = self.keeper else { return false };
        caught.send(()).is_ok() && passed_on.await.is_ok()
    }
}

/// An answer that is kept back. Its connection breaks if this is dropped.
pub(crate) struct Kept {
    caught: oneshot::Receiver<()>,
    pass_on: oneshot::Sender<()>,
}

impl Kept {
    /// Waits until there is such an answer.
    pub(crate) async fn caught(&mut self) {
        (&mut self.caught).await.unwrap();
    }

    pub(crate) fn pass_on(self) {
        self.pass_on.send(()).unwrap();
    }
}

impl State {
    fn is_asked(&self, request: &[u8]) -> bool {
        self.traps.lock().unwrap().iter().any(|trap| contains(request, trap.command))
    }

    /// The trap that this answer is for.
    fn sprung(&self, answer: &[u8]) -> Option<Trap> {
        let mut traps = self.traps.lock().unwrap();
        let at = traps.iter().position(|trap| contains(answer, trap.text))?;
        Some(traps.remove(at))
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

impl Proxy {
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { fault: AtomicU8::new(0), faults: AtomicU64::new(0), traps: Mutex::default() });
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
        self.state.traps.lock().unwrap().push(Trap { command, text, keeper: None });
    }

    /// Keeps the next such answer back.
    pub(crate) fn keep_answer(&self, command: &'static str, text: &'static str) -> Kept {
        let ((tell, caught), (pass_on, passed_on)) = (oneshot::channel(), oneshot::channel());
        self.state.traps.lock().unwrap().push(Trap { command, text, keeper: Some((tell, passed_on)) });
        Kept { caught, pass_on }
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
                let answer = &answered[..read.unwrap()];
                if is_asked && let Some(trap) = state.sprung(answer) {
                    state.faults.fetch_add(1, Ordering::SeqCst);
                    if !trap.passes_on().await {
                        return;
                    }
                }
                if client.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    }
}
