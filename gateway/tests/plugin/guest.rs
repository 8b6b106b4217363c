//! Guests written by hand, in the text format: what no compiler would make.

use bytes::Bytes;
use tidegate::plugin::build::componentize;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// How an event arrives: id, time, method, path, query, headers, body, attributes, flattened.
const EVENT: &str = "(param i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)";

/// A filter whose `keep` has this body (it gives the address of its answer), beside these other fields of its module.
pub(crate) fn filter(fields: &str, body: &str) -> Bytes {
    guest("filter-plugin", ("filter@1.1.0#keep", EVENT), fields, body)
}

/// A transform, in the same manner.
pub(crate) fn transform(fields: &str, body: &str) -> Bytes {
    guest("transform-plugin", ("transform@1.1.0#run", EVENT), fields, body)
}

/// Imports a host function under `$name`.
pub(crate) fn import(interface: &str, name: &str, signature: &str) -> String {
    format!(r#"(import "tidegate:plugin/{interface}@1.1.0" "{name}" (func ${name} {signature}))"#)
}

/// Compiles the text format.
pub(crate) fn wat(text: &str) -> Bytes {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}")).into()
}

/// A plugin of this world, whose one function is exported under a name with these parameters.
pub(crate) fn guest(world: &str, (export, parameters): (&str, &str), fields: &str, body: &str) -> Bytes {
    // Imports come first in a module; the fields may begin with them. Allocations go up from 64 KiB and are never freed.
    let text = format!(
        r#"(module
            {fields}
            (memory (export "memory") 256)
            (global $free (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.set $free (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            (func $main (export "tidegate:plugin/{export}") {parameters} (result i32)
                {body}))"#
    );
    let mut module = wat(&text).to_vec();
    let mut resolve = Resolve::default();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/wit");
    let (package, _) = resolve.push_path(wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    componentize(&module).unwrap_or_else(|error| panic!("{error}")).into()
}
