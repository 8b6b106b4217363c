//! What a guest can ask of the gateway, and what keeps it from asking too much. Every call is counted and charged as fuel
//! before its work is done.

mod kv;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ring::{digest, hmac};
use wasmtime::component::{ComponentType, Lift, Linker, WasmList, WasmStr};
use wasmtime::{Engine, ResourceLimiter, StoreContextMut, UpdateDeadline};

use super::call::Call;
use super::error::Stop;
use super::limits::{CORE_INSTANCES, HOST_CALL_FUEL, Limits, MEMORIES, RANDOM_BYTES, TABLES};
use super::pool;
use crate::clock::Timestamp;
use crate::event::EventId;

/// Secrets that a connection hands to a plugin, by name. Never part of an event; never shown.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, Secret>);

#[derive(Clone)]
struct Secret {
    value: Bytes,
    access: Access,
}

/// What a plugin may do with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it, and sign with it.
    Read,
    /// Sign with it; the value stays on the host.
    Sign,
}

impl Secrets {
    /// Hands over a secret under a name.
    pub fn insert(&mut self, name: String, value: Bytes, access: Access) {
        self.0.insert(name, Secret { value, access });
    }
}

impl Secrets {
    /// `bytes` with the secrets' values replaced by their names, if there are any in it. Found are values of at least [`CONCEALED`] bytes as
    /// they are, and as a log shows them; what a plugin makes of a value can't be.
    pub(crate) fn conceal(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut values: Vec<(Vec<u8>, &str)> = Vec::new();
        for (name, secret) in self.0.iter().filter(|(_, secret)| secret.value.len() >= CONCEALED) {
            let logged = one_line(&String::from_utf8_lossy(&secret.value), usize::MAX).into_bytes();
            if logged != secret.value {
                values.push((logged, name));
            }
            values.push((secret.value.to_vec(), name));
        }
        // One may be a part of another.
        values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        let mut concealed: Option<Vec<u8>> = None;
        for (value, name) in values {
            let text = concealed.as_deref().unwrap_or(bytes);
            let places: Vec<usize> = memchr::memmem::find_iter(text, &value).collect();
            if places.is_empty() {
                continue;
            }
            let (mut shown, mut end) = (Vec::with_capacity(text.len()), 0);
            for place in places {
                shown.extend_from_slice(&text[end..place]);
                shown.extend_from_slice(format!("[secret {name}]").as_bytes());
                end = place + value.len();
            }
            shown.extend_from_slice(&text[end..]);
            concealed = Some(shown);
        }
        concealed
    }
}

/// The shortest value that is worth to be concealed.
const CONCEALED: usize = 4;

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What belongs to one call: its input for the host interfaces, its counters, its log.
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) accepted_at: Timestamp,
    pub(super) config: Arc<str>,
    pub(super) secrets: Arc<Secrets>,
    pub(super) usage: Usage,
    pub(super) log: Log,
    pub(super) table: kv::Asking,
    /// For how many more of them the call may run.
    pub(super) epochs: u64,
    host_calls: u32,
    random: Random,
}

impl State {
    pub(super) fn new(call: &Call) -> Self {
        let Call { event, accepted_at, config, secrets, limits, table, .. } = call;
        Self {
            limits: limits.clone(),
            accepted_at: *accepted_at,
            config: Arc::clone(config),
            secrets: Arc::clone(secrets),
            usage: Usage::new(limits),
            log: Log::default(),
            table: kv::Asking::new(table),
            epochs: 0,
            host_calls: 0,
            random: Random { event: *event, block: 0, left: Vec::new() },
        }
    }

    /// For another call of the same instance: everything is that call's own but what the instance has.
    pub(super) fn begin_again(&mut self, call: &Call) {
        let Usage { memory, tables, .. } = self.usage;
        *self = Self { usage: Usage { memory, tables, ..Usage::new(&call.limits) }, ..Self::new(call) };
    }

    /// Another [`EPOCH`](super::limits::EPOCH) has begun while the call runs.
    pub(super) fn epoch(&mut self) -> UpdateDeadline {
        let Some(left) = self.epochs.checked_sub(1) else { return UpdateDeadline::Interrupt };
        self.epochs = left;
        pool::still_running();
        UpdateDeadline::Continue(1)
    }

