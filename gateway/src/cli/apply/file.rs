//! Declarative files: TOML or JSON, by their ending. A secret stands in them as `{ env = "NAME" }` or `{ file = "PATH" }`; paths are
//! relative to the file.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cli::builtin;
use crate::config::document::{Document, Fault};
use crate::config::{SecretRef, read_text};
use crate::control::api::without_values;
use crate::control::apply::ApplySpec;
use crate::control::model::{Connections, Destinations, Kind, Sources};

/// The largest file.
const MAX_FILE: u64 = 16 << 20;

/// Reads a file, or all `.toml` and `.json` files of a directory, as one declaration. Reports all that is wrong.
pub(super) fn load(path: &Path) -> anyhow::Result<ApplySpec> {
    let files = if path.is_dir() { list(path)? } else { vec![path.to_owned()] };
    let mut whole = ApplySpec::default();
    let mut wrong = Vec::new();
    for file in &files {
        let text = read_text(file, MAX_FILE).with_context(|| file.display().to_string())?;
        let base = file.parent().unwrap_or(Path::new(""));
        let is_json = file.extension().is_some_and(|extension| extension == "json");
        match if is_json { json(&text, base) } else { toml(&text, base) } {
            Ok(spec) => merge(&mut whole, spec, base),
            Err(faults) => wrong.extend(faults.iter().map(|fault| {
                let line = fault.line.map_or_else(String::new, |line| format!(":{line}"));
                format!("{}{line}: {fault}", file.display())
            })),
        }
    }
    if wrong.is_empty() { Ok(whole) } else { bail!("nothing was applied\n  {}", wrong.join("\n  ")) }
}

fn list(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || directory.display().to_string();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.extension().is_some_and(|extension| extension == "toml" || extension == "json") {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{} has no .toml or .json file", directory.display());
    }
    files.sort();
    Ok(files)
}

/// Adds `spec` to `whole`: what several files say of one tenant goes together.
fn merge(whole: &mut ApplySpec, spec: ApplySpec, base: &Path) {
    for mut tenant in spec.tenants {
        for plugin in &mut tenant.plugins {
            for (_, component) in plugin.components() {
                if builtin::name(Path::new(&*component)).is_none() {
                    *component = base.join(&*component).display().to_string();
                }
            }
        }
        match whole.tenants.iter_mut().find(|known| known.name == tenant.name) {
            Some(known) => {
                known.plan = known.plan.or(tenant.plan);
                known.plugins.append(&mut tenant.plugins);
                known.sources.append(&mut tenant.sources);
                known.destinations.append(&mut tenant.destinations);
                known.connections.append(&mut tenant.connections);
            }
            None => whole.tenants.push(tenant),
        }
    }
}

/// Where a declaration holds secrets.
fn secret_places() -> Vec<String> {
    let of = |list: &str, patterns: &[&str]| -> Vec<String> {
        patterns.iter().map(|pattern| format!("tenants/*/{list}/*/{pattern}")).collect()
    };
    [of("sources", Sources::SECRETS), of("destinations", Destinations::SECRETS), of("connections", Connections::SECRETS)].concat()
}

fn toml(text: &str, base: &Path) -> Result<ApplySpec, Vec<Fault>> {
    let mut document = Document::parse(text)?;
    let mut faults = document.resolve_secrets(&secret_places(), &|env, file| resolve(env, file, base));
    let (spec, more) = document.read::<ApplySpec>();
    faults.extend(more.into_iter().map(|fault| Fault { message: without_values(&fault.message), ..fault }));
    match spec {
        Some(spec) if faults.is_empty() => Ok(spec),
        _ => Err(faults),
    }
}

/// Fetches what a reference names.
fn resolve(env: Option<&str>, file: Option<&str>, base: &Path) -> Result<String, String> {
    let reference = match (env, file) {
        (Some(name), None) => SecretRef::Env(name.to_owned()),
        (None, Some(path)) => SecretRef::File(path.into()),
        _ => return Err(ONLY_BY_REFERENCE.into()),
    };
    reference.resolve(base).map(|secret| secret.expose().to_owned()).map_err(|error| error.to_string())
}

const ONLY_BY_REFERENCE: &str = "a secret stands elsewhere: write { env = \"NAME\" } or { file = \"PATH\" }";

fn json(text: &str, base: &Path) -> Result<ApplySpec, Vec<Fault>> {
    let fault = |field: String, line: Option<usize>, message: String| vec![Fault { field, line, message }];
    let mut value: Value =
        serde_json::from_str(text).map_err(|error| fault(String::new(), Some(error.line()), error.to_string()))?;
    for place in secret_places() {
        replace(&mut value, &place, &mut |value| {
            let part = |name: &str| value.get(name).and_then(Value::as_str);
            resolve(part("env"), part("file"), base)
        })
        .map_err(|message| fault(place.replace('/', "."), None, message))?;
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path: Vec<String> = error.path().iter().map(|segment| segment.to_string()).collect();
        let field = error.path().to_string();
        fault(field, locate(text, &path), without_values(&error.into_inner().to_string()))
    })
}

fn replace(value: &mut Value, place: &str, with: &mut impl FnMut(&Value) -> Result<String, String>) -> Result<(), String> {
    if place.is_empty() {
        *value = Value::String(with(value)?);
        return Ok(());
    }
    let (head, rest) = place.split_once('/').unwrap_or((place, ""));
    match (value, head) {
        (Value::Array(list), "*") => list.iter_mut().try_for_each(|item| replace(item, rest, with)),
        (Value::Object(map), "*") => map.values_mut().try_for_each(|item| replace(item, rest, with)),
        (Value::Object(map), name) => map.get_mut(name).map_or(Ok(()), |item| replace(item, rest, with)),
        _ => Ok(()),
    }
}

