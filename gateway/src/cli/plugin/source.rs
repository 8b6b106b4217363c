//! What a component is made of: which language a project is in, and which file it begins with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cli::builtin;
use crate::config::read_bytes;

/// The largest package.json.
const MAX_MANIFEST: u64 = 1 << 20;

/// Something that a component can be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A file of WebAssembly: a component as it is, a core module to make one of.
    Wasm(PathBuf),
    /// A crate's directory.
    Rust(PathBuf),
    /// A package's directory.
    Go(PathBuf),
    /// A module of JavaScript or TypeScript.
    JavaScript(PathBuf),
    /// A Python module.
    Python(PathBuf),
}

impl Source {
    /// What stands at a path: a file by its extension, a directory by what is in it.
    pub(super) fn at(path: &Path) -> anyhow::Result<Self> {
        if path.is_dir() {
            return Self::in_directory(path);
        }
        if builtin::name(path).is_some() {
            return Ok(Self::Wasm(path.to_owned()));
        }
        if !path.exists() {
            bail!("{}: there is no such file or directory", path.display());
        }
        match extension(path) {
            "js" | "mjs" | "ts" => Ok(Self::JavaScript(path.to_owned())),
            "py" => Ok(Self::Python(path.to_owned())),
            "rs" | "go" => bail!("{}: name the directory of the project instead", path.display()),
            _ => Ok(Self::Wasm(path.to_owned())),
        }
    }

    fn in_directory(directory: &Path) -> anyhow::Result<Self> {
        if directory.join("Cargo.toml").exists() {
            return Ok(Self::Rust(directory.to_owned()));
        }
        let files = files_of(directory)?;
        if directory.join("go.mod").exists() || files.iter().any(|file| extension(file) == "go") {
            return Ok(Self::Go(directory.to_owned()));
        }
        let manifest = directory.join("package.json");
        if manifest.exists() {
            return main_of(directory, &manifest).map(Self::JavaScript);
        }
        let is_test = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("test_"));
        let mut modules: Vec<_> = files.into_iter().filter(|file| extension(file) == "py" && !is_test(file)).collect();
        if let Some(plugin) = modules.iter().find(|file| file.file_name().is_some_and(|name| name == "plugin.py")) {
            return Ok(Self::Python(plugin.clone()));
        }
        match (modules.pop(), modules.is_empty()) {
            (Some(module), true) => Ok(Self::Python(module)),
            (Some(_), false) => bail!("{}: there are several Python modules and no plugin.py: name the file", directory.display()),
            (None, _) => bail!(
                "{}: there is no project of a plugin: none of Cargo.toml, go.mod, package.json and plugin.py is there (make one with \
                 `tidegate plugin new`)",
                directory.display()
            ),
        }
    }

    /// The directory of the project.
    pub(super) fn directory(&self) -> PathBuf {
        match self {
            Self::Rust(directory) | Self::Go(directory) => directory.clone(),
            Self::Wasm(file) | Self::JavaScript(file) | Self::Python(file) => match file.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            },
        }
    }

    /// What the component is called where nobody says it: `announce` in a directory of that name, or of a file of that name.
    pub(super) fn name(&self) -> anyhow::Result<String> {
        let named = match self {
            Self::Wasm(file) => file.clone(),
            Self::JavaScript(file) | Self::Python(file) if file.file_stem().is_some_and(|stem| stem != "plugin") => file.clone(),
            _ => {
                let directory = self.directory();
                directory.canonicalize().with_context(|| directory.display().to_string())?
            }
        };
        let name = if named.is_dir() { named.file_name() } else { named.file_stem() };
        Ok(name.map_or_else(|| "plugin".into(), |name| name.to_string_lossy().into_owned()))
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn files_of(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// The module that a package.json names as `main`; without one, plugin.ts or plugin.js.
fn main_of(directory: &Path, manifest: &Path) -> anyhow::Result<PathBuf> {
    let text = read_bytes(manifest, MAX_MANIFEST).with_context(|| manifest.display().to_string())?;
    let manifest: Value = serde_json::from_slice(&text).with_context(|| manifest.display().to_string())?;
    let named = manifest["main"].as_str().map(|main| directory.join(main));
    let usual = ["plugin.ts", "plugin.js", "plugin.mjs"].map(|name| directory.join(name));
    let main = named.into_iter().chain(usual).find(|file| file.exists());
    main.with_context(|| {
        format!("{}: there is no plugin.ts or plugin.js: name the plugin's module as `main` in package.json", directory.display())
    })
}