    /// Lets go of what a call that has ended no longer needs.
    pub(super) fn rest(&mut self) {
        self.random.left = Vec::new();
    }
}

/// Memory and tables, summed over all of the instance. Neither shrinks while an instance lives: the sum is the peak.
pub(super) struct Usage {
    pub(super) memory: usize,
    /// What memories took that was not there from the start.
    pub(super) grown: usize,
    max_memory: usize,
    tables: usize,
    max_tables: usize,
}

impl Usage {
    fn new(limits: &Limits) -> Self {
        Self { memory: 0, grown: 0, max_memory: limits.memory, tables: 0, max_tables: limits.table_elements }
    }

    /// What the instance takes at the most.
    pub(super) fn bytes(&self) -> usize {
        self.memory.saturating_add(self.tables.saturating_mul(size_of::<usize>()))
    }
}

impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let memory = self.memory.saturating_add(desired.saturating_sub(current));
        if memory > self.max_memory {
            return Err(Stop::Memory(self.max_memory).into());
        }
        self.memory = memory;
        if current > 0 {
            self.grown = self.grown.saturating_add(desired.saturating_sub(current));
        }
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let tables = self.tables.saturating_add(desired.saturating_sub(current));
        if tables > self.max_tables {
            return Err(Stop::Tables(self.max_tables).into());
        }
        self.tables = tables;
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

/// What the guest logged, up to the caps.
#[derive(Default)]
pub(super) struct Log {
    lines: Vec<String>,
    bytes: usize,
    written: usize,
}

impl Log {
    fn write(&mut self, level: Level, message: &str, limits: &Limits) {
        self.written += 1;
        let room = limits.log_bytes.saturating_sub(self.bytes);
        if self.lines.len() >= limits.log_lines || room == 0 {
            return;
        }
        let mut line = format!("{}: ", level.as_str());
        for c in message.chars() {
            if line.len() + c.len_utf8() > room {
                break;
            }
            line.push(if c.is_control() || is_format(c) { ' ' } else { c });
        }
        self.bytes += line.len();
        self.lines.push(line);
    }

    pub(super) fn into_lines(mut self) -> Vec<String> {
        let dropped = self.written - self.lines.len();
        if dropped > 0 {
            self.lines.push(format!("({dropped} more lines were not kept)"));
        }
        self.lines
    }
}

/// Characters that reorder or hide what a terminal shows.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text of a guest, fit to be shown on one line: control characters become spaces, at most `max` bytes.
pub(super) fn one_line(text: &str, max: usize) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if line.len() + c.len_utf8() > max {
            break;
        }
        line.push(if c.is_control() || is_format(c) { ' ' } else { c });
    }
    line
}

/// The same numbers for the same event, on every node and in every release: SHA-256 over the event's id and a counter.
struct Random {
    event: EventId,
    block: u64,
    left: Vec<u8>,
}

impl Random {
    fn take(&mut self, length: usize) -> Vec<u8> {
        while self.left.len() < length {
            let mut context = digest::Context::new(&digest::SHA256);
            context.update(b"tidegate random 1");
            context.update(&self.event.0.to_be_bytes());
            context.update(&self.block.to_be_bytes());
            self.block += 1;
            self.left.extend_from_slice(context.finish().as_ref());
        }
        let rest = self.left.split_off(length);
        std::mem::replace(&mut self.left, rest)
    }
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by lifting alone")]
enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by lifting alone")]
enum Algorithm {
    #[component(name = "sha1")]
    Sha1,
    #[component(name = "sha256")]
    Sha256,
    #[component(name = "sha512")]
    Sha512,
}

impl From<Algorithm> for hmac::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

/// All that exists for a guest.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.instance("tidegate:plugin/types@1.1.0")?;
    linker.instance("tidegate:plugin/log@1.1.0")?.func_wrap("write", write_log)?;
    linker.instance("tidegate:plugin/config@1.1.0")?.func_wrap("get", get_config)?;
    linker.instance("tidegate:plugin/secret@1.1.0")?.func_wrap("get", get_secret)?;
    linker.instance("tidegate:plugin/clock@1.1.0")?.func_wrap("now", now)?;
    let mut random = linker.instance("tidegate:plugin/random@1.1.0")?;
    random.func_wrap("bytes", random_bytes)?;
    random.func_wrap("number", random_number)?;
    let mut hmac = linker.instance("tidegate:plugin/hmac@1.1.0")?;
    hmac.func_wrap("sign", sign)?;
    hmac.func_wrap("verify", verify)?;
    linker.instance("tidegate:plugin/exchange@1.1.0")?;
    kv::link(&mut linker.instance("tidegate:plugin/kv@1.1.0")?)?;
    Ok(linker)
}

