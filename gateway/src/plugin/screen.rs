//! A look at a component before any compiler sees it: what it is, what it asks for, what it offers, and how large it is once
//! nested components are expanded. A component of 1.3 KB can expand to millions of instances and keep a compiler busy for
//! minutes; counting them takes microseconds. Nothing here grows faster than the bytes, or goes deeper than a limit says.

mod types;

use std::collections::BTreeSet;

use serde::Deserialize;
use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, ElementItems, Encoding,
    Instance, Parser, Payload,
};

use super::error::Refusal;
use super::limits::CompileLimits;
use types::Types;

/// Where our interfaces live.
const PACKAGE: &str = "tidegate:plugin/";
/// What the host offers, and the minor version up to which guests are served.
const HOST: [&str; 9] = ["types", "log", "config", "secret", "clock", "random", "hmac", "exchange", "kv"];
const OFFERED: &str = "1.1";
const OFFERED_MAJOR: u64 = 1;
const OFFERED_MINOR: u64 = 1;

/// What a component is, from its outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Screen {
    /// Names of its imports.
    pub imports: Vec<String>,
    /// Names of its exports.
    pub exports: Vec<String>,
    /// Core modules.
    pub modules: u64,
    /// Functions in all modules, and those that pass values between them.
    pub functions: u64,
    /// Instances after every nested component is expanded.
    pub instances: u64,
    /// Bytes of data segments in all modules.
    pub data: u64,
    /// The interfaces that it offers.
    pub offers: BTreeSet<Interface>,
}

/// What a plugin can offer: an interface of `sdk/wit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    /// Takes an event or drops it.
    Filter,
    /// Makes zero, one or many requests of an event.
    Transform,
    /// Checks a source's requests.
    Verify,
    /// Answers requests that are no events.
    Respond,
    /// Signs attempts.
    Sign,
    /// Says what a destination's answer means.
    Judge,
}

impl Interface {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Filter, Self::Transform, Self::Verify, Self::Respond, Self::Sign, Self::Judge];

    /// Its name in `sdk/wit`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Transform => "transform",
            Self::Verify => "verify",
            Self::Respond => "respond",
            Self::Sign => "sign",
            Self::Judge => "judge",
        }
    }

    /// The interface that an export offers: `tidegate:plugin/filter@1.0.0` gives the filter.
    pub fn of_export(export: &str) -> Option<Self> {
        let (name, _) = interface(export)?;
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

/// Looks at a component, and refuses what need not be compiled to be refused.
pub fn screen(bytes: &[u8], limits: &CompileLimits) -> Result<Screen, Refusal> {
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(Refusal::Precompiled);
    }
    if Parser::is_core_wasm(bytes) {
        return Err(Refusal::CoreModule);
    }
    if !Parser::is_component(bytes) {
        return Err(Refusal::NotWasm);
    }
    within("component_bytes", bytes.len() as u64, limits.component_bytes as u64)?;
    let mut walk = Walk { bytes, limits, frames: Vec::new(), found: Screen::default(), counts: Counts::default() };
    for payload in Parser::new(0).parse_all(bytes) {
        walk.payload(payload.map_err(invalid)?)?;
    }
    let mut found = walk.found;
    check_imports(&found.imports)?;
    for export in &found.exports {
        if let Some((interface, (_, version))) = Interface::of_export(export).zip(interface(export)) {
            supported(export, version)?;
            found.offers.insert(interface);
        }
    }
    if found.offers.is_empty() {
        return Err(Refusal::MissingExport);
    }
    Ok(found)
}

/// One component or module that is being read.
#[derive(Default)]
struct Frame {
    module: bool,
    /// For each component in its index space, how many instances one instantiation makes.
    components: Vec<u64>,
    /// How many instances an instantiation of this one makes.
    instances: u64,
}

struct Walk<'a> {
    bytes: &'a [u8],
    limits: &'a CompileLimits,
    frames: Vec<Frame>,
    found: Screen,
    counts: Counts,
}

/// What is counted and not told.
#[derive(Default)]
struct Counts {
    segments: u64,
    elements: u64,
    globals: u64,
    types: Types,
}

