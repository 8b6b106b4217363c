//! Making a component of the core module that a guest compiler gives. Used on the author's machine: the gateway itself takes
//! components only.

use wit_component::ComponentEncoder;

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
    #[error("the module cannot become a component: {0}; was it built for wasm32-unknown-unknown, with the SDK's `export!`?")]
    Encode(String),
}

/// Makes a component of a core module that carries the component's type, as modules built with the SDKs do.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    if wasmparser::Parser::is_component(module) {
        return Err(BuildError::AlreadyComponent);
    }
    if !wasmparser::Parser::is_core_wasm(module) {
        return Err(BuildError::NotWasm);
    }
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| BuildError::Encode(format!("{error:#}")))
}
