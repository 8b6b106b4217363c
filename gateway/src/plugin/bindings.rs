//! Typed calls of what plugins export, made from `sdk/wit`.

wasmtime::component::bindgen!({
    path: "../sdk/wit",
    inline: "
        package tidegate:gateway;

        world offers {
            export tidegate:plugin/filter@1.0.0;
            export tidegate:plugin/transform@1.0.0;
        }
    ",
    world: "offers",
    ownership: Borrowing { duplicate_if_necessary: true },
});

pub(super) use self::exports::tidegate::plugin::{filter, transform};
pub(super) use self::tidegate::plugin::types;
