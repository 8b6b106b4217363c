//! Between the generated bindings and the traits. Used by [`crate::export!`]; not for use by hand.

use std::panic;

use crate::host::Gateway;
use crate::{Event, Failure, Filter, Output, Transform};

#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all)]
pub mod filter {
    wit_bindgen::generate!({
        path: "../wit",
        world: "filter-plugin",
        pub_export_macro: true,
        export_macro_name: "export_filter",
        default_bindings_module: "tidegate_plugin::glue::filter",
    });
}

#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all)]
pub mod transform {
    wit_bindgen::generate!({
        path: "../wit",
        world: "transform-plugin",
        pub_export_macro: true,
        export_macro_name: "export_transform",
        default_bindings_module: "tidegate_plugin::glue::transform",
        with: {
            "tidegate:plugin/types@1.0.0": crate::glue::filter::tidegate::plugin::types,
            "tidegate:plugin/log@1.0.0": crate::glue::filter::tidegate::plugin::log,
            "tidegate:plugin/config@1.0.0": crate::glue::filter::tidegate::plugin::config,
            "tidegate:plugin/secret@1.0.0": crate::glue::filter::tidegate::plugin::secret,
            "tidegate:plugin/clock@1.0.0": crate::glue::filter::tidegate::plugin::clock,
            "tidegate:plugin/random@1.0.0": crate::glue::filter::tidegate::plugin::random,
            "tidegate:plugin/hmac@1.0.0": crate::glue::filter::tidegate::plugin::hmac,
        },
    });
}

/// Runs a filter on behalf of the gateway.
pub fn keep<T: Filter>(event: Event) -> Result<bool, Failure> {
    log_panics();
    T::keep(event, &Gateway)
}

/// Runs a transform on behalf of the gateway.
pub fn run<T: Transform>(event: Event) -> Result<Vec<Output>, Failure> {
    log_panics();
    T::run(event, &Gateway)
}

/// A panic ends in a trap that says nothing; what it had to say goes to the log first.
fn log_panics() {
    panic::set_hook(Box::new(|panic| Gateway.log_error(&panic.to_string())));
}

/// On the host nothing is exported (its linkers refuse the names), but the type is used and checked.
pub const fn assert_filter<T: Filter>() {}

/// See [`assert_filter`].
pub const fn assert_transform<T: Transform>() {}
