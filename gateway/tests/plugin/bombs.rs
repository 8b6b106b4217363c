//! Components that are small to send and dear to compile: deep, wide, many times expanded.

use std::fmt::Write;

use bytes::Bytes;

use crate::guest::wat;

/// A component, and how its upload ends.
pub(crate) struct Bomb {
    pub(crate) name: &'static str,
    pub(crate) component: Bytes,
    /// The error's code.
    pub(crate) code: &'static str,
    /// What the error must name: a limit, or a part of its reason.
    pub(crate) names: &'static str,
}

/// One bomb of each known kind. Those that end with `wrong_type` were compiled within the limits: the rest of them is a filter of the wrong
/// type, so that none is ever run.
pub(crate) fn all() -> Vec<Bomb> {
    let bomb = |name, component, code, names| Bomb { name, component, code, names };
    vec![
        bomb("nested", nested(24), "too_complex", "nesting"),
        bomb("expanded", flat(24), "too_complex", "instances"),
        bomb("many functions", many_functions(50_000), "too_complex", "functions"),
        bomb("fewer functions", many_functions(5_000), "wrong_type", "filter"),
        bomb("branch tables", wide_tables(20), "wrong_type", "filter"),
        bomb("live ranges", live_ranges(), "wrong_type", "filter"),
        bomb("one large function", exporting_a_filter(&core(&wide_table(1_100_000))), "too_complex", "function_bytes"),
        bomb("lowered functions", lowered(50_001), "too_complex", "functions"),
        bomb("many types", exporting_a_filter(&core(&distinct_types(20_001))), "too_complex", "types"),
        bomb("nested types", nested_types(200_000), "too_complex", "type_nesting"),
        bomb("deep types", exporting_a_filter(&deep_type(1_000)), "invalid_component", "nesting is too deep"),
        bomb("doubled types", exporting_a_filter(&doubled_type(40)), "invalid_component", "type size"),
        bomb("many exports", exporting_a_filter(&core(&exports(50_001))), "too_complex", "externs"),
        bomb("many globals", exporting_a_filter(&core(&"(global i32 (i32.const 0))".repeat(10_001))), "too_complex", "globals"),
        bomb("many elements", exporting_a_filter(&core(&elements(100_001))), "too_complex", "elements"),
        bomb("many segments", exporting_a_filter(&core(&r#"(data "")"#.repeat(100_001))), "too_complex", "segments"),
        bomb("many instances", exporting_a_filter(&instances_with("", 64)), "unloadable", "core module instances"),
        bomb("many memories", exporting_a_filter(&instances_with("(memory 1) (memory 1)", 1)), "unloadable", "memories"),
        bomb("many tables", exporting_a_filter(&instances_with(&"(table 1 funcref)".repeat(5), 1)), "unloadable", "tables"),
        bomb("a large table", exporting_a_filter(&instances_with("(table 50001 funcref)", 1)), "unloadable", "table"),
        bomb("much memory", exporting_a_filter(&instances_with("(memory 600)", 2)), "instantiation_failed", "67108864"),
    ]
}

/// A component that exports a filter of the wrong type, and whatever else.
pub(crate) fn exporting_a_filter(fields: &str) -> Bytes {
    wat(&format!(
        r#"(component {fields}
            (core module $m (func (export "keep") (result i32) (i32.const 1)))
            (core instance $i (instantiate $m))
            (func $keep (result bool) (canon lift (core func $i "keep")))
            (instance $filter (export "keep" (func $keep)))
            (export "tidegate:plugin/filter@1.0.0" (instance $filter)))"#
    ))
}

/// Levels of components, each instantiating the one inside it twice: 2^levels instances of about 50 bytes a level.
pub(crate) fn nested(levels: u32) -> Bytes {
    let mut text = String::from("(component $c0 (core module $m) (core instance (instantiate $m)))");
    for level in 1..levels {
        let inner = level - 1;
        text = format!("(component $c{level} {text} (instance (instantiate $c{inner})) (instance (instantiate $c{inner})))");
    }
    wat(&text)
}

/// The same without nesting: each component takes the one before it from outside.
pub(crate) fn flat(levels: u32) -> Bytes {
    let mut text = String::from("(component (component $c0 (core module $m) (core instance (instantiate $m)))");
    for level in 1..levels {
        let before = level - 1;
        let twice = "(instance (instantiate $a)) (instance (instantiate $a))";
        write!(text, "(component $c{level} (alias outer 1 $c{before} (component $a)) {twice})").unwrap();
    }
    write!(text, "(instance (instantiate $c{})))", levels - 1).unwrap();
    wat(&text)
}

/// Functions that do nothing.
pub(crate) fn many_functions(count: usize) -> Bytes {
    exporting_a_filter(&core(&"(func)".repeat(count)))
}

/// Functions that are one wide branch table each.
pub(crate) fn wide_tables(functions: usize) -> Bytes {
    exporting_a_filter(&core(&wide_table(60_000).repeat(functions)))
}

fn wide_table(targets: usize) -> String {
    format!("(func (param i32) (block (br_table {} (local.get 0))))", "0 ".repeat(targets))
}

/// Thousands of values that are all alive at once, over thousands of branches.
fn live_ranges() -> Bytes {
    const VALUES: usize = 1_500;
    let mut body = String::new();
    for value in 0..VALUES {
        write!(body, "(local.set {value} (i32.load offset={value} (i32.const 0)))").unwrap();
    }
    for value in 0..VALUES {
        let other = value * 7 % VALUES;
        write!(body, "(if (local.get {other}) (then (local.set {value} (i32.add (local.get {value}) (local.get {other})))))")
            .unwrap();
    }
    for value in 0..VALUES {
        write!(body, "(i32.store offset={value} (i32.const 0) (local.get {value}))").unwrap();
    }
    exporting_a_filter(&core(&format!("(memory 1) (func (local {}) {body})", "i32 ".repeat(VALUES))))
}

/// One function of the component, handed to its modules again and again.
fn lowered(times: usize) -> Bytes {
    let lift =
        r#"(core module $n (func (export "f"))) (core instance $n (instantiate $n)) (func $f (canon lift (core func $n "f")))"#;
    exporting_a_filter(&format!("{lift} {}", "(core func (canon lower (func $f)))".repeat(times)))
}

fn distinct_types(count: usize) -> String {
    "(type (func (param i32 i64) (result f32)))".repeat(count)
}

/// A type that declares an instance, that declares an instance, and so on. No text format would take it.
pub(crate) fn nested_types(levels: usize) -> Bytes {
    // A section with one type: an instance with one declaration, a type, which is an instance with one declaration, and so on.
    let mut section = vec![1];
    section.extend([0x42, 1, 1].repeat(levels));
    section.extend([0x42, 0]);
    let mut component = wat("(component)").to_vec();
    component.push(7);
    let mut length = section.len();
    while length >= 0x80 {
        component.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    component.push(length as u8);
    component.extend(section);
    component.into()
}

/// A list of lists of lists.
pub(crate) fn deep_type(levels: usize) -> String {
    let lists: String = (1..levels).map(|level| format!("(type $t{level} (list $t{}))", level - 1)).collect();
    format!("(type $t0 (list u8)) {lists}")
}

/// A pair of pairs of pairs: 2^levels values.
fn doubled_type(levels: usize) -> String {
    let pairs: String = (1..levels).map(|level| format!("(type $t{level} (tuple $t{0} $t{0}))", level - 1)).collect();
    format!("(type $t0 (tuple u8 u8)) {pairs}")
}

fn exports(count: usize) -> String {
    let exports: String = (0..count).map(|number| format!(r#"(export "{number}" (func 0))"#)).collect();
    format!("(func) {exports}")
}

fn elements(count: usize) -> String {
    format!("(func) (elem func {})", "0 ".repeat(count))
}

fn instances_with(fields: &str, count: usize) -> String {
    format!("(core module $n {fields}) {}", "(core instance (instantiate $n))".repeat(count))
}

fn core(fields: &str) -> String {
    format!("(core module {fields})")
}
