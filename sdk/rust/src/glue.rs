//! Between the generated bindings and the traits. Used by [`crate::export!`]; not for use by hand.

use std::panic;

use crate::host::Gateway;
use crate::{
    Arrival, Attempt, Event, Failure, Filter, Header, Judge, Judgement, Output, Respond, Response, Sign, Transform, Verification,
    Verify,
};

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

/// Bindings of another world, with the types and host interfaces of [`filter`], and more that others have made already.
macro_rules! bindings {
    ($module:ident, $world:tt, $export:tt, $path:tt $(, $interface:tt: $made:path)*) => {
        #[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all)]
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                world: $world,
                pub_export_macro: true,
                export_macro_name: $export,
                default_bindings_module: $path,
                with: {
                    "tidegate:plugin/types@1.1.0": crate::glue::filter::tidegate::plugin::types,
                    "tidegate:plugin/log@1.1.0": crate::glue::filter::tidegate::plugin::log,
                    "tidegate:plugin/config@1.1.0": crate::glue::filter::tidegate::plugin::config,
                    "tidegate:plugin/secret@1.1.0": crate::glue::filter::tidegate::plugin::secret,
                    "tidegate:plugin/clock@1.1.0": crate::glue::filter::tidegate::plugin::clock,
                    "tidegate:plugin/random@1.1.0": crate::glue::filter::tidegate::plugin::random,
                    "tidegate:plugin/hmac@1.1.0": crate::glue::filter::tidegate::plugin::hmac,
                    "tidegate:plugin/kv@1.1.0": crate::glue::filter::tidegate::plugin::kv,
                    $($interface: $made,)*
                },
            });
        }
    };
}

bindings!(transform, "transform-plugin", "export_transform", "tidegate_plugin::glue::transform");
bindings!(verify, "verify-plugin", "export_verify", "tidegate_plugin::glue::verify");
bindings!(
    respond, "respond-plugin", "export_respond", "tidegate_plugin::glue::respond",
    "tidegate:plugin/exchange@1.1.0": crate::glue::verify::tidegate::plugin::exchange
);
bindings!(
    sign, "sign-plugin", "export_sign", "tidegate_plugin::glue::sign",
    "tidegate:plugin/exchange@1.1.0": crate::glue::verify::tidegate::plugin::exchange
);
bindings!(
    judge, "judge-plugin", "export_judge", "tidegate_plugin::glue::judge",
    "tidegate:plugin/exchange@1.1.0": crate::glue::verify::tidegate::plugin::exchange
);

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

/// Checks a request on behalf of the gateway.
pub fn check<T: Verify>(arrival: Arrival) -> Result<Verification, Failure> {
    log_panics();
    T::check(arrival, &Gateway)
}

/// Answers a request on behalf of the gateway.
pub fn answer<T: Respond>(arrival: Arrival) -> Result<Option<Response>, Failure> {
    log_panics();
    T::answer(arrival, &Gateway)
}

/// Signs an attempt on behalf of the gateway.
pub fn headers<T: Sign>(attempt: Attempt) -> Result<Vec<Header>, Failure> {
    log_panics();
    T::headers(attempt, &Gateway)
}

/// Judges an answer on behalf of the gateway.
pub fn judge<T: Judge>(attempt: Attempt, response: Response) -> Result<Judgement, Failure> {
    log_panics();
    T::judge(attempt, response, &Gateway)
}

/// A panic ends in a trap that says nothing; what it had to say goes to the log first.
fn log_panics() {
    panic::set_hook(Box::new(|panic| Gateway.log_error(&panic.to_string())));
}

/// On the host nothing is exported (its linkers refuse the names), but the types are used and checked.
pub const fn assert_filter<T: Filter>() {}

/// See [`assert_filter`].
pub const fn assert_transform<T: Transform>() {}

/// See [`assert_filter`].
pub const fn assert_verify<T: Verify>() {}

/// See [`assert_filter`].
pub const fn assert_respond<T: Respond>() {}

/// See [`assert_filter`].
pub const fn assert_sign<T: Sign>() {}

/// See [`assert_filter`].
pub const fn assert_judge<T: Judge>() {}
