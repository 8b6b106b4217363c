//! Who may import whom: the directions that ARCHITECTURE.md draws, held.
//!
//! The source is read as tokens, so comments and strings do not count and macros do. What only tests see (`#[cfg(test)]` and the like)
//! may look where it likes. A bare path such as `redis::cmd` counts as another crate's; `crate`, `self` and `super` are resolved.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What holds for a module and all below it.
struct Rule {
    module: &'static str,
    ours: Ours,
    /// Runs without tasks, sockets and stores.
    pure: bool,
}

/// Which other modules of ours it may import. Itself it always may.
enum Ours {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

const IMPURE: [&str; 12] = [
    "axum",
    "fjall",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "redis",
    "rustls",
    "tokio",
    "tokio_rustls",
    "tokio_util",
    "tracing",
    "wasmtime",
];

const RULES: [Rule; 25] = [
    Rule { module: "clock", ours: Ours::Only(&[]), pure: true },
    Rule { module: "event", ours: Ours::Only(&["clock"]), pure: true },
    Rule { module: "secret", ours: Ours::Only(&[]), pure: true },
    Rule { module: "background", ours: Ours::Only(&[]), pure: false },
    Rule { module: "room", ours: Ours::Only(&["event"]), pure: false },
    Rule { module: "ingest", ours: Ours::AllBut(&["dispatch", "notices", "app", "cli"]), pure: false },
    Rule { module: "ingest::verify", ours: Ours::Only(&["event", "clock", "secret"]), pure: true },
    Rule { module: "store", ours: Ours::Only(&["event", "clock", "secret", "ingest::verify"]), pure: false },
    Rule { module: "dispatch", ours: Ours::AllBut(&["ingest", "notices", "app", "cli"]), pure: false },
    Rule { module: "dispatch::schedule", ours: Ours::Only(&["event", "clock"]), pure: true },
    Rule { module: "dispatch::rate", ours: Ours::Only(&["event", "clock"]), pure: true },
    Rule { module: "dispatch::circuit", ours: Ours::Only(&["event", "clock"]), pure: true },
    Rule { module: "dispatch::filter", ours: Ours::Only(&["event", "clock"]), pure: true },
    Rule { module: "dispatch::batch::settings", ours: Ours::Only(&[]), pure: true },
    Rule {
        module: "dispatch::batch::element",
        ours: Ours::Only(&["event", "clock", "egress", "dispatch::batch::settings"]),
        pure: true,
    },
    Rule { module: "dispatch::batch::answer", ours: Ours::Only(&[]), pure: true },
    Rule { module: "dispatch::attempt", ours: Ours::AllBut(&["plugin"]), pure: false },
    Rule { module: "plugin", ours: Ours::AllBut(&["ingest", "store", "dispatch", "egress", "control", "app", "cli"]), pure: false },
    Rule { module: "egress", ours: Ours::AllBut(&["ingest", "store", "dispatch", "plugin", "control", "app", "cli"]), pure: false },
    Rule { module: "control", ours: Ours::AllBut(&["app", "cli"]), pure: false },
    Rule { module: "telemetry", ours: Ours::AllBut(&["ingest", "dispatch", "plugin", "egress", "app", "cli"]), pure: false },
    Rule { module: "notices", ours: Ours::AllBut(&["app", "cli"]), pure: false },
    Rule { module: "notices::alarm", ours: Ours::Only(&["event", "clock", "notices"]), pure: true },
    Rule { module: "config", ours: Ours::AllBut(&["app", "cli"]), pure: false },
    Rule { module: "app", ours: Ours::AllBut(&["cli"]), pure: false },
];

#[test]
fn modules_import_in_the_drawn_directions_only() {
    let modules = read_crate(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for rule in &RULES {
        assert!(modules.iter().any(|module| module.path.join("::") == rule.module), "there is no module {} any more", rule.module);
    }
    for module in modules.iter().filter(|module| module.path.len() == 1 && module.path != ["cli"]) {
        assert!(RULES.iter().any(|rule| module.path == [rule.module]), "no rule says what {} may import", module.path[0]);
    }
    let found: Vec<_> = modules.iter().flat_map(violations).collect();
    assert!(found.is_empty(), "imports against the directions:\n{}", found.join("\n"));
}

#[test]
fn plugins_know_the_sdk_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    for manifest in manifests_below(&root.join("plugins")) {
        let found = foreign_dependencies(&fs::read_to_string(&manifest).expect("a manifest"));
        assert!(found.is_empty(), "{} depends on {found:?}; of ours it may know the SDK alone", manifest.display());
    }
}

/// A module's file with the modules that stand inside it.
struct Module {
    path: Vec<String>,
    file: String,
    references: Vec<Reference>,
}

#[derive(Debug, PartialEq)]
struct Reference {
    /// `["crate", "store", "Store"]`, or `["tokio", "spawn"]`.
    path: Vec<String>,
    line: usize,
}

fn violations(module: &Module) -> Vec<String> {
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| is_below(&module.path, rule.module)) {
        for reference in &module.references {
            let allowed = match reference.path.split_first() {
                Some((first, rest)) if first == "crate" => rule.ours.allow(rule.module, rest),
                Some((first, _)) => !(rule.pure && IMPURE.contains(&first.as_str())),
                None => true,
            };
            if !allowed {
                found.push(format!("{}:{}: {} imports {}", module.file, reference.line, rule.module, reference.path.join("::")));
            }
        }
    }
    found
}