/// The line of what `path` leads to in JSON text that is known to be well formed: as far as the path leads.
fn locate(text: &str, path: &[String]) -> Option<usize> {
    let mut scanner = Scanner { text: text.as_bytes(), at: 0 };
    let mut found = 0;
    for segment in path {
        match scanner.enter(segment.trim_matches(['[', ']'])) {
            Some(at) => found = at,
            None => break,
        }
    }
    Some(text.as_bytes()[..found].iter().filter(|byte| **byte == b'\n').count() + 1)
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// Goes to the member or item of this name or number; returns where it starts, with its key.
    fn enter(&mut self, segment: &str) -> Option<usize> {
        self.space();
        let is_object = match self.text.get(self.at)? {
            b'{' => true,
            b'[' => false,
            _ => return None,
        };
        self.at += 1;
        let mut number = 0;
        loop {
            self.space();
            if matches!(self.text.get(self.at)?, b'}' | b']') {
                return None;
            }
            let start = self.at;
            let is_it = if is_object {
                self.skip();
                let key = serde_json::from_slice::<String>(&self.text[start..self.at]).ok()?;
                self.space();
                self.at += 1;
                key == segment
            } else {
                segment.parse() == Ok(number)
            };
            if is_it {
                return Some(start);
            }
            self.skip();
            self.space();
            if self.text.get(self.at) == Some(&b',') {
                self.at += 1;
            }
            number += 1_usize;
        }
    }

    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    /// Goes behind the value that starts here.
    fn skip(&mut self) {
        self.space();
        let mut depth = 0_usize;
        let mut in_text = false;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'\\' if in_text => self.at += 1,
                b'"' => {
                    in_text = !in_text;
                    if !in_text && depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                _ if in_text => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                b',' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::write(dir.join(name), text).expect("writes");
    }

    #[test]
    fn toml_and_json_files_of_a_directory_are_one_declaration() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), "secret", "hunter2\n");
        write(
            dir.path(),
            "a.toml",
            "[[tenants]]\nname = \"acme\"\n[[tenants.sources]]\nname = \"in\"\n\
             auth = { type = \"preset\", name = \"github\", secrets = [{ file = \"secret\" }] }\n\
             [[tenants.plugins]]\nname = \"p\"\ncomponent = \"p.wasm\"\n\
             [[tenants.plugins]]\nname = \"q\"\ncomponent = \"builtin:redact\"\n",
        );
        write(
            dir.path(),
            "b.json",
            r#"{"tenants": [{"name": "acme", "destinations": [{"name": "out", "url": "https://example.com/"}]}]}"#,
        );
        let spec = load(dir.path()).expect("is valid");
        assert_eq!(spec.tenants.len(), 1);
        let tenant = &spec.tenants[0];
        assert_eq!((tenant.sources.len(), tenant.destinations.len()), (1, 1));
        assert_eq!(Path::new(&tenant.plugins[0].component), dir.path().join("p.wasm"));
        assert_eq!(tenant.plugins[1].component, "builtin:redact");
        let shown = format!("{spec:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(serde_json::to_string(&spec).expect("plain data").contains("hunter2"), "it was resolved");
    }

    #[test]
    fn faults_of_toml_name_their_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        write(
            dir.path(),
            "a.toml",
            "[[tenants]]\nname = \"acme\"\ncolour = 1\n[[tenants.sources]]\nname = \"in\"\n\
             auth = { type = \"preset\", name = \"github\", secrets = [\"hunter2\"] }\nmax_body = \"lots\"\n",
        );
        let error = load(dir.path()).expect_err("is wrong").to_string();
        for part in
            ["a.toml:3: tenants[0].colour", "a.toml:6: ", "a secret stands elsewhere", "a.toml:7: tenants[0].sources[0].max_body"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn faults_of_json_name_their_line() {
        let dir = tempfile::tempdir().expect("a directory");
        write(
            dir.path(),
            "a.json",
            "{\n \"tenants\": [\n  {\"name\": \"a\"},\n  {\"name\": \"b\",\n   \"sources\": [{\"name\": \"s\",\n    \"colour\": 1}]}\n ]\n}",
        );
        let error = load(&dir.path().join("a.json")).expect_err("is wrong").to_string();
        assert!(error.contains("a.json:6: tenants[1].sources[0].colour"), "{error}");
        write(dir.path(), "b.json", "{\n\"tenants\": oops }");
        let error = load(&dir.path().join("b.json")).expect_err("is wrong").to_string();
        assert!(error.contains("b.json:2"), "{error}");
    }

    #[test]
    fn a_missing_variable_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        write(
            dir.path(),
            "a.toml",
            "[[tenants]]\nname = \"a\"\n[[tenants.destinations]]\nname = \"d\"\nurl = \"https://example.com\"\n\
             auth = { type = \"bearer\", token = { env = \"TIDEGATE_TEST_NOT_SET\" } }\n",
        );
        let error = load(dir.path()).expect_err("is wrong").to_string();
        assert!(error.contains("a.toml:6: ") && error.contains("TIDEGATE_TEST_NOT_SET"), "{error}");
    }
}
