//! Uploads that keep compilers busy.

use std::cell::Cell;
use std::fs;

use futures_util::future::join_all;
use serde_json::json;
use tidegate_test_support::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::text;
use crate::bombs::{self, many_functions, wide_tables};
use crate::processes::{Watch, compilers, field, resident};
use crate::quiet::{ALONE, MALLORY, Quiet, assert_unhurt};
use crate::world::SOON;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn bombs_are_compiled_in_bounds_while_a_quiet_tenants_events_flow() {
    let _alone = ALONE.lock().await;
    let (quiet, bombs) = (Quiet::start().await, bombs::all());
    let idle = quiet.latencies(|| false).await;
    let before = resident(quiet.world.gateway.pid());
    let watch = Watch::of(quiet.world.gateway.pid());

    let done = Cell::new(false);
    let attack = async {
        for bomb in bombs {
            let reply = quiet.upload(MALLORY, "bomb", bomb.component).await;
            let problem = reply.json();
            assert_eq!((reply.status, problem["code"].as_str()), (422, Some(bomb.code)), "{}: {problem}", bomb.name);
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(bomb.names)), "{}: {problem}", bomb.name);
        }
        done.set(true);
    };
    let ((), during) = tokio::join!(attack, quiet.latencies(|| !done.get()));
    assert_unhurt("compile bombs", &idle, &during);

    let peak = watch.peak();
    let grown = peak.gateway.saturating_sub(before) / MIB;
    println!("the gateway grew by {grown} MiB; {} compilers of up to {} MiB", peak.compilers.len(), peak.compiler / MIB);
    assert!(grown < 384, "the gateway grew by {grown} MiB");
    assert!(peak.compiler < 1152 * MIB, "a compiler had {} MiB", peak.compiler / MIB);
    assert!((1..=2).contains(&peak.at_once), "{} compilers at once", peak.at_once);
    assert_eq!(compilers(quiet.world.gateway.pid()), [0; 0], "none is left");
    quiet.still_uploads().await;
}

#[tokio::test]
async fn a_flood_of_uploads_is_refused_by_name_and_delays_nobody_else() {
    let _alone = ALONE.lock().await;
    let quiet = Quiet::start().await;
    let done = Cell::new(0);
    let floods = (0..30).map(|number| {
        let (quiet, done) = (&quiet, &done);
        async move {
            let reply = quiet.upload(MALLORY, "bomb", many_functions(6_000 + number)).await;
            done.set(done.get() + usize::from(reply.status == 422));
            (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned())
        }
    });
    let floods = join_all(floods);
    let upload = async {
        eventually("bombs are compiled", SOON, async || (!compilers(quiet.world.gateway.pid()).is_empty()).then_some(())).await;
        quiet.still_uploads().await;
        done.get()
    };
    // The flood is given up once it has been shown to delay nobody.
    tokio::select! {
        biased;
        done = upload => assert!(done <= 8, "{done} bombs were compiled before the quiet tenant's component"),
        ended = floods => panic!("the flood ended first: {ended:?}"),
    }
    eventually("who hung up holds no compiler", SOON, async || compilers(quiet.world.gateway.pid()).is_empty().then_some(())).await;

    let burst = join_all((0..30).map(|number| quiet.upload(MALLORY, "bomb", many_functions(1 + number)))).await;
    let count = |status, code| burst.iter().filter(|reply| reply.status == status && reply.json()["code"] == code).count();
    let (refused, compiled) = (count(429, "compile_queue_full"), count(422, "wrong_type"));
    assert_eq!(refused + compiled, 30, "{burst:?}");
    assert!(refused > 0 && compiled >= 16, "{refused} refused, {compiled} compiled");
}

#[tokio::test]
async fn uploads_that_are_announced_and_never_sent_hold_up_nobody_else() {
    let _alone = ALONE.lock().await;
    let quiet = Quiet::start().await;
    let minted = quiet.world.api.post("/v1/keys", &json!({"name": "theirs", "tenant": MALLORY})).await;
    let head = format!(
        "POST /v1/components HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {}\r\ncontent-type: application/wasm\r\ncontent-length: 60000000\r\nexpect: 100-continue\r\n\r\n",
        text(&minted["key"])
    );
    let address = quiet.world.gateway.admin("").replace("http://", "");
    let mut announced = Vec::new();
    for expected in ["HTTP/1.1 100", "HTTP/1.1 100", "HTTP/1.1 429"] {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        // It is told to go on once there is room for it; then it says nothing more.
        let read = connection.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with(expected), "{answer}");
        announced.push((connection, answer));
    }
    assert!(announced[2].1.contains("too_many_uploads"), "{}", announced[2].1);
    quiet.still_uploads().await;
}

