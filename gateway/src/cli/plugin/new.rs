//! `tidegate plugin new`: a project that builds and tests at once, with the SDK in it: the one that this very gateway was built with, so that
//! nothing has to be published, and nothing of ours downloaded.

mod templates;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use templates::File;

/// The longest name.
const MAX_NAME: usize = 64;
/// What stands in the templates for the project's name.
const PLACEHOLDER: &str = "my-plugin";

/// Makes a project.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Lower-case letters, digits and `-`; the directory of that name is made
    name: String,
    /// The language
    #[arg(long, value_enum)]
    lang: Language,
    /// What the plugin does
    #[arg(long, value_enum, default_value_t = Kind::Transform)]
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Js,
    Python,
    Go,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Decides whether an event goes on
    Filter,
    /// Makes the requests that go out
    Transform,
    /// Both; a connection says which it uses
    Both,
    /// All that a sender's or a receiver's own scheme takes: verifies, answers, signs and judges, and filters with a table
    Scheme,
}

/// Does it. What is there already is never written to.
pub(super) fn run(args: &NewArgs) -> anyhow::Result<()> {
    let NewArgs { name, lang, kind } = args;
    check(name)?;
    let directory = PathBuf::from(name);
    match fs::create_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{name} is there already: choose another name, or another place")
        }
        made => made.with_context(|| name.clone())?,
    }
    for File { path, text } in templates::project(*lang, *kind) {
        write(&directory.join(path), &text.replace(PLACEHOLDER, name))?;
    }
    for File { path, text } in templates::sdk(*lang) {
        write(&directory.join("sdk").join(path), text)?;
    }
    println!("made {name}");
    println!("next: cd {name}{}", lang.next().map(|command| format!("; {command}")).unwrap_or_default());
    println!("      tidegate plugin test");
    Ok(())
}

impl Language {
    /// What is to be done once before the first build.
    fn next(self) -> Option<&'static str> {
        match self {
            Self::Rust | Self::Go => None,
            Self::Js => Some("npm install"),
            Self::Python => Some("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"),
        }
    }
}

fn check(name: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() > MAX_NAME
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.chars().all(plain)
        || name.ends_with('-')
    {
        bail!(
            "`{name}` is no name for a plugin: use 1 to {MAX_NAME} of lower-case letters, digits and `-`, beginning with a letter"
        );
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let at = || path.display().to_string();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(at)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path).with_context(at)?;
    file.write_all(text.as_bytes()).with_context(at)
}