impl Ours {
    fn allow(&self, own: &str, path: &[String]) -> bool {
        // A glob of the root, or the root itself under another name, could be anything.
        if path.first().is_none_or(|first| first == "*") {
            return false;
        }
        match self {
            Self::Only(others) => is_below(path, own) || others.iter().any(|other| is_below(path, other)),
            Self::AllBut(others) => !others.iter().any(|other| is_below(path, other)),
        }
    }
}

fn is_below(path: &[String], module: &str) -> bool {
    let mut names = path.iter();
    module.split("::").all(|part| names.next().is_some_and(|name| name == part))
}

fn read_crate(source: &Path) -> Vec<Module> {
    let mut modules = Vec::new();
    let mut for_tests = BTreeSet::new();
    for file in files_below(source, "rs") {
        let path = module_path(file.strip_prefix(source).expect("a file below it"));
        let text = fs::read_to_string(&file).expect("a source file");
        let mut reader = Reader { references: Vec::new(), for_tests: BTreeSet::new() };
        reader.read(text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display())), &path);
        for_tests.append(&mut reader.for_tests);
        modules.push(Module { path, file: file.display().to_string(), references: reader.references });
    }
    modules.retain(|module| !for_tests.iter().any(|test: &Vec<String>| module.path.starts_with(test)));
    modules
}

fn module_path(file: &Path) -> Vec<String> {
    let path = file.with_extension("");
    let mut names: Vec<_> = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names == ["lib"] || names == ["main"] {
        names.clear();
    }
    names
}

fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.append(&mut files_below(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files
}

struct Reader {
    references: Vec<Reference>,
    /// Modules in files of their own that only tests see.
    for_tests: BTreeSet<Vec<String>>,
}

impl Reader {
    fn read(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut test_only = false;
        let mut at = 0;
        while at < tokens.len() {
            if let Some(attribute) = attribute(&tokens[at..]) {
                test_only |= is_for_tests(&attribute);
                self.read(attribute, module);
                at += 2;
            } else if let Some((name, body)) = module_item(&tokens[at..]) {
                let path = [module, &[name]].concat();
                match body {
                    Some(body) if !test_only => self.read(body, &path),
                    None if test_only => drop(self.for_tests.insert(path)),
                    Some(_) | None => {}
                }
                test_only = false;
                at += 3;
            } else if test_only {
                // The item goes by, to its semicolon or its braces.
                test_only = !(is_punct(&tokens[at], ';') || is_group(&tokens[at], Delimiter::Brace));
                at += 1;
            } else if let TokenTree::Ident(_) = &tokens[at] {
                at += self.path(&tokens[at..], &[], module);
            } else {
                if let TokenTree::Group(group) = &tokens[at] {
                    self.read(group.stream(), module);
                }
                at += 1;
            }
        }
    }

    /// Takes a path, with the braces of a `use` at its end, and gives the number of tokens in it.
    fn path(&mut self, tokens: &[TokenTree], before: &[String], module: &[String]) -> usize {
        let mut path = before.to_vec();
        let mut at = 0;
        let line = tokens[0].span().start().line;
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(name)) => path.push(name.to_string()),
                Some(token) if is_punct(token, '*') => path.push("*".to_owned()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace && path.len() > before.len() => {
                    self.branches(group.stream(), &path, module);
                    return at + 1;
                }
                _ => break,
            }
            at += 1;
            let colons = tokens.get(at..at + 2).is_some_and(|two| two.iter().all(|token| is_punct(token, ':')));
            if !colons {
                break;
            }
            at += 2;
        }
        if path.len() > 1 || tokens.get(at).is_some_and(|token| matches!(token, TokenTree::Ident(word) if word == "as")) {
            self.references.extend(resolve(&path, module).map(|path| Reference { path, line }));
        }
        at.max(1)
    }

    /// `{a, b::c, self}` at the end of a `use`.
    fn branches(&mut self, tokens: TokenStream, before: &[String], module: &[String]) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for branch in tokens.split(|token| is_punct(token, ',')).filter(|branch| !branch.is_empty()) {
            self.path(branch, before, module);
        }
    }
}

