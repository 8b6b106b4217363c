//! A directory that goes when it is dropped.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// A directory of our own, for nobody else to read.
pub(super) struct Scratch(TempDir);

impl Scratch {
    /// Makes one among the system's temporary files.
    pub(super) fn make() -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let mut builder = tempfile::Builder::new();
        builder.prefix("tidegate-plugin-").permissions(std::fs::Permissions::from_mode(0o700));
        builder.tempdir().map(Self).context("a temporary directory")
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
