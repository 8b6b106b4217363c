//! The guest's heap: what the linker left of the memory that an instance begins with, before it grows.
//!
//! Each event gets a fresh instance, and a memory that never grows is the cheapest one to make and to clean. The standard library's
//! allocator begins by growing.

use std::alloc::Layout;
use std::arch::wasm32::{memory_grow, memory_size};

use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

const PAGE: usize = 64 << 10;
/// More than the allocator needs for itself beside an allocation.
const OVERHEAD: usize = 256;

#[global_allocator]
static HEAP: TalcSyncCell<Heap, WasmBinning> = TalcSyncCell::new_wasm(Heap { begun: false });

#[derive(Debug)]
struct Heap {
    begun: bool,
}

unsafe extern "C" {
    /// Set by the linker: behind the stack and the data.
    static __heap_base: u8;
}

// SAFETY: it allocates nothing. The memory that it hands over is nobody else's: up to its first size the linker gave everything behind
// `__heap_base` to the heap, and what `memory_grow` gives is new.
unsafe impl Source for Heap {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        if !talc.source.begun {
            talc.source.begun = true;
            let base = (&raw const __heap_base).cast_mut();
            let size = memory_size::<0>() * PAGE - base.addr();
            if unsafe { talc.claim(base, size) }.is_some() {
                return Ok(());
            }
        }
        let pages = (layout.size() + layout.align() + OVERHEAD).div_ceil(PAGE);
        match memory_grow::<0>(pages) {
            usize::MAX => Err(()),
            before => unsafe { talc.claim((before * PAGE) as *mut u8, pages * PAGE) }.map(drop).ok_or(()),
        }
    }
}
