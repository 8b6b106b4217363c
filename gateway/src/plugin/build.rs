//! Making a component of the core module that a guest compiler gives. Used on the author's machine: the gateway itself takes
//! components only.
//!
//! A module of the Rust SDK says itself which world it is for. Of others, as Go's, that is read from the names of their exports; and what
//! they want of WASI is given to them by a stand-in.

use std::fmt::Display;

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::screen::Interface;

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
    if !outside.says_its_world && !outside.offers.is_empty() {
        let exports: String = outside.offers.iter().map(|interface| format!("export {}; ", interface.as_str())).collect();
        embed(&mut module, &format!("{WIT}\nworld built {{ include host; {exports}}}\n"), "built")?;
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module).map_err(refused)?;
    if outside.wasi {
        let mut stands_in = wat::parse_str(WASI_STANDS_IN).map_err(refused)?;
        embed(&mut stands_in, WIT, "host")?;
        encoder = encoder.adapter(WASI, &stands_in).map_err(refused)?;
    }
    encoder.encode().map_err(refused)
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refused(error: impl Display) -> BuildError {
    BuildError::Encode(format!("{error:#}"))
}

/// Says in a module which world it is for.
fn embed(module: &mut Vec<u8>, wit: &str, world: &str) -> Result<(), BuildError> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", wit).map_err(refused)?;
    let world = resolve.select_world(&[package], Some(world)).map_err(refused)?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8).map_err(refused)
}

/// What a module shows.
#[derive(Default)]
struct Outside {
    says_its_world: bool,
    offers: Vec<Interface>,
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
                        found.offers.extend(interface(name));
                    }
                }
                Payload::CustomSection(section) => found.says_its_world |= section.name().starts_with("component-type"),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The interface that an export's name begins with: `tidegate:plugin/filter@1.1.0#keep`.
fn interface(export: &str) -> Option<Interface> {
    let (name, _) = export.strip_prefix("tidegate:plugin/")?.split_once('@')?;
    Interface::ALL.into_iter().find(|interface| interface.as_str() == name)
}