/// The path from the crate's root, or from another crate's name.
fn resolve(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut names = path.iter().map(String::as_str).filter(|name| *name != "self" || path[0] == "self").peekable();
    let mut from: Vec<String> = module.to_vec();
    match *names.peek()? {
        "crate" => {
            names.next();
            from.clear();
        }
        "self" => drop(names.next()),
        "super" => {}
        "Self" => return None,
        _ => return Some(names.map(str::to_owned).collect()),
    }
    while names.peek() == Some(&"super") {
        names.next();
        from.pop();
    }
    Some(["crate".to_owned()].into_iter().chain(from).chain(names.map(str::to_owned)).collect())
}

fn attribute(tokens: &[TokenTree]) -> Option<TokenStream> {
    match tokens {
        [hash, TokenTree::Group(group), ..] if is_punct(hash, '#') && group.delimiter() == Delimiter::Bracket => {
            Some(group.stream())
        }
        _ => None,
    }
}

/// `cfg(test)`, `cfg(any(test, ...))`, but not `cfg(not(test))`.
fn is_for_tests(attribute: &TokenStream) -> bool {
    let words = attribute.to_string();
    words.starts_with("cfg") && !words.contains("not") && words.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
}

fn module_item(tokens: &[TokenTree]) -> Option<(String, Option<TokenStream>)> {
    match tokens {
        [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body), ..] if word == "mod" => {
            Some((name.to_string(), Some(body.stream())))
        }
        [TokenTree::Ident(word), TokenTree::Ident(name), end, ..] if word == "mod" && is_punct(end, ';') => {
            Some((name.to_string(), None))
        }
        _ => None,
    }
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

fn is_group(token: &TokenTree, delimiter: Delimiter) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == delimiter)
}

fn manifests_below(directory: &Path) -> Vec<PathBuf> {
    files_below(directory, "toml").into_iter().filter(|file| file.ends_with("Cargo.toml")).collect()
}

/// Packages of ours that a plugin is linked with, other than the SDK. Its tests on the host may use more.
fn foreign_dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
    let mut found = Vec::new();
    for (name, dependency) in manifest.get("dependencies").and_then(toml::Value::as_table).into_iter().flatten() {
        let package = dependency.get("package").and_then(toml::Value::as_str).unwrap_or(name);
        let path = dependency.get("path").and_then(toml::Value::as_str);
        // What plugins share is held to the same rule, as a plugin.
        let is_allowed = package == "tidegate-plugin" || package == "plugin-common";
        if (path.is_some() || package.starts_with("tidegate")) && !is_allowed {
            found.push(name.clone());
        }
    }
    found
}

/// The checker itself, on samples.
mod checker {
    use super::{Module, Reader, foreign_dependencies, violations};
    use std::collections::BTreeSet;

