//! Compiled code on disk, and the only place that loads it.
//!
//! Loading compiled code is trusting it with the process. So: artifacts are made on this node, for this node, and never
//! leave it. Each is authenticated with a key that is made at random on first use and readable by its owner alone. The tag
//! covers the component's hash, the exact wasmtime release and settings, the processor, and every byte of the code. What is
//! verified is a sealed copy in memory that nobody can write to any more, and that very copy is what is loaded.
//!
//! File: 8 bytes of magic, 32 bytes of HMAC-SHA-256, the code. Named by component and settings. Anything that does not verify
//! is deleted and compiled anew.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::engine;
use super::error::PluginError;
use crate::event::VersionHash;

const MAGIC: &[u8; 8] = b"tdgart1\n";
const TAG: usize = 32;
const SEALING_TRIES: u32 = 40;
const SEALING_PAUSE: Duration = Duration::from_millis(25);

/// What became of a look for compiled code.
pub(super) enum Found {
    /// There is none that verifies.
    Nothing,
    /// It verified, and the engine does not take it.
    Unloadable(String),
    /// It is loaded; with its size.
    Component(Component, u64),
}

/// This node's compiled components.
pub(super) struct Artifacts {
    directory: PathBuf,
    key: hmac::Key,
    /// All that an artifact depends on besides its component.
    context: Vec<u8>,
    compatibility: u64,
    max_bytes: u64,
    max_total: u64,
}

impl Artifacts {
    /// Opens the directory, and makes it and its key on first use.
    pub(super) fn open(directory: &Path, engine: &Engine, max_bytes: u64, max_total: u64) -> Result<Self, PluginError> {
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |source| PluginError::Directory { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
        let path = directory.join("key");
        let key = load_or_make_key(&path).map_err(at(&path))?;
        let compatibility = engine::compatibility(engine);
        let mut context = compatibility.to_be_bytes().to_vec();
        context.extend_from_slice(std::env::consts::ARCH.as_bytes());
        context.extend_from_slice(processor().as_bytes());
        Ok(Self {
            directory: directory.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            context,
            compatibility,
            max_bytes,
            max_total,
        })
    }

    /// The compiled component, if this node has it. What can't be used is removed.
    pub(super) fn load(&self, engine: &Engine, version: VersionHash) -> io::Result<Found> {
        let path = self.path(version);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let Some((copy, size)) = self.verified(file, version)? else {
            tracing::warn!(%version, "a compiled plugin did not verify and is compiled anew");
            let _ = fs::remove_file(&path);
            return Ok(Found::Nothing);
        };
        match deserialize(engine, &copy) {
            Ok(component) => Ok(Found::Component(component, size)),
            Err(error) => {
                tracing::warn!(%version, %error, "a compiled plugin did not load");
                let _ = fs::remove_file(&path);
                Ok(Found::Unloadable(format!("{error:#}")))
            }
        }
    }

    /// Keeps a compiled component, which comes in pieces. The oldest go when the directory is over its limit.
    pub(super) fn store(&self, version: VersionHash, code: &[Bytes]) -> io::Result<()> {
        self.make_room(size(code))?;
        self.write(version, code)
    }

    /// Keeps one compiled component under many hashes.
    pub(super) fn store_all(&self, versions: &[VersionHash], code: &[Bytes]) -> io::Result<()> {
        self.make_room(size(code).saturating_mul(versions.len() as u64))?;
        versions.iter().try_for_each(|version| self.write(*version, code))
    }

    fn write(&self, version: VersionHash, code: &[Bytes]) -> io::Result<()> {
        let path = self.path(version);
        let unfinished = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let mut context = self.tag_context(version);
        code.iter().for_each(|piece| context.update(piece));
        file.write_all(MAGIC)?;
        file.write_all(context.sign().as_ref())?;
        code.iter().try_for_each(|piece| file.write_all(piece))?;
        fs::rename(&unfinished, &path)
    }

    fn path(&self, version: VersionHash) -> PathBuf {
        self.directory.join(format!("{version}-{:016x}.code", self.compatibility))
    }

    fn tag_context(&self, version: VersionHash) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(MAGIC);
        context.update(&version.0);
        context.update(&(self.context.len() as u64).to_be_bytes());
        context.update(&self.context);
        context
    }

