//! Write Tidegate plugins in Rust.
//!
//! A plugin is a type that implements [`Filter`] or [`Transform`], exported with [`export!`], in a crate of type `cdylib`:
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
//! - Every event gets a fresh instance: statics do not outlive it.
//! - [`Host::now`] is the time at which the event was accepted, and [`Host::random_bytes`] is seeded from its id, so that a
//!   retry gives the same outputs.
//! - The crate brings a global allocator that suits short lives; without the feature `heap` it is the standard one, or yours.
//! - A panic is a trap: its message is logged, and the connection's failure policy applies. Return a [`Failure`] instead.

mod event;
mod failure;
#[doc(hidden)]
pub mod glue;
#[cfg(all(target_arch = "wasm32", feature = "heap"))]
mod heap;
mod host;
mod output;
pub mod testing;

pub use failure::Failure;
pub use glue::filter::tidegate::plugin::types::{Attribute, Event, Header, Request, Retry};
pub use host::{Algorithm, Host, Level};
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

/// Exports a type as the plugin: `export!(filter: T)`, `export!(transform: T)` or `export!(filter: T, transform: U)`. Once a crate.
#[macro_export]
macro_rules! export {
    (filter: $filter:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::glue::assert_filter::<$filter>();
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            $crate::__implement!(filter, $filter);
            $crate::glue::filter::export_filter!(Exported with_types_in $crate::glue::filter);
        };
    };
    (transform: $transform:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::glue::assert_transform::<$transform>();
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            $crate::__implement!(transform, $transform);
            $crate::glue::transform::export_transform!(Exported with_types_in $crate::glue::transform);
        };
    };
    (filter: $filter:ty, transform: $transform:ty) => {
        $crate::export!(filter: $filter);
        $crate::export!(transform: $transform);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __implement {
    (filter, $filter:ty) => {
        impl $crate::glue::filter::exports::tidegate::plugin::filter::Guest for Exported {
            fn keep(event: $crate::Event) -> ::core::result::Result<bool, $crate::Failure> {
                $crate::glue::keep::<$filter>(event)
            }
        }
    };
    (transform, $transform:ty) => {
        impl $crate::glue::transform::exports::tidegate::plugin::transform::Guest for Exported {
            fn run(event: $crate::Event) -> ::core::result::Result<::std::vec::Vec<$crate::Output>, $crate::Failure> {
                $crate::glue::run::<$transform>(event)
            }
        }
    };
}
