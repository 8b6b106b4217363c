//! What attackers send: plugins that use up all that they may, and components that are dear to compile.

use bytes::Bytes;

use super::error::BenchError;
use crate::plugin::build::componentize;

/// A plugin that attacks with each event.
pub(super) struct Runner {
    pub(super) name: &'static str,
    pub(super) component: Bytes,
}

/// A filter's `keep` with this body, which may use `$set` of `kv`.
fn filter(body: &str) -> Result<Bytes, BenchError> {
    // Allocations go up from 64 KiB and are never freed.
    let text = format!(
        r#"(module
            (import "tidegate:plugin/kv@1.1.0" "set" (func $set (param i32 i32 i32 i32 i32 i32 i32)))
            (memory (export "memory") 4)
            (global $free (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.set $free (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            (func (export "tidegate:plugin/filter@1.1.0#keep")
                (param i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                {body}))"#
    );
    let component = componentize(&parsed(&text)?);
    component.map(Bytes::from).map_err(|error| BenchError::Plugin(error.to_string()))
}

fn parsed(text: &str) -> Result<Vec<u8>, BenchError> {
    wat::parse_str(text).map_err(|error| BenchError::Plugin(error.to_string()))
}

/// One that burns its fuel, one that takes all the memory and writes to it, and one that fills its table as often as it may.
pub(super) fn runners() -> Result<[Runner; 3], BenchError> {
    let burns = "(loop (br 0)) (unreachable)";
    let grows = "(loop
            (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
            (memory.fill (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1048576)) (i32.const 90) (i32.const 1048576))
            (br 0))
        (unreachable)";
    // The keys `0` to `O`, with the largest value, for a minute. An answer at 8: drop.
    let tables = "(local.set 0 (i32.const 48))
        (loop
            (i32.store8 (i32.const 32) (local.get 0))
            (call $set (i32.const 32) (i32.const 1) (i32.const 131072) (i32.const 65536) (i32.const 1) (i32.const 60) (i32.const 64))
            (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 80))))
        (i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 0)) (i32.const 8)";
    let runner = |name, body| filter(body).map(|component| Runner { name, component });
    Ok([runner("burns", burns)?, runner("grows", grows)?, runner("fills-tables", tables)?])
}

/// Components that pass the screening, take seconds to compile, and are refused then: their filter has the wrong type.
pub(super) fn bombs() -> Result<[Bytes; 2], BenchError> {
    let bomb = |fields: &str| -> Result<Bytes, BenchError> {
        let text = format!(
            r#"(component (core module {fields})
                (core module $m (func (export "keep") (result i32) (i32.const 1)))
                (core instance $i (instantiate $m))
                (func $keep (result bool) (canon lift (core func $i "keep")))
                (instance $filter (export "keep" (func $keep)))
                (export "tidegate:plugin/filter@1.0.0" (instance $filter)))"#
        );
        Ok(parsed(&text)?.into())
    };
    let wide_table = format!("(func (param i32) (block (br_table {} (local.get 0))))", "0 ".repeat(60_000));
    Ok([bomb(&"(func)".repeat(45_000))?, bomb(&wide_table.repeat(20))?])
}
