//! The SDK that comes with a new project is the repository's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::project::{Project, root};

/// No part of what a plugin is built with.
const LEFT_OUT: [&str; 10] =
    ["node_modules", "target", "__pycache__", "test", "tests", "example", "README.md", "Cargo.lock", "package-lock.json", ".npmrc"];

/// Files below a directory, by their paths from it.
fn files(directory: &Path, below: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if LEFT_OUT.contains(&&name[..]) || name.ends_with("_test.go") || name.ends_with(".egg-info") {
            continue;
        }
        let path = format!("{below}/{name}");
        if entry.file_type().unwrap().is_dir() {
            files(directory, &path, found);
        } else {
            found.insert(path);
        }
    }
}

#[test]
fn the_sdk_in_a_new_project_is_the_repositorys() {
    for language in ["rust", "js", "python", "go"] {
        let project = Project::new(language, "vendored", &[]);
        let [mut wanted, mut there] = [BTreeSet::new(), BTreeSet::new()];
        for below in [language, "wit"] {
            files(&root().join("sdk"), below, &mut wanted);
            files(&project.file("sdk"), below, &mut there);
        }
        assert_eq!(there, wanted, "{language}: list the files in gateway/src/cli/plugin/new/templates.rs");
        for path in wanted.into_iter().chain(["cases.md".into()]) {
            let text = |directory: &Path| fs::read_to_string(directory.join("sdk").join(&path)).unwrap();
            assert_eq!(text(&project.directory), text(&root()), "{path}");
        }
    }
}
