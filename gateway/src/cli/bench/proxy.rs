//! What stands between the gateway and its store to make that slow: it passes everything on, and holds back what comes from the store.
//!
//! `delay MS` sets for how long; the order of the bytes stays. A delay is a matter of distance, not of throughput: as many bytes a second get
//! through as without it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::error::BenchError;
use super::part;
use crate::clock;

/// Read at once.
const PIECE: usize = 64 << 10;
/// Pieces of one connection on their way; more stay with their sender.
const ON_THE_WAY: usize = 4096;

#[derive(Debug, Args)]
pub(super) struct ProxyArgs {
    /// Where to pass connections on to.
    #[arg(long)]
    target: SocketAddr,
}

/// Runs until its input ends.
pub(super) fn run(args: &ProxyArgs) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::io("runtime"))?;
    let delay = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(BenchError::io("bind"))?;
        let mut orders = part::Orders::ready(Some(listener.local_addr().map_err(BenchError::io("bind"))?))?;
        let obey = async {
            while let Some(order) = orders.next().await {
                let ms = order.strip_prefix("delay ").and_then(|ms| ms.parse().ok());
                if let Some(ms) = ms {
                    delay.store(ms, Ordering::Relaxed);
                }
                part::say(&serde_json::to_string(&ms).unwrap_or_default())?;
            }
            Ok(())
        };
        tokio::select! {
            failed = serve(listener, args.target, &delay) => failed.map_err(BenchError::io("accept")),
            obeyed = obey => obeyed,
        }
    })
}

async fn serve(listener: TcpListener, target: SocketAddr, delay: &Arc<AtomicU64>) -> std::io::Result<()> {
    loop {
        let (near, _) = listener.accept().await?;
        let delay = delay.clone();
        tokio::spawn(async move {
            let far = TcpStream::connect(target).await?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            let (later, due) = mpsc::channel(ON_THE_WAY);
            // Whichever end is closed, the other one is to notice at once.
            tokio::select! {
                ended = pass(from_near, to_far) => ended,
                ended = hold(from_far, later, delay) => ended,
                ended = release(due, to_near) => ended,
            }
        });
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await.map(drop)
}

async fn hold(mut from: OwnedReadHalf, later: mpsc::Sender<(Instant, Bytes)>, delay: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    while from.read_buf(&mut buffer).await? > 0 {
        let due = clock::monotonic() + Duration::from_millis(delay.load(Ordering::Relaxed));
        let sent = later.send((due.into(), buffer.split().freeze())).await;
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        buffer.reserve(PIECE);
    }
    Ok(())
}

async fn release(mut due: mpsc::Receiver<(Instant, Bytes)>, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    while let Some((at, bytes)) = due.recv().await {
        sleep_until(at).await;
        to.write_all(&bytes).await?;
    }
    Ok(())
}
