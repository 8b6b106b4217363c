//! Guests, built from source by `sdk/build`. A guest is kept under a hash of all that it is made of and built again when that changes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use ring::digest::{Context, SHA256};

/// What every guest is made of, beside its SDK.
const COMMON: [&str; 4] = ["sdk/wit", "sdk/build", "gateway/src/plugin/build.rs", "gateway/src/plugin/build"];
/// Left behind by tools, or no part of what is built.
const LEFT_OUT: [&str; 6] = ["node_modules", "target", "__pycache__", "test", "tests", "README.md"];

/// One program that `sdk/build` knows.
pub(crate) struct Guest {
    language: &'static str,
    what: &'static str,
    sources: Vec<String>,
}

impl Guest {
    /// The one that does what the cases ask for.
    pub(crate) fn of_cases(language: &'static str) -> Self {
        Self { language, what: "conformance", sources: vec![format!("sdk/{language}"), format!("sdk/conformance/{language}")] }
    }

    /// The SDK's example.
    pub(crate) fn of_example(language: &'static str) -> Self {
        let beside = (language == "rust").then(|| "examples/own-scheme".to_owned());
        Self { language, what: "example", sources: beside.into_iter().chain([format!("sdk/{language}")]).collect() }
    }

    /// The component.
    pub(crate) fn component(&self) -> Bytes {
        let Self { language, what, sources } = self;
        let root = root();
        let mut context = Context::new(&SHA256);
        for source in COMMON.into_iter().chain(sources.iter().map(String::as_str)) {
            absorb(&mut context, &root, Path::new(source));
        }
        let kept = kept(language);
        let component = kept.join(format!("{what}-{}.wasm", hex::encode(&context.finish().as_ref()[..8])));
        // Several tests may want it at once.
        let turn = fs::File::create(kept.join(format!("{what}.lock"))).unwrap();
        turn.lock().unwrap();
        if !component.exists() {
            remove_old(&kept, what);
            let unfinished = component.with_extension(format!("{}.new", std::process::id()));
            let built = Command::new(root.join("sdk/build"))
                .args([language, what])
                .arg(&unfinished)
                .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"))
                .output()
                .expect("sdk/build can be started");
            let said = [built.stdout, built.stderr].concat();
            assert!(built.status.success(), "sdk/build {language} {what}:\n{}", String::from_utf8_lossy(&said));
            fs::rename(unfinished, &component).unwrap();
        }
        fs::read(component).unwrap().into()
    }
}

/// Where guests in this language are kept, and what the gateway compiles of them.
pub(crate) fn kept(language: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let kept = target.join("guests").join(language);
    fs::create_dir_all(&kept).unwrap();
    kept
}

fn remove_old(kept: &Path, what: &str) {
    for entry in fs::read_dir(kept).unwrap() {
        let path = entry.unwrap().path();
        let ours = path.file_stem().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{what}-")));
        if ours && path.extension().is_some_and(|extension| extension == "wasm") {
            fs::remove_file(path).unwrap();
        }
    }
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn absorb(context: &mut Context, root: &Path, path: &Path) {
    if path.file_name().is_some_and(|name| LEFT_OUT.iter().any(|left_out| name == *left_out)) {
        return;
    }
    let full = root.join(path);
    if full.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())).collect();
        entries.sort();
        entries.iter().for_each(|entry| absorb(context, root, entry));
    } else {
        let bytes = fs::read(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
        context.update(format!("{} {}\n", path.display(), bytes.len()).as_bytes());
        context.update(&bytes);
    }
}