impl Walk<'_> {
    fn payload(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::Version { encoding, .. } => self.open(encoding),
            Payload::End(_) => self.close(),
            Payload::CodeSectionStart { count, .. } => self.functions(count),
            Payload::CodeSectionEntry(body) => within("function_bytes", body.as_bytes().len() as u64, self.limits.function_bytes),
            Payload::TypeSection(section) => section
                .into_iter()
                .try_for_each(|group| self.counts.types.types(group.map_err(invalid)?.types().len() as u64, self.limits)),
            Payload::ImportSection(section) => section.into_imports().try_for_each(|import| {
                import.map_err(invalid)?;
                self.externs(1)
            }),
            Payload::ExportSection(section) => self.externs(section.count()),
            Payload::GlobalSection(section) => self.globals(section.count()),
            Payload::TableSection(section) => self.globals(section.count()),
            Payload::MemorySection(section) => self.globals(section.count()),
            Payload::TagSection(section) => self.globals(section.count()),
            Payload::DataSection(section) => {
                self.found.data += section.range().len() as u64;
                self.segments(section.count())
            }
            Payload::ElementSection(section) => {
                self.segments(section.count())?;
                section.into_iter().try_for_each(|element| match element.map_err(invalid)?.items {
                    ElementItems::Functions(items) => self.elements(items.count()),
                    ElementItems::Expressions(_, items) => self.elements(items.count()),
                })
            }
            component => self.component_payload(component),
        }
    }

    fn component_payload(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::InstanceSection(section) => {
                for instance in section {
                    match instance.map_err(invalid)? {
                        Instance::Instantiate { .. } => self.instantiate(1)?,
                        Instance::FromExports(exports) => self.externs(exports.len() as u32)?,
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    match instance.map_err(invalid)? {
                        ComponentInstance::Instantiate { component_index, .. } => {
                            let cost = self.cost(0, component_index)?;
                            self.instantiate(cost.saturating_add(1))?;
                        }
                        ComponentInstance::FromExports(exports) => self.externs(exports.len() as u32)?,
                    }
                }
            }
            Payload::CoreTypeSection(section) => {
                for declared in section {
                    self.counts.types.core(&declared.map_err(invalid)?, self.limits)?;
                }
            }
            Payload::ComponentTypeSection(section) => {
                let range = section.range();
                let Some(bytes) = self.bytes.get(range.clone()) else {
                    return Err(Refusal::Invalid("a section beyond the end".into()));
                };
                self.counts.types.section(bytes, range.start, self.limits)?;
            }
            // Each is a function that wasmtime makes.
            Payload::ComponentCanonicalSection(section) => self.functions(section.count())?,
            Payload::ComponentAliasSection(section) => {
                self.externs(section.count())?;
                for alias in section {
                    self.alias(alias.map_err(invalid)?)?;
                }
            }
            Payload::ComponentImportSection(section) => {
                self.externs(section.count())?;
                for import in section {
                    let import = import.map_err(invalid)?;
                    match import.ty {
                        ComponentTypeRef::Component(_) => return Err(Refusal::Opaque("imports a component")),
                        ComponentTypeRef::Module(_) => return Err(Refusal::Opaque("imports a core module")),
                        _ if self.frames.len() == 1 => self.found.imports.push(import.name.name.to_owned()),
                        _ => {}
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                self.externs(section.count())?;
                for export in section {
                    let export = export.map_err(invalid)?;
                    if export.kind == ComponentExternalKind::Component {
                        return Err(Refusal::Opaque("exports a component"));
                    }
                    if self.frames.len() == 1 {
                        self.found.exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn functions(&mut self, count: u32) -> Result<(), Refusal> {
        self.found.functions += u64::from(count);
        within("functions", self.found.functions, self.limits.functions)
    }

    fn externs(&mut self, count: u32) -> Result<(), Refusal> {
        self.counts.types.externs(u64::from(count), self.limits)
    }

    fn globals(&mut self, count: u32) -> Result<(), Refusal> {
        self.counts.globals += u64::from(count);
        within("globals", self.counts.globals, self.limits.globals)
    }

    fn elements(&mut self, count: u32) -> Result<(), Refusal> {
        self.counts.elements += u64::from(count);
        within("elements", self.counts.elements, self.limits.elements)
    }

    fn open(&mut self, encoding: Encoding) -> Result<(), Refusal> {
        let module = encoding == Encoding::Module;
        if module {
            self.found.modules += 1;
            within("modules", self.found.modules, self.limits.modules)?;
        }
        self.frames.push(Frame { module, ..Frame::default() });
        within("nesting", self.frames.len() as u64 - 1, self.limits.nesting)
    }

    fn close(&mut self) -> Result<(), Refusal> {
        let Some(frame) = self.frames.pop() else { return Err(Refusal::Invalid("an end without a beginning".into())) };
        match self.frames.last_mut() {
            Some(parent) if !frame.module => parent.components.push(frame.instances),
            Some(_) => {}
            None => self.found.instances = frame.instances,
        }
        Ok(())
    }

    fn segments(&mut self, count: u32) -> Result<(), Refusal> {
        self.counts.segments += u64::from(count);
        within("segments", self.counts.segments, self.limits.segments)
    }

    fn instantiate(&mut self, instances: u64) -> Result<(), Refusal> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        frame.instances = frame.instances.saturating_add(instances);
        within("instances", frame.instances, self.limits.instances)
    }

    /// What one instantiation of a component costs; `outer` counts enclosing components.
    fn cost(&self, outer: u32, index: u32) -> Result<u64, Refusal> {
        let depth = self.frames.len().checked_sub(1 + outer as usize);
        let frame = depth.and_then(|depth| self.frames.get(depth));
        let cost = frame.and_then(|frame| frame.components.get(index as usize));
        cost.copied().ok_or_else(|| Refusal::Invalid(format!("unknown component {index}")))
    }

    fn alias(&mut self, alias: ComponentAlias<'_>) -> Result<(), Refusal> {
        match alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                Err(Refusal::Opaque("takes a component out of an instance"))
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                let cost = self.cost(count, index)?;
                if let Some(frame) = self.frames.last_mut() {
                    frame.components.push(cost);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn check_imports(imports: &[String]) -> Result<(), Refusal> {
    for name in imports {
        match interface(name) {
            Some((interface, version)) if HOST.contains(&interface) => supported(name, version)?,
            _ => return Err(Refusal::ForeignImport { name: name.clone(), mend: mend(name) }),
        }
    }
    Ok(())
}

fn mend(name: &str) -> &'static str {
    if name.starts_with("wasi:") {
        "build without WASI (Rust: the target wasm32-unknown-unknown; other languages: the build command of their SDK)"
    } else if name.starts_with(PACKAGE) {
        "this interface is not in sdk/wit"
    } else {
        "plugins may import only what sdk/wit lists: log, config, secret, clock, random, hmac, kv"
    }
}

/// The interface and version of one of our names: `tidegate:plugin/log@1.0.0` gives `log` and `1.0.0`.
fn interface(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

fn supported(name: &str, version: &str) -> Result<(), Refusal> {
    let mut numbers = version.split('.').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(OFFERED_MAJOR)), Some(Ok(minor))) if (0..=OFFERED_MINOR).contains(&minor) => Ok(()),
        _ => Err(Refusal::NewerInterface { name: name.to_owned(), offered: OFFERED }),
    }
}

fn invalid(error: wasmparser::BinaryReaderError) -> Refusal {
    Refusal::Invalid(error.to_string())
}

fn within(limit: &'static str, value: u64, max: u64) -> Result<(), Refusal> {
    if value <= max {
        return Ok(());
    }
    let mend = match limit {
        "component_bytes" => "strip debug information and optimise for size",
        "nesting" | "instances" | "type_nesting" => "build with `tidegate plugin build`, which nests nothing",
        _ => "make the component smaller, or split the work over two plugins",
    };
    Err(Refusal::TooComplex { limit, value, max, mend })
}
