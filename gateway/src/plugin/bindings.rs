//! Typed calls of what plugins export, made from `sdk/wit`.

wasmtime::component::bindgen!({
    path: "../sdk/wit",
    inline: "
        package tidegate:gateway;

        world offers {
            export tidegate:plugin/filter@1.1.0;
            export tidegate:plugin/transform@1.1.0;
            export tidegate:plugin/verify@1.1.0;
            export tidegate:plugin/respond@1.1.0;
            export tidegate:plugin/sign@1.1.0;
            export tidegate:plugin/judge@1.1.0;
        }
    ",
    world: "offers",
    ownership: Borrowing { duplicate_if_necessary: true },
});

pub(super) use self::exports::tidegate::plugin::{filter, judge, respond, sign, transform, verify};
pub(super) use self::tidegate::plugin::{exchange, types};
