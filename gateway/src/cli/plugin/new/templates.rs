//! The files that a new project is made of: templates beside this one, and the SDK's own.

use super::{Kind, Language};

/// A file: where it goes, and what stands in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) text: &'static str,
}

macro_rules! template {
    ($path:literal, $from:literal) => {
        File { path: $path, text: include_str!(concat!("templates/", $from)) }
    };
}

macro_rules! sdk {
    ($path:literal) => {
        File { path: $path, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/", $path)) }
    };
}

/// An example of an SDK.
macro_rules! example {
    ($path:literal, $from:literal) => {
        File { path: $path, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../", $from)) }
    };
}

const FILTER_CASES: File = template!("cases/filter.json", "cases/filter.json");
const TRANSFORM_CASES: File = template!("cases/transform.json", "cases/transform.json");
const SCHEME_CASES: File = example!("cases/own-scheme.json", "examples/own-scheme/cases/own-scheme.json");

/// The project itself.
pub(super) fn project(language: Language, kind: Kind) -> Vec<File> {
    let (common, code): (&[File], &[File]) = match (language, kind) {
        (Language::Rust, Kind::Filter) => (RUST, &[template!("src/lib.rs", "rust/filter.rs")]),
        (Language::Rust, Kind::Transform) => (RUST, &[template!("src/lib.rs", "rust/transform.rs")]),
        (Language::Rust, Kind::Both) => (RUST, &[template!("src/lib.rs", "rust/both.rs")]),
        (Language::Rust, Kind::Scheme) => (RUST_SCHEME, &[example!("src/lib.rs", "examples/own-scheme/src/lib.rs")]),
        (Language::Js, Kind::Scheme) => (
            JS,
            &[
                example!("plugin.js", "sdk/js/example/own-scheme/plugin.js"),
                example!("plugin.test.js", "sdk/js/example/own-scheme/plugin.test.js"),
            ],
        ),
        (Language::Python, Kind::Scheme) => (
            PYTHON,
            &[
                example!("plugin.py", "sdk/python/example/own_scheme/plugin.py"),
                example!("test_plugin.py", "sdk/python/example/own_scheme/test_plugin.py"),
            ],
        ),
        (Language::Go, Kind::Scheme) => (
            GO,
            &[
                example!("main.go", "sdk/go/example/ownscheme/main.go"),
                example!("main_test.go", "sdk/go/example/ownscheme/main_test.go"),
            ],
        ),
        (Language::Js, Kind::Filter) => {
            (JS, &[template!("plugin.js", "js/filter.js"), template!("plugin.test.js", "js/filter.test.js")])
        }
        (Language::Js, Kind::Transform) => {
            (JS, &[template!("plugin.js", "js/transform.js"), template!("plugin.test.js", "js/transform.test.js")])
        }
        (Language::Js, Kind::Both) => (JS, &[template!("plugin.js", "js/both.js"), template!("plugin.test.js", "js/both.test.js")]),
        (Language::Python, Kind::Filter) => {
            (PYTHON, &[template!("plugin.py", "python/filter.py"), template!("test_plugin.py", "python/test_filter.py")])
        }
        (Language::Python, Kind::Transform) => {
            (PYTHON, &[template!("plugin.py", "python/transform.py"), template!("test_plugin.py", "python/test_transform.py")])
        }
        (Language::Python, Kind::Both) => {
            (PYTHON, &[template!("plugin.py", "python/both.py"), template!("test_plugin.py", "python/test_both.py")])
        }
        (Language::Go, Kind::Filter) => {
            (GO, &[template!("main.go", "go/filter.go"), template!("main_test.go", "go/filter_test.go")])
        }
        (Language::Go, Kind::Transform) => {
            (GO, &[template!("main.go", "go/transform.go"), template!("main_test.go", "go/transform_test.go")])
        }
        (Language::Go, Kind::Both) => (GO, &[template!("main.go", "go/both.go"), template!("main_test.go", "go/both_test.go")]),
    };
    let cases: &[File] = match kind {
        Kind::Filter => &[FILTER_CASES],
        Kind::Transform => &[TRANSFORM_CASES],
        Kind::Both => &[FILTER_CASES, TRANSFORM_CASES],
        Kind::Scheme => &[SCHEME_CASES],
    };
    [common, code, cases].concat()
}

/// The SDK, to be put below `sdk`.
pub(super) fn sdk(language: Language) -> Vec<File> {
    let own = match language {
        Language::Rust => RUST_SDK,
        Language::Js => JS_SDK,
        Language::Python => PYTHON_SDK,
        Language::Go => GO_SDK,
    };
    [COMMON_SDK, own].concat()
}

const RUST: &[File] = &[
    template!("README.md", "rust/README.md"),
    template!("Cargo.toml", "rust/Cargo.toml"),
    template!(".gitignore", "rust/gitignore"),
];
const RUST_SCHEME: &[File] = &[
    template!("README.md", "rust/README.md"),
    template!("Cargo.toml", "rust/scheme.toml"),
    template!(".gitignore", "rust/gitignore"),
];
const JS: &[File] = &[
    template!("README.md", "js/README.md"),
    template!("package.json", "js/package.json"),
    template!(".gitignore", "js/gitignore"),
];
const PYTHON: &[File] = &[
    template!("README.md", "python/README.md"),
    template!("requirements.txt", "python/requirements.txt"),
    template!(".gitignore", "python/gitignore"),
];
const GO: &[File] =
    &[template!("README.md", "go/README.md"), template!("go.mod", "go/go.mod"), template!(".gitignore", "go/gitignore")];

const COMMON_SDK: &[File] = &[
    File { path: "LICENSE", text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../LICENSE")) },
    sdk!("cases.md"),
    sdk!("wit/plugin.wit"),
];

const RUST_SDK: &[File] = &[
    sdk!("rust/Cargo.toml"),
    sdk!("rust/src/event.rs"),
    sdk!("rust/src/exchange.rs"),
    sdk!("rust/src/failure.rs"),
    sdk!("rust/src/glue.rs"),
    sdk!("rust/src/heap.rs"),
    sdk!("rust/src/host.rs"),
    sdk!("rust/src/lib.rs"),
    sdk!("rust/src/output.rs"),
    sdk!("rust/src/testing.rs"),
];

const JS_SDK: &[File] = &[
    sdk!("js/README.md"),
    sdk!("js/bin/tidegate-plugin.js"),
    sdk!("js/package.json"),
    sdk!("js/src/bytes.js"),
    sdk!("js/src/event.js"),
    sdk!("js/src/exchange.js"),
    sdk!("js/src/failure.js"),
    sdk!("js/src/globals.js"),
    sdk!("js/src/glue.js"),
    sdk!("js/src/host.js"),
    sdk!("js/src/index.d.ts"),
    sdk!("js/src/index.js"),
    sdk!("js/src/kv.js"),
    sdk!("js/src/output.js"),
    sdk!("js/src/testing.d.ts"),
    sdk!("js/src/testing.js"),
];

const PYTHON_SDK: &[File] = &[
    sdk!("python/README.md"),
    sdk!("python/pyproject.toml"),
    sdk!("python/tidegate_plugin/__init__.py"),
    sdk!("python/tidegate_plugin/__main__.py"),
    sdk!("python/tidegate_plugin/build.py"),
    sdk!("python/tidegate_plugin/event.py"),
    sdk!("python/tidegate_plugin/exchange.py"),
    sdk!("python/tidegate_plugin/failure.py"),
    sdk!("python/tidegate_plugin/glue.py"),
    sdk!("python/tidegate_plugin/guest.py"),
    sdk!("python/tidegate_plugin/host.py"),
    sdk!("python/tidegate_plugin/kv.py"),
    sdk!("python/tidegate_plugin/output.py"),
    sdk!("python/tidegate_plugin/testing.py"),
];

const GO_SDK: &[File] = &[
    sdk!("go/README.md"),
    sdk!("go/exchange.go"),
    sdk!("go/filter/export.go"),
    sdk!("go/filter/filter.go"),
    sdk!("go/glue.go"),
    sdk!("go/go.mod"),
    sdk!("go/host.go"),
    sdk!("go/internal/abi/abi.go"),
    sdk!("go/internal/abi/exchange.go"),
    sdk!("go/internal/abi/kv.go"),
    sdk!("go/judge/export.go"),
    sdk!("go/judge/judge.go"),
    sdk!("go/plugin.go"),
    sdk!("go/plugintest/plugintest.go"),
    sdk!("go/plugintest/table.go"),
    sdk!("go/respond/export.go"),
    sdk!("go/respond/respond.go"),
    sdk!("go/sign/export.go"),
    sdk!("go/sign/sign.go"),
    sdk!("go/transform/export.go"),
    sdk!("go/transform/transform.go"),
    sdk!("go/verify/export.go"),
    sdk!("go/verify/verify.go"),
];
