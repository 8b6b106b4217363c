//! Making a component of the core module that a guest compiler gives. Used on the author's machine: the gateway itself takes
//! components only.
//!
//! A module of the Rust SDK says itself which world it is for. Of others, as Go's, that is read from the names of their exports; and what
//! they want of WASI is given to them by a stand-in.

use std::fmt::Display;

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const WIT: &str = include_str!("../../../sdk/wit/plugin.wit");
const WASI: &str = "wasi_snapshot_preview1";
const WASI_STANDS_IN: &str = include_str!("build/wasi.wat");

/// A module that cannot become a component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The bytes are a component.
    #[error("this is a component already: push it as it is")]
    AlreadyComponent,
    /// The bytes are not WebAssembly.
    #[error("this is not a WebAssembly module (it must begin with `\\0asm`)")]
    NotWasm,
    /// The encoder refused.
    #[error("the module cannot become a component: {0}; was it built with an SDK, which exports what the gateway calls?")]
    Encode(String),
}

/// Makes a component of a core module that was built with an SDK.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    if Parser::is_component(module) {
        return Err(BuildError::AlreadyComponent);
    }
    if !Parser::is_core_wasm(module) {
        return Err(BuildError::NotWasm);
    }
    let outside = Outside::of(module)?;
    let mut module = module.to_vec();
    if let Some(world) = outside.world() {
        embed(&mut module, world)?;
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module).map_err(refused)?;
    if outside.wasi {
        let mut stands_in = wat::parse_str(WASI_STANDS_IN).map_err(refused)?;
        embed(&mut stands_in, "host")?;
        encoder = encoder.adapter(WASI, &stands_in).map_err(refused)?;
    }
    encoder.encode().map_err(refused)
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refused(error: impl Display) -> BuildError {
    BuildError::Encode(format!("{error:#}"))
}

/// Says in a module which world it is for.
fn embed(module: &mut Vec<u8>, world: &str) -> Result<(), BuildError> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", WIT).map_err(refused)?;
    let world = resolve.select_world(&[package], Some(world)).map_err(refused)?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8).map_err(refused)
}

/// What a module shows.
#[derive(Default)]
struct Outside {
    says_its_world: bool,
    filter: bool,
    transform: bool,
    wasi: bool,
}

impl Outside {
    fn of(module: &[u8]) -> Result<Self, BuildError> {
        let mut found = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(refused)? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        found.wasi |= import.map_err(refused)?.module == WASI;
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let name = export.map_err(refused)?.name;
                        found.filter |= name.starts_with("tidegate:plugin/filter@");
                        found.transform |= name.starts_with("tidegate:plugin/transform@");
                    }
                }
                Payload::CustomSection(section) => found.says_its_world |= section.name().starts_with("component-type"),
                _ => {}
            }
        }
        Ok(found)
    }

    /// The world that must be said for it.
    fn world(&self) -> Option<&'static str> {
        match (self.says_its_world, self.filter, self.transform) {
            (false, true, true) => Some("plugin"),
            (false, true, false) => Some("filter-plugin"),
            (false, false, true) => Some("transform-plugin"),
            _ => None,
        }
    }
}
