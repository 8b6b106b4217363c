//! Write Tidegate plugins in Rust.
//!
//! A plugin is a type that implements [`Filter`] or [`Transform`], exported with [`export!`], in a crate of type `cdylib`. There are also
//! [`Verify`] and [`Respond`] for sources, [`Sign`] and [`Judge`] for destinations.
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]
//!
//! [dependencies]
//! tidegate-plugin = "1"
//! ```
//!
//! ```
//! use tidegate_plugin::{Event, Failure, Host, Output, Transform};
//!
//! /// Sends the title of an issue to a chat.
//! struct Announce;
//!
//! impl Transform for Announce {
//!     fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
//!         let body: serde_json::Value = event.request.json()?;
//!         let Some(title) = body.pointer("/issue/title").and_then(|title| title.as_str()) else {
//!             host.log_info("not about an issue");
//!             return Ok(vec![]);
//!         };
//!         let message = serde_json::json!({ "text": format!("new issue: {title}") });
//!         Ok(vec![Output::new().clear_headers().remove_query().json(&message)?])
//!     }
//! }
//!
//! tidegate_plugin::export!(transform: Announce);
//!
//! // On the host, a plugin is an ordinary function:
//! use tidegate_plugin::testing::{FakeHost, event};
//! let event = event(r#"{"issue": {"title": "it leaks"}}"#);
//! let outputs = Announce::run(event, &FakeHost::new()).unwrap();
//! assert_eq!(outputs[0].body.as_deref(), Some(&br#"{"text":"new issue: it leaks"}"#[..]));
//! ```
//!
//! Build it for `wasm32-unknown-unknown`, then make a component of it with `tidegate plugin build`.
//!
//! - Every event gets a fresh instance: statics do not outlive it. What is to be remembered goes into the plugin's table, see
//!   [`Host::kv_get`].
//! - [`Host::now`] is the time at which the event was accepted, and [`Host::random_bytes`] is seeded from its id, so that a
//!   retry gives the same outputs.
//! - The crate brings a global allocator that suits short lives; without the feature `heap` it is the standard one, or yours.
//! - A panic is a trap: its message is logged, and the connection's failure policy applies. Return a [`Failure`] instead.

mod event;
mod exchange;
mod failure;
#[doc(hidden)]
pub mod glue;
#[cfg(all(target_arch = "wasm32", feature = "heap"))]
mod heap;
mod host;
mod output;
pub mod testing;

pub use exchange::{Judgement, Verification};
pub use failure::Failure;
pub use glue::filter::tidegate::plugin::types::{Attribute, Event, Header, Request, Retry};
pub use glue::verify::tidegate::plugin::exchange::{Arrival, Attempt, Response};
pub use host::{Algorithm, Host, KvError, Level};
pub use output::{Output, QueryChange};

/// Decides whether an event goes on.
pub trait Filter {
    /// True keeps the event; false drops it, which is recorded as filtered.
    fn keep(event: Event, host: &dyn Host) -> Result<bool, Failure>;
}

/// Makes the requests that go out.
pub trait Transform {
    /// One request for each output, in order; none drops the event, which is recorded as filtered.
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure>;
}

/// Checks a source's requests by its sender's own scheme, before they are accepted.
pub trait Verify {
    /// A failure is answered 503, and nothing is kept. Compare signatures with [`Host::hmac_verify`], which takes the same time
    /// wherever they differ.
    fn check(arrival: Arrival, host: &dyn Host) -> Result<Verification, Failure>;
}

/// Answers requests that are no events, like the handshake with which a sender asks whose an endpoint is.
pub trait Respond {
    /// The answer; none if the request is an event like any other.
    fn answer(arrival: Arrival, host: &dyn Host) -> Result<Option<Response>, Failure>;
}

/// Signs attempts by a receiver's own scheme.
pub trait Sign {
    /// Headers for this attempt; they replace lines of the same name.
    fn headers(attempt: Attempt, host: &dyn Host) -> Result<Vec<Header>, Failure>;
}

/// Says what a destination's answer means.
pub trait Judge {
    /// A failure leaves it to the gateway, like [`Judgement::Default`].
    fn judge(attempt: Attempt, response: Response, host: &dyn Host) -> Result<Judgement, Failure>;
}

/// Exports types as the plugin, once a crate: `export!(filter: T)`, `export!(filter: T, transform: U)`, and so on with `verify`,
/// `respond`, `sign` and `judge`.
#[macro_export]
macro_rules! export {
    ($($interface:ident: $type:ty),+ $(,)?) => {
        $($crate::__export!($interface, $type);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (filter, $type:ty) => {
        $crate::__export!(@ filter, assert_filter, export_filter, $type, {
            fn keep(event: $crate::Event) -> ::core::result::Result<bool, $crate::Failure> {
                $crate::glue::keep::<$type>(event)
            }
        });
    };
    (transform, $type:ty) => {
        $crate::__export!(@ transform, assert_transform, export_transform, $type, {
            fn run(event: $crate::Event) -> ::core::result::Result<::std::vec::Vec<$crate::Output>, $crate::Failure> {
                $crate::glue::run::<$type>(event)
            }
        });
    };
    (verify, $type:ty) => {
        $crate::__export!(@ verify, assert_verify, export_verify, $type, {
            fn check(arrival: $crate::Arrival) -> ::core::result::Result<$crate::Verification, $crate::Failure> {
                $crate::glue::check::<$type>(arrival)
            }
        });
    };
    (respond, $type:ty) => {
        $crate::__export!(@ respond, assert_respond, export_respond, $type, {
            fn answer(
                arrival: $crate::Arrival,
            ) -> ::core::result::Result<::core::option::Option<$crate::Response>, $crate::Failure> {
                $crate::glue::answer::<$type>(arrival)
            }
        });
    };
    (sign, $type:ty) => {
        $crate::__export!(@ sign, assert_sign, export_sign, $type, {
            fn headers(attempt: $crate::Attempt) -> ::core::result::Result<::std::vec::Vec<$crate::Header>, $crate::Failure> {
                $crate::glue::headers::<$type>(attempt)
            }
        });
    };
    (judge, $type:ty) => {
        $crate::__export!(@ judge, assert_judge, export_judge, $type, {
            fn judge(
                attempt: $crate::Attempt,
                response: $crate::Response,
            ) -> ::core::result::Result<$crate::Judgement, $crate::Failure> {
                $crate::glue::judge::<$type>(attempt, response)
            }
        });
    };
    (@ $interface:ident, $assert:ident, $export:ident, $type:ty, { $($function:tt)* }) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::glue::$assert::<$type>();
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            impl $crate::glue::$interface::exports::tidegate::plugin::$interface::Guest for Exported {
                $($function)*
            }
            $crate::glue::$interface::$export!(Exported with_types_in $crate::glue::$interface);
        };
    };
}
