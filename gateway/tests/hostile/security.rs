//! What SECURITY.md says is tested is tested.

use std::fs;
use std::path::{Path, PathBuf};

/// The tests that a row of its tables names, as `file::name` in backticks.
fn named(row: &str) -> impl Iterator<Item = (&str, &str)> {
    row.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).filter(|(file, _)| {
        !file.is_empty()
            && file.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'/'))
    })
}

#[test]
fn every_row_of_the_threat_table_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("../SECURITY.md")).unwrap();
    let table = text.split("\n## ").find(|section| section.starts_with("What stops which attack")).expect("the table");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 25, "{} rows", rows.len());
    for row in rows {
        let mut count = 0;
        for (file, name) in named(row) {
            let path: PathBuf = root.join(file).with_extension("rs");
            let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}, in {row}", path.display()));
            assert!(source.contains(&format!("fn {name}(")), "{file} has no test {name}");
            count += 1;
        }
        assert!(count > 0, "no test is named: {row}");
    }
}
