//! A project, made by `tidegate plugin new`, and the commands in it.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;

pub(crate) const KINDS: [&str; 4] = ["filter", "transform", "both", "scheme"];

/// One below `target`, always at the same place: what cargo has compiled there is used again.
pub(crate) struct Project {
    pub(crate) language: String,
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
}

impl Project {
    /// `tidegate plugin new`, and what has to be done once before the first build.
    pub(crate) fn new(language: &str, name: &str, more: &[&str]) -> Self {
        get_compiler();
        let above = below_target(language);
        let directory = above.join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory).unwrap();
        }
        let made = tidegate(&above, &[&["new", "--lang", language, name], more].concat());
        assert!(made.status.success(), "{}", said(&made));
        let project = Self { language: language.into(), name: name.into(), directory };
        if language == "js" {
            project.install_packages();
        }
        project
    }

    /// What `npm install` does, with the packages that `scripts/setup` has fetched.
    fn install_packages(&self) {
        let modules = self.file("node_modules");
        fs::create_dir(&modules).unwrap();
        symlink(self.file("sdk/js"), modules.join("tidegate-plugin")).unwrap();
        let packages = root().join("sdk/js/node_modules");
        for package in fs::read_dir(&packages).unwrap_or_else(|error| panic!("{}: {error}", packages.display())) {
            let package = package.unwrap();
            symlink(package.path(), modules.join(package.file_name())).unwrap();
        }
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// Replaces a part of a file that is there exactly once.
    pub(crate) fn change(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.file(path)).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{path}: {from}");
        fs::write(self.file(path), text.replace(from, to)).unwrap();
    }

    /// `tidegate plugin ARGUMENTS` in the project; what it prints.
    pub(crate) fn passes(&self, arguments: &[&str]) -> String {
        let output = tidegate(&self.directory, arguments);
        assert!(output.status.success(), "{arguments:?}\n{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, when it ends with the exit code 1; what it prints and complains of.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = tidegate(&self.directory, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}\n{}", said(&output));
        said(&output)
    }

    /// The language's own tests, without a gateway.
    pub(crate) fn unit_tests(&self) {
        match &self.language[..] {
            "rust" => self.runs("cargo", &["test", "--offline", "--quiet"]),
            "js" => self.runs("npm", &["test", "--silent"]),
            "python" => self.runs("python3", &["-m", "unittest", "--quiet"]),
            _ => self.runs("go", &["test"]),
        }
    }

    /// Formatted and without complaints, as the language's own tools see it.
    pub(crate) fn tidy(&self) {
        match &self.language[..] {
            "rust" => self.runs("cargo", &["fmt", "--check"]),
            "go" => self.runs("go", &["vet"]),
            _ => {}
        }
    }

    fn runs(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        // It is the guests' compiler, which has no business with tests on this machine.
        environment(&mut command).env_remove("RUSTC");
        if self.language == "python" {
            command.env("PYTHONPATH", self.file("sdk/python"));
        }
        let output = command.args(arguments).current_dir(&self.directory).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?} in {}\n{}", self.directory.display(), said(&output));
    }
}

/// `tidegate plugin ARGUMENTS` in a directory, with all tools.
pub(crate) fn tidegate(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    // Set by cargo for the tests: an author has none.
    environment(&mut command)
        .env_remove("CARGO")
        .arg("plugin")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Makes `.tools/wasm/rustc`, unless it is there.
fn get_compiler() {
    static GOT: Once = Once::new();
    GOT.call_once(|| {
        let got = Command::new(root().join("scripts/wasm-toolchain.sh")).stdin(Stdio::null()).output().unwrap();
        assert!(got.status.success(), "scripts/wasm-toolchain.sh\n{}", said(&got));
    });
}

/// The tools that `scripts/setup` gets, and caches that tests share.
fn environment(command: &mut Command) -> &mut Command {
    let tools = root().join(".tools");
    let path = env::var("PATH").unwrap();
    let path = format!("{}:{}:{path}", tools.join("guests/bin").display(), tools.join("bin").display());
    command
        .env("PATH", path)
        .env("RUSTC", tools.join("wasm/rustc"))
        .env("CARGO_TARGET_DIR", target().join("guests/cargo"))
        .env("CARGO_NET_OFFLINE", "true")
        .env("GOTOOLCHAIN", "local")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("XDG_CACHE_HOME", below_target("cache"))
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where the other tests' guests are compiled too.
fn target() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

/// A directory for these tests.
pub(crate) fn below_target(name: &str) -> PathBuf {
    let directory = target().join("author").join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}
