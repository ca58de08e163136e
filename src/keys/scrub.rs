//! Nothing of a secret stays behind where it was handled: not on the stack, and not in memory that
//! was given back, which libraries leave as it was.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::ptr;

use mimalloc::MiMalloc;

/// How deep opening and sealing go: age, scrypt, parsing.
const DEEP: usize = 64 * 1024;
/// How deep signing goes. It is done for each certificate, so this is not more than it takes.
const SHALLOW: usize = 16 * 1024;

/// Runs `work`, which opens, makes or seals a secret, and overwrites what it left on the stack and in
/// memory that it gave back. What it returns must not hold the secret inline.
pub(super) fn scrubbed<T>(work: impl FnOnce() -> T) -> T {
    scrub::<DEEP, T>(work)
}

/// The same for `work` that signs.
pub(super) fn scrubbed_signing<T>(work: impl FnOnce() -> T) -> T {
    scrub::<SHALLOW, T>(work)
}

fn scrub<const DEPTH: usize, T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn call<T>(work: impl FnOnce() -> T) -> T {
        let _handling = Handling::begin();
        work()
    }

    #[inline(never)]
    fn overwrite<const DEPTH: usize>() {
        let mut below = [0_u8; DEPTH];
        black_box(&mut below);
    }

    let result = call(work);
    overwrite::<DEPTH>();
    result
}

thread_local! {
    static HANDLES_SECRET: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, this thread handles a secret.
struct Handling {
    before: bool,
}

impl Handling {
    fn begin() -> Self {
        let before = HANDLES_SECRET.replace(true);
        Self { before }
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        HANDLES_SECRET.set(self.before);
    }
}

fn handles_secret() -> bool {
    HANDLES_SECRET.try_with(Cell::get).unwrap_or_default()
}

/// From this size on a block is the system's, which maps it by itself and unmaps it. mimalloc keeps
/// what is given back, and of memory that is locked the kernel takes nothing back: the passphrase's
/// key derivation alone would leave its 128 MiB behind.
const LARGE: usize = 1024 * 1024;

fn is_large(size: usize) -> bool {
    size >= LARGE
}

/// The allocator, which is mimalloc: a request makes some hundred small allocations, and the log's
/// writer frees what other threads made; both cost less than with the system's. Of a thread that
/// handles a secret it overwrites what is given back.
struct Scrubbing;

#[global_allocator]
static ALLOCATOR: Scrubbing = Scrubbing;

// SAFETY: memory is another allocator's, asked for and given back with the caller's own layouts, whose
// size tells which one's. What is overwritten is the caller's until it is given back.
unsafe impl GlobalAlloc for Scrubbing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe {
            if is_large(layout.size()) {
                System.alloc(layout)
            } else {
                MiMalloc.alloc(layout)
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if is_large(layout.size()) {
                System.alloc_zeroed(layout)
            } else {
                MiMalloc.alloc_zeroed(layout)
            }
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if handles_secret() {
            // SAFETY: the memory has that size and nobody uses it any more.
            unsafe { ptr::write_bytes(memory, 0, layout.size()) };
            // So that the compiler does not take that for useless.
            black_box(memory);
        }
        // SAFETY: as above.
        unsafe {
            if is_large(layout.size()) {
                System.dealloc(memory, layout);
            } else {
                MiMalloc.dealloc(memory, layout);
            }
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Moved by an allocator, what was there would stay.
        let may_stay = is_large(layout.size()) == is_large(size) && !handles_secret();
        if may_stay && is_large(size) {
            // SAFETY: as above.
            return unsafe { System.realloc(memory, layout, size) };
        }
        if may_stay {
            // SAFETY: as above.
            return unsafe { MiMalloc.realloc(memory, layout, size) };
        }
        // SAFETY: the caller sees to it that the size is one that a layout may have.
        let resized = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as above; the new memory overlaps nothing and is as large as what is copied.
        unsafe {
            let moved = self.alloc(resized);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(memory, moved, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handled_is_whole_and_panics_end_it() {
        let grown = scrubbed(|| {
            assert!(handles_secret());
            scrubbed_signing(|| assert!(handles_secret()));
            assert!(handles_secret());
            let mut grown = Vec::new();
            (0..5000_u32).for_each(|number| grown.push(number));
            grown.shrink_to_fit();
            grown
        });
        assert!(grown.into_iter().eq(0..5000));
        let mut across: Vec<u32> = (0..5000).collect();
        for (larger, smaller) in [(LARGE, 0), (LARGE * 2, LARGE * 3 / 2)] {
            across.reserve_exact(larger);
            assert!(across.iter().copied().eq(0..5000), "grown to {larger}");
            across.shrink_to(smaller);
            assert!(across.iter().copied().eq(0..5000), "shrunk to {smaller}");
        }
        assert!(std::panic::catch_unwind(|| scrubbed(|| panic!("as it should"))).is_err());
        assert!(!handles_secret());
    }
}
