//! The SDKs, through the sandbox: one set of cases (`sdk/conformance/cases`), and a guest in each language that is built from source
//! and passes them all.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod build;
mod own_scheme;
mod run;

use build::Guest;

#[tokio::test]
async fn a_guest_in_rust_passes_the_cases() {
    run::conformance("rust", &Guest::of_cases("rust")).await;
}

#[tokio::test]
async fn the_example_in_rust_speaks_a_scheme_of_its_own() {
    own_scheme::speaks(&Guest::of_example("rust")).await;
}

#[tokio::test]
async fn a_guest_in_js_passes_the_cases() {
    run::conformance("js", &Guest::of_cases("js")).await;
}

#[tokio::test]
async fn the_example_in_js_tells_of_a_push() {
    run::example("js", &Guest::of_example("js")).await;
}

#[tokio::test]
async fn a_guest_in_python_passes_the_cases() {
    run::conformance("python", &Guest::of_cases("python")).await;
}

#[tokio::test]
async fn the_example_in_python_tells_of_a_push() {
    run::example("python", &Guest::of_example("python")).await;
}

#[tokio::test]
async fn a_guest_in_go_passes_the_cases() {
    run::conformance("go", &Guest::of_cases("go")).await;
}

#[tokio::test]
async fn the_example_in_go_tells_of_a_push() {
    run::example("go", &Guest::of_example("go")).await;
}