    fn check(module: &str, source: &str) -> Vec<String> {
        let path: Vec<_> = module.split("::").map(str::to_owned).collect();
        let mut reader = Reader { references: Vec::new(), for_tests: BTreeSet::new() };
        reader.read(source.parse().expect("Rust"), &path);
        violations(&Module { path, file: "sample.rs".to_owned(), references: reader.references })
    }

    #[test]
    fn names_file_line_and_import() {
        let found = check("ingest::accept", "use crate::store::Store;\nuse crate::dispatch::plan::Plan;");
        assert_eq!(found, ["sample.rs:2: ingest imports crate::dispatch::plan::Plan"]);
    }

    #[test]
    fn finds_every_way_to_import() {
        for source in [
            "use crate::ingest::accept;",
            "use crate::{event::Event, ingest::accept::{self, Accept}};",
            "use super::super::ingest;",
            "use crate::ingest;",
            "use crate::ingest as other;",
            "fn f() { crate::ingest::accept::now() }",
            "fn f(x: &crate::ingest::Accept) {}",
            "fn f() { tokio::select! { _ = crate::ingest::wait() => {} } }",
            "mod inner { fn f() { super::super::super::ingest::wait() } }",
            "#[cfg(not(test))] use crate::ingest::accept;",
            "#[cfg(test)] mod tests {} use crate::ingest::accept;",
            "#[cfg(test)] use crate::event::Event; use crate::ingest::accept;",
            "#[cfg(test)] fn f() {} use crate::ingest::accept;",
            "use crate::*;",
            "use crate as root;",
            "macro_rules! m { () => { $crate::ingest::wait() } }",
        ] {
            assert!(!check("dispatch::plan", source).is_empty(), "{source}");
        }
    }

    #[test]
    fn leaves_alone_what_is_no_import() {
        for source in [
            "// use crate::ingest;\n/// See crate::ingest::accept.\nfn f() {}",
            "const TEXT: &str = \"crate::ingest\";",
            "pub(crate) fn ingest() {}",
            "#[cfg(test)] mod tests { use crate::ingest::accept; }",
            "#[cfg(any(test, fuzzing))] pub mod model { use crate::ingest::accept; }",
            "#[cfg(test)] use crate::ingest::accept;",
            "#[cfg(test)] pub(crate) fn f() { crate::ingest::accept() }",
            "use crate::store::{ingest, Store};",
            "use super::attempt;",
            "fn f(x: X) { x.ingest.y() }",
        ] {
            assert_eq!(check("dispatch::plan", source), [""; 0], "{source}");
        }
    }

    #[test]
    fn holds_pure_modules_to_it() {
        for source in [
            "use tokio::spawn;",
            "async fn f() { tokio::task::yield_now().await }",
            "use redis::cmd;",
            "use hyper::{Request, body::Bytes};",
        ] {
            assert!(!check("dispatch::schedule", source).is_empty(), "{source}");
            assert!(check("dispatch::claim", source).is_empty(), "{source}");
        }
    }

    #[test]
    fn lets_the_store_know_verified_events_but_not_their_verifiers_neighbours() {
        assert!(check("store::redis", "use crate::ingest::verify::VerifiedEvent; use crate::event::Event;").is_empty());
        assert_eq!(check("store::redis", "use crate::ingest::accept::Accept;").len(), 1);
        assert_eq!(check("store", "use crate::config::Config;").len(), 1);
    }

    #[test]
    fn sees_what_a_plugin_depends_on() {
        let good = "[dependencies]\ntidegate-plugin = { path = \"../../sdk/rust\" }\nserde = \"1\"\n[dev-dependencies]\ntidegate = { path = \"../../gateway\" }";
        assert!(foreign_dependencies(good).is_empty());
        assert_eq!(foreign_dependencies("[dependencies]\ntidegate = { path = \"../../gateway\" }"), ["tidegate"]);
        assert!(foreign_dependencies("[dependencies]\nplugin-common = { path = \"../common\" }").is_empty());
        assert_eq!(foreign_dependencies("[dependencies]\nother = { path = \"../other\" }"), ["other"]);
        assert_eq!(foreign_dependencies("[dependencies]\ngate = { package = \"tidegate\", workspace = true }"), ["gate"]);
    }
}