    /// A sealed copy of the code whose tag is right, and its size.
    fn verified(&self, mut file: File, version: VersionHash) -> io::Result<Option<(File, u64)>> {
        let mut head = [0; MAGIC.len() + TAG];
        if file.read_exact(&mut head).is_err() || head[..MAGIC.len()] != MAGIC[..] {
            return Ok(None);
        }
        let (mut copy, size) = sealed_copy(file.take(self.max_bytes + 1))?;
        if size > self.max_bytes {
            return Ok(None);
        }
        let mut context = self.tag_context(version);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match copy.read(&mut buffer)? {
                0 => break,
                read => context.update(&buffer[..read]),
            }
        }
        let tag = context.sign();
        let same: bool = subtle::ConstantTimeEq::ct_eq(tag.as_ref(), &head[MAGIC.len()..]).into();
        Ok(same.then_some((copy, size)))
    }

    fn make_room(&self, needed: u64) -> io::Result<()> {
        let mut files = Vec::new();
        let mut total = needed;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let data = entry.metadata()?;
            if entry.path().extension().is_some_and(|extension| extension == "code") {
                total += data.len();
                files.push((data.modified()?, data.len(), entry.path()));
            }
        }
        files.sort();
        for (_, size, path) in files {
            if total <= self.max_total {
                break;
            }
            fs::remove_file(path)?;
            total -= size;
        }
        Ok(())
    }
}

fn size(code: &[Bytes]) -> u64 {
    code.iter().map(|piece| piece.len() as u64).sum()
}

/// A copy that can no longer change, at its beginning.
fn sealed_copy(mut code: impl Read) -> io::Result<(File, u64)> {
    let memory = memfd_create(c"tidegate-plugin", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    let size = io::copy(&mut code, &mut memory)?;
    seal(&memory)?;
    memory.seek(SeekFrom::Start(0))?;
    Ok((memory, size))
}

/// The kernel does not seal what somebody holds, and for some milliseconds after a large write it may itself hold pages of it.
fn seal(memory: &File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    for _ in 0..SEALING_TRIES {
        match fcntl(memory, FcntlArg::F_ADD_SEALS(seals)) {
            Err(Errno::EBUSY) => thread::sleep(SEALING_PAUSE),
            sealed => return Ok(sealed.map(drop)?),
        }
    }
    Err(Errno::EBUSY.into())
}

/// Maps compiled code into the process.
#[allow(unsafe_code)]
fn deserialize(engine: &Engine, copy: &File) -> wasmtime::Result<Component> {
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    // SAFETY: wasmtime demands that the file holds what it compiled itself, and that it does not change while it is mapped.
    // The only caller passes a memory file whose bytes carry a tag under this node's key, so this node's compiler made them;
    // it was sealed against writing, growing and shrinking before it was verified, so they stay what was verified.
    unsafe { Component::deserialize_file(engine, path) }
}

fn load_or_make_key(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("no random numbers"))?;
            file.write_all(&key)?;
            file.sync_all()?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut file = File::open(path)?;
            if file.metadata()?.permissions().mode() & 0o077 != 0 {
                return Err(io::Error::other("others could read it: remove the whole directory, it is made anew"));
            }
            file.read_exact(&mut key)
                .map_err(|_| io::Error::other("it is cut short: remove the whole directory, it is made anew"))?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// What tells one processor's abilities from another's.
fn processor() -> String {
    let Ok(text) = fs::read_to_string("/proc/cpuinfo") else { return String::new() };
    let wanted =
        |line: &&str| ["model name", "flags", "Features", "CPU implementer", "CPU part"].iter().any(|key| line.starts_with(key));
    text.split("\n\n").next().unwrap_or_default().lines().filter(wanted).collect()
}

#[cfg(test)]
mod tests;