fn write_log(mut store: StoreContextMut<'_, State>, (level, message): (Level, WasmStr)) -> wasmtime::Result<()> {
    count(&mut store)?;
    let message = message.to_str(&store)?;
    let length = message.len() as u64;
    // What is beyond the cap is never kept: no need to carry it out of the guest's memory.
    let kept = one_line(&message, store.data().limits.log_bytes);
    charge(&mut store, length)?;
    let State { log, limits, .. } = store.data_mut();
    if log.written >= limits.log_flood {
        return Err(Stop::LogFlood(limits.log_flood).into());
    }
    log.write(level, &kept, limits);
    Ok(())
}

fn get_config(mut store: StoreContextMut<'_, State>, (): ()) -> wasmtime::Result<(Arc<str>,)> {
    count(&mut store)?;
    let config = Arc::clone(&store.data().config);
    charge(&mut store, config.len() as u64)?;
    Ok((config,))
}

fn get_secret(mut store: StoreContextMut<'_, State>, (name,): (WasmStr,)) -> wasmtime::Result<(Option<Vec<u8>>,)> {
    count(&mut store)?;
    let name = name.to_str(&store)?;
    let length = name.len();
    let secret = store.data().secrets.0.get(&*name).filter(|secret| secret.access == Access::Read);
    let value = secret.map(|secret| secret.value.to_vec());
    charge(&mut store, (length + value.as_ref().map_or(0, Vec::len)) as u64)?;
    Ok((value,))
}

fn now(mut store: StoreContextMut<'_, State>, (): ()) -> wasmtime::Result<(u64,)> {
    count(&mut store)?;
    Ok((store.data().accepted_at.0,))
}

fn random_bytes(mut store: StoreContextMut<'_, State>, (length,): (u32,)) -> wasmtime::Result<(Vec<u8>,)> {
    count(&mut store)?;
    if length > RANDOM_BYTES {
        return Err(Stop::Random(length).into());
    }
    // Made by hashing: dearer than a copy.
    charge(&mut store, u64::from(length) * 8)?;
    Ok((store.data_mut().random.take(length as usize),))
}

fn random_number(mut store: StoreContextMut<'_, State>, (): ()) -> wasmtime::Result<(u64,)> {
    count(&mut store)?;
    let bytes = store.data_mut().random.take(8);
    Ok((bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),))
}

fn sign(
    mut store: StoreContextMut<'_, State>,
    (algorithm, name, message): (Algorithm, WasmStr, WasmList<u8>),
) -> wasmtime::Result<(Option<Vec<u8>>,)> {
    let tag = keyed(&mut store, name, message, |secret, message| {
        hmac::sign(&hmac::Key::new(algorithm.into(), secret), message).as_ref().to_vec()
    })?;
    Ok((tag,))
}

fn verify(
    mut store: StoreContextMut<'_, State>,
    (algorithm, name, message, tag): (Algorithm, WasmStr, WasmList<u8>, WasmList<u8>),
) -> wasmtime::Result<(Option<bool>,)> {
    charge(&mut store, tag.len() as u64)?;
    let tag = tag.as_le_slice(&store).to_vec();
    let same = keyed(&mut store, name, message, |secret, message| {
        hmac::verify(&hmac::Key::new(algorithm.into(), secret), message, &tag).is_ok()
    })?;
    Ok((same,))
}

