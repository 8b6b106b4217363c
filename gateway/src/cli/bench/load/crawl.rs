//! Senders that never come to an end: each sends half of a body at once and the rest by and by, until its time is over or it is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

use super::{Answer, Sent, Target};
use crate::clock;

/// Sent at a time after the first half, and how often: fast enough not to be refused for it.
const PIECE: usize = 4 << 10;
const PAUSE: Duration = Duration::from_millis(500);
/// How long one that was sent away waits before it comes again.
const AGAIN: Duration = Duration::from_millis(100);

/// Sends on so many connections for `time`. Nothing is completed, so nothing is accepted; what was answered counts as refused.
pub(super) async fn crawl(target: &Arc<Target>, connections: u16, time: Duration) -> Sent {
    let started = clock::monotonic();
    let mut senders = JoinSet::new();
    for number in 0..usize::from(connections) {
        senders.spawn(one(target.clone(), number, started + time));
    }
    let mut sent = Sent::default();
    for answers in senders.join_all().await {
        for status in answers {
            match status {
                Some(status) => *sent.refused.entry(status).or_default() += 1,
                None => sent.failed += 1,
            }
        }
    }
    sent
}

/// The answers; none for a connection that was closed without one.
async fn one(target: Arc<Target>, number: usize, until: Instant) -> Vec<Option<u16>> {
    let mut answers = Vec::new();
    while let Ok(answer) = timeout_at(until.into(), half(&target, number)).await {
        answers.push(answer.ok());
        if timeout_at(until.into(), sleep(AGAIN)).await.is_err() {
            break;
        }
    }
    answers
}

async fn half(target: &Target, number: usize) -> std::io::Result<u16> {
    let stream = TcpStream::connect(target.address).await?;
    let (mut from, mut to) = stream.into_split();
    let (head, body) = (&target.heads[number % target.heads.len()], target.body.bytes());
    let send = async {
        to.write_all(head).await?;
        let (first, rest) = body.split_at(body.len() / 2);
        to.write_all(first).await?;
        // The last byte never comes.
        for piece in rest[..rest.len() - 1].chunks(PIECE) {
            sleep(PAUSE).await;
            to.write_all(piece).await?;
        }
        std::future::pending::<std::io::Result<u16>>().await
    };
    let answer = async {
        let mut answer = Vec::new();
        loop {
            if from.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = Answer::parse(&answer)? {
                return Ok(answer.status);
            }
        }
    };
    tokio::select! {
        status = answer => status,
        failed = send => failed,
    }
}