#[tokio::test]
async fn a_compiler_has_no_rights_and_ends_with_its_gateway() {
    let _alone = ALONE.lock().await;
    let mut quiet = Quiet::start().await;
    let gateway = quiet.world.gateway.pid();
    let compiler = {
        let upload = quiet.upload(MALLORY, "bomb", wide_tables(60));
        let look = async {
            // Once it is confined, which is before it reads the component.
            eventually("a compiler works", SOON, async || {
                let compiler = *compilers(gateway).first()?;
                (limit(compiler, "Max open files")? == "0").then_some(compiler)
            })
            .await
        };
        tokio::select! {
            reply = upload => panic!("it was compiled before anyone looked: {:?}", reply.body),
            compiler = look => {
                assert_confined(compiler);
                assert_eq!(cores(compiler), (cores(gateway) / 2).max(1), "it leaves half of the cores to others");
                quiet.world.gateway.kill();
                compiler
            }
        }
    };
    eventually("the compiler ends", SOON, async || (resident(compiler) == 0).then_some(())).await;
}

fn assert_confined(compiler: u32) {
    assert_eq!(fs::read(format!("/proc/{compiler}/environ")).unwrap_or_default(), b"", "its environment");
    let descriptors = fs::read_dir(format!("/proc/{compiler}/fd")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<_> = descriptors.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["0", "1", "2"], "its descriptors");
    assert_eq!(field(compiler, "NoNewPrivs:"), Some(1));
    for (name, value) in [("Max file size", "0"), ("Max core file size", "0"), ("Max cpu time", "60")] {
        assert_eq!(limit(compiler, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(limit(compiler, "Max data size").as_deref(), Some("3221225472"), "1 GiB, and 2 for what is set aside");
    let stat = fs::read_to_string(format!("/proc/{compiler}/stat")).unwrap();
    // Field 19, where the one in parentheses is the second.
    let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).map(str::to_owned);
    assert_eq!(nice.as_deref(), Some("10"), "{stat}");
}

/// On how many cores a process may run.
fn cores(process: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).unwrap();
    mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum()
}

/// A process's own limit, the soft one.
fn limit(process: u32, name: &str) -> Option<String> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))?;
    line.split_whitespace().next().map(str::to_owned)
}

#[tokio::test]
async fn a_node_without_artifacts_compiles_a_version_once_while_its_events_wait() {
    let _alone = ALONE.lock().await;
    let mut quiet = Quiet::start().await;
    quiet.accepted().await;
    quiet.world.receiver.wait_for(1, SOON).await;
    assert!(quiet.world.gateway.stop(SOON).await.success());
    let artifacts = quiet.world.gateway.directory().join("data/artifacts");
    let compiled =
        || fs::read_dir(&artifacts).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some());
    assert_eq!(compiled().count(), 1);
    // What another engine left, or another node: under a name that is not this engine's, or not to be verified.
    for path in compiled() {
        let bytes = fs::read(&path).unwrap();
        fs::write(path.with_file_name("of-another-engine.code"), &bytes).unwrap();
        fs::write(&path, [&bytes[..40], b"another's code"].concat()).unwrap();
    }
    quiet.world.gateway.restart().await;
    let watch = Watch::of(quiet.world.gateway.pid());
    let events = join_all((0..50).map(|_| quiet.accepted())).await;
    quiet.world.receiver.wait_for(51, SOON).await;
    for event in events {
        let settled = quiet.world.api.settled(&event, SOON).await;
        assert_eq!(settled["state"], "delivered");
        assert_eq!(settled["deliveries"][0]["attempts"].as_array().map_or(1, Vec::len), 1, "{settled:#}");
    }
    assert_eq!(quiet.delivered(), 51, "each delivered once");
    let peak = watch.peak();
    assert!(peak.compilers.len() <= 1, "{peak:?}");
}