/// Works on a message with the secret of this name; nothing if there is none.
fn keyed<T>(
    store: &mut StoreContextMut<'_, State>,
    name: WasmStr,
    message: WasmList<u8>,
    work: impl FnOnce(&[u8], &[u8]) -> T,
) -> wasmtime::Result<Option<T>> {
    count(store)?;
    charge(store, 8 * message.len() as u64)?;
    let name = name.to_str(&*store)?;
    let length = name.len() as u64;
    let secret = store.data().secrets.0.get(&*name);
    let done = secret.map(|secret| work(&secret.value, message.as_le_slice(&*store)));
    charge(store, length)?;
    Ok(done)
}

fn count(store: &mut StoreContextMut<'_, State>) -> wasmtime::Result<()> {
    let state = store.data_mut();
    state.host_calls += 1;
    if state.host_calls > state.limits.host_calls {
        return Err(Stop::HostCalls(state.limits.host_calls).into());
    }
    charge(store, HOST_CALL_FUEL)
}

fn charge(store: &mut StoreContextMut<'_, State>, fuel: u64) -> wasmtime::Result<()> {
    match store.get_fuel()?.checked_sub(fuel) {
        Some(left) => store.set_fuel(left),
        None => {
            store.set_fuel(0)?;
            Err(Stop::Fuel(store.data().limits.fuel).into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

    use super::*;

    #[test]
    fn random_numbers_depend_on_the_event_alone_and_not_on_how_they_are_taken() {
        let random = |event| Random { event: EventId(event), block: 0, left: Vec::new() };
        let mut pieces = random(1);
        let taken = [pieces.take(5), pieces.take(60), pieces.take(0), pieces.take(35)].concat();
        assert_eq!(taken, random(1).take(100));
        assert_ne!(taken, random(2).take(100));
        assert_eq!(hex::encode(random(1).take(8)), "6d5038199a1727bf", "released: never changes");
    }

    #[test]
    fn logs_are_one_line_each_and_capped() {
        let limits = Limits { log_lines: 2, log_bytes: 20, ..Limits::default() };
        let mut log = Log::default();
        log.write(Level::Info, "a\u{1b}[2J\nb\u{202e}", &limits);
        log.write(Level::Warn, "0123456789", &limits);
        log.write(Level::Warn, "x", &limits);
        assert_eq!(log.into_lines(), ["info: a [2J b ", "warn: ", "(1 more lines were not kept)"]);
    }

    #[test]
    fn memory_and_tables_are_summed_over_the_instance() {
        let mut usage = Usage { memory: 0, grown: 0, max_memory: 100, tables: 0, max_tables: 10 };
        assert!(usage.memory_growing(0, 60, None).unwrap());
        assert!(usage.memory_growing(0, 40, None).unwrap(), "a second memory");
        let stop = usage.memory_growing(40, 41, None).unwrap_err();
        assert_eq!(stop.downcast_ref(), Some(&Stop::Memory(100)));
        assert!(usage.table_growing(0, 10, None).unwrap());
        assert!(usage.table_growing(0, 1, None).unwrap_err().is::<Stop>());
    }

    #[test]
    fn values_of_secrets_are_replaced_by_their_names() {
        let mut secrets = Secrets::default();
        for (name, value) in [("token", "hunter2"), ("long", "hunter2-and-more"), ("key", "first\nsecond"), ("short", "a")] {
            secrets.insert(name.into(), Bytes::from_static(value.as_bytes()), Access::Read);
        }
        let concealed = |text: &str| secrets.conceal(text.as_bytes()).map(|text| String::from_utf8(text).unwrap());
        assert_eq!(concealed("a hunter and nothing more"), None);
        let shown = concealed("hunter2hunter2-and-more, first\nsecond, first second").unwrap();
        assert_eq!(shown, "[secret token][secret long], [secret key], [secret key]");
    }

    #[test]
    fn secrets_do_not_show() {
        let mut secrets = Secrets::default();
        secrets.insert("token".into(), Bytes::from_static(b"hunter2"), Access::Read);
        assert_eq!(format!("{secrets:?}"), r#"{"token"}"#);
    }
}
