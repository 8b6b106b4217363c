//! What ingest itself costs, with a store that costs nothing: `cargo bench --bench ingest`.
//!
//! - accepts per second through the group committer, in this process;
//! - CPU per request of the receive server, beside a bare hyper server that reads the same body and answers 202. The load comes
//!   from another process, so that its CPU is told apart.

#![allow(missing_docs, clippy::print_stderr)]

#[path = "../tests/ingest/stub.rs"]
#[allow(dead_code)]
mod stub;
#[path = "../tests/ingest/world.rs"]
#[allow(dead_code)]
mod world;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::resource::{UsageWho, getrusage};
use tidegate::clock::{self, Timestamp};
use tidegate::event::{Event, EventId, Lane, Request, Revision, Shard, SourceId, TenantId};
use tidegate::ingest::accept::{Acceptor, Limits};
use tidegate::ingest::verify::Verifier;
use tidegate::store::Acceptance;
use tidegate::telemetry::Telemetry;
use tidegate::telemetry::otel::Otel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use stub::{Mode, Stub};
use world::{Setup, World, post};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 64;
const REQUESTS: usize = 200_000;
const BODY: usize = 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if let [_, role, address] = &arguments[..]
        && role == "load"
    {
        runtime.block_on(load(address.parse().expect("an address")));
        return;
    }
    // Under `cargo test` a bench only has to start.
    let requests = if arguments.iter().any(|argument| argument == "--bench") { REQUESTS } else { 1000 };
    runtime.block_on(async {
        if arguments.iter().any(|argument| argument == "receive") {
            // Alone, for a profiler.
            println!("receive {:.2} us of CPU a request", receive(requests).await);
            return;
        }
        for callers in [1, 64, 512] {
            committer(callers, requests).await;
        }
        for round in 0..3 {
            let floor = bare(requests).await;
            let ours = receive(requests).await;
            println!("round {round}: bare hyper {floor:.2} us, receive {ours:.2} us of CPU a request: {:.2}", ours / floor);
        }
    });
}

async fn committer(callers: usize, requests: usize) {
    let store = Stub::new(Mode::Discard);
    let telemetry = Telemetry::start(Otel::default()).expect("starts");
    let acceptor = Acceptor::new(store, Limits::default(), std::sync::Arc::default(), telemetry.metrics());
    let body = Bytes::from(vec![b'x'; BODY]);
    let (started, before) = (clock::monotonic(), cpu());
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (acceptor, body) = (acceptor.clone(), body.clone());
            tokio::spawn(async move {
                for at in 0..requests / callers {
                    acceptor.accept(acceptance(caller << 32 | at, body.clone())).await.expect("kept");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let (took, used) = (started.elapsed(), cpu() - before);
    let rate = requests as f64 / took.as_secs_f64();
    println!("committer, {callers} callers: {rate:.0} accepts/s, {:.2} us of CPU each", micros(used) / requests as f64);
}

fn acceptance(id: usize, body: Bytes) -> Acceptance {
    let event = Event {
        id: EventId(id as u128),
        tenant: TenantId(1),
        source: SourceId(1),
        revision: Revision(1),
        accepted_at: Timestamp(0),
        request: Request { method: "POST".into(), body, ..Request::default() },
        pins: Vec::new(),
        trace: None,
    };
    let event = Verifier::none().verify(event, Timestamp(0)).expect("nothing is checked");
    Acceptance { event, shard: Shard(0), lane: Lane::Normal, dedup: None }
}

async fn bare(requests: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| async {
                    #[allow(clippy::disallowed_methods)] // Limited.
                    let body = Limited::new(request.into_body(), BODY).collect().await.expect("a body").to_bytes();
                    assert_eq!(body.len(), BODY);
                    let mut response =
                        http::Response::new(Full::new(Bytes::from_static(b"{\"id\":\"evt_00000000000000000000000000\"}")));
                    *response.status_mut() = http::StatusCode::ACCEPTED;
                    Ok::<_, Infallible>(response)
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let used = under_load(address, requests).await;
    server.abort();
    used
}

async fn receive(requests: usize) -> f64 {
    let telemetry = Telemetry::start(Otel::default()).expect("starts");
    let world = World::start(Setup { mode: Mode::Discard, metrics: telemetry.metrics(), ..Setup::default() }).await;
    under_load(world.address, requests).await
}

/// Microseconds of this process's CPU for each request.
async fn under_load(address: SocketAddr, requests: usize) -> f64 {
    let before = cpu();
    let mut load = Command::new(std::env::current_exe().expect("this program"));
    load.args(["load", &address.to_string()]).env("REQUESTS", requests.to_string()).stdin(Stdio::null());
    let mut load = tokio::process::Command::from(load).spawn().expect("a process");
    assert!(load.wait().await.expect("its end").success());
    micros(cpu() - before) / requests as f64
}

async fn load(address: SocketAddr) {
    let requests: usize = std::env::var("REQUESTS").ok().and_then(|text| text.parse().ok()).expect("a count");
    let headers = "user-agent: GitHub-Hookshot/044aadd\r\naccept: */*\r\ncontent-type: application/json\r\n\
                   x-github-delivery: 72d3162e-cc78-11e3-81ab-4c9367dc0958\r\nx-github-event: push\r\n\
                   x-hub-signature-256: sha256=d57c68ca6f92289e6987922ff26938930f6e66a2d161ef06abdf1859230aa23c\r\n";
    let request = post(headers, &[b'x'; BODY]);
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let request = request.clone();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("a server");
                let _ = stream.set_nodelay(true);
                let mut answer = [0; 4096];
                for _ in 0..requests / CONNECTIONS {
                    stream.write_all(&request).await.expect("it reads");
                    let mut read = 0;
                    // Both servers answer with a body that ends in a brace.
                    while !answer[..read].ends_with(b"}") {
                        let more = stream.read(&mut answer[read..]).await.expect("it answers");
                        assert_ne!(more, 0, "closed");
                        read += more;
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 202 "));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let duration = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    duration(usage.user_time()) + duration(usage.system_time())
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
