//! What one run leaves behind, no other sees: not in memories, tables or globals, and no other tenant's secrets or configuration. What a
//! plugin may keep from one event to the next, once there is such a thing, has its test of separation here.

use std::sync::Arc;

use bytes::Bytes;
use tidegate::event::{TenantId, VersionHash};
use tidegate::plugin::{Access, Call, Secrets};

use crate::fixture::{Sandbox, call};
use crate::guest::{filter, import};

const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";

/// What the data is filled with. A megabyte is mapped out of the artifact, a byte is copied.
const LENGTHS: [usize; 2] = [1, 1_000_000];
const DATA: usize = 6 << 20;

/// A filter that traps unless its memory, its table and its globals are as the component says; then makes all of them dirty, grows
/// the first two, and ends as `end` says.
fn dirties(length: usize, end: &str) -> Bytes {
    let unless = |value: &str, is: &str| format!("(if (i32.ne {value} {is}) (then (unreachable)))");
    let byte = |at: usize, is: u8| unless(&format!("(i32.load8_u (i32.const {at}))"), &format!("(i32.const {is})"));
    let grown = 256 << 16;
    let checks = [
        // Kept resident and cleared by hand; given back to the system; at the edges of the data; the last of all.
        byte(4096, 0),
        byte(128 << 10, 0),
        byte(1 << 20, 0),
        byte(DATA - 1, 0),
        byte(DATA, b'd'),
        byte(DATA + length - 1, b'd'),
        byte(DATA + length, 0),
        byte((256 << 16) - 1, 0),
        unless("(memory.size)", "(i32.const 256)"),
        unless("(table.size $t)", "(i32.const 1000)"),
        unless("(ref.is_null (table.get $t (i32.const 0)))", "(i32.const 0)"),
        unless("(ref.is_null (table.get $t (i32.const 1)))", "(i32.const 1)"),
        unless("(ref.is_null (table.get $t (i32.const 999)))", "(i32.const 1)"),
        unless("(global.get $g)", "(i32.const 7)"),
        unless("(memory.grow (i32.const 64))", "(i32.const 256)"),
        byte(grown, 0),
        byte(grown + (64 << 16) - 1, 0),
        unless("(table.grow $t (ref.null func) (i32.const 1000))", "(i32.const 1000)"),
        unless("(ref.is_null (table.get $t (i32.const 1999)))", "(i32.const 1)"),
    ];
    let dirt = format!(
        "(memory.fill (i32.const 4096) (i32.const 90) (i32.const {}))
         (table.fill $t (i32.const 0) (ref.func $f) (i32.const 2000))
         (global.set $g (i32.const 90))",
        grown + (64 << 16) - 4096
    );
    let fields = format!(
        r#"(func $f) (table $t 1000 3000 funcref) (elem (table $t) (i32.const 0) func $f) (global $g (mut i32) (i32.const 7))
           (data (i32.const {DATA}) "{}")"#,
        "d".repeat(length)
    );
    filter(&fields, &format!("{} {dirt} {end}", checks.concat()))
}

#[tokio::test]
async fn the_next_instance_in_a_place_finds_it_clean() {
    // One thread of each kind: one after the other they have the same place.
    let sandbox = Sandbox::with(|config| (config.threads, config.long_threads) = (1, 1));
    let ends = [KEEP, "(unreachable)", "(loop (br 0)) (unreachable)"];
    let versions: Vec<(VersionHash, &str)> = LENGTHS
        .into_iter()
        .flat_map(|length| ends.map(|end| (length, end)))
        .map(|(length, end)| (sandbox.add(dirties(length, end)), if end == KEEP { "" } else { end }))
        .collect();
    for round in 0..4 {
        // Each after itself, and each after each other.
        for (version, end) in versions.iter().flat_map(|version| [version, version]) {
            let report = sandbox.runtime.filter(call(*version, "{}")).await;
            let expected = match *end {
                "" => Ok(()),
                "(unreachable)" => Err("aborted"),
                _ => Err("fuel_exhausted"),
            };
            let ended = report.result.map(|kept| assert!(kept)).map_err(|error| error.code());
            // What finds dirt ends by a trap before it has written to its memory: less fuel than the filling costs.
            assert_eq!(ended, expected, "round {round}");
            assert!(report.run.fuel > 16 << 20, "round {round}: it found what another had left ({} fuel)", report.run.fuel);
        }
    }
}

/// Looks through a megabyte of its memory for a secret that another run left there; then asks for one by name and leaves it there. Keeps the
/// event if it got one.
fn curious() -> Bytes {
    let get = import("secret", "get", "(param i32 i32 i32)");
    let fields = format!(r#"{get} (data (i32.const 128) "token") (data (i32.const 160) "hunter2-")"#);
    let body = "(local $at i32)
        (local.set $at (i32.const 168))
        (loop $next
            (if (i64.eq (i64.load (local.get $at)) (i64.load (i32.const 160))) (then (unreachable)))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $next (i32.lt_u (local.get $at) (i32.const 1048576))))
        (call $get (i32.const 128) (i32.const 5) (i32.const 256))
        (if (i32.load8_u (i32.const 256))
            (then (memory.copy (i32.const 524288) (i32.load (i32.const 260)) (i32.load (i32.const 264)))))
        (i32.store8 (i32.const 8) (i32.const 0))
        (i32.store8 (i32.const 12) (i32.load8_u (i32.const 256)))
        (i32.const 8)";
    filter(&fields, body)
}

#[tokio::test]
async fn one_tenants_secrets_are_out_of_anothers_reach_even_with_the_same_plugin() {
    let sandbox = Sandbox::with(|config| (config.threads, config.long_threads) = (1, 1));
    let version = sandbox.add(curious());
    let of = |tenant, secret: Option<&'static str>| {
        let mut secrets = Secrets::default();
        if let Some(secret) = secret {
            secrets.insert("token".into(), Bytes::from_static(secret.as_bytes()), Access::Read);
        }
        Call { tenant: TenantId(tenant), secrets: Arc::new(secrets), ..call(version, "{}") }
    };
    for round in 0..5 {
        let mine = sandbox.runtime.filter(of(1, Some("hunter2-of-tenant-1"))).await;
        assert!(mine.result.unwrap(), "round {round}: its own secret is handed over");
        let other = sandbox.runtime.filter(of(2, None)).await;
        assert!(!other.result.unwrap(), "round {round}: no secret of that name, and none left in memory");
    }
}

/// Keeps an event exactly if its configuration is one byte long.
#[tokio::test]
async fn each_call_has_the_configuration_of_its_own_connection() {
    let fields = import("config", "get", "(param i32)");
    let body = "(call $get (i32.const 256)) (i32.store8 (i32.const 8) (i32.const 0))
        (i32.store8 (i32.const 12) (i32.eq (i32.load (i32.const 260)) (i32.const 1))) (i32.const 8)";
    let sandbox = Sandbox::with(|config| (config.threads, config.long_threads) = (1, 1));
    let version = sandbox.add(filter(&fields, body));
    for (tenant, config, kept) in [(1, "1", true), (2, "{}", false), (1, "2", true), (3, "[1, 2]", false)] {
        let call = Call { tenant: TenantId(tenant), config: config.into(), ..call(version, "{}") };
        assert_eq!(sandbox.runtime.filter(call).await.result.unwrap(), kept, "{config}");
    }
}
