use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::{Ordering, compiler_fence};

/// One secret in memory of its own: locked out of swap where the limits allow, left out of core
/// dumps, wiped in children, and zeroized when dropped.
///
/// `T` must keep its secret inline; what it points to elsewhere is not protected.
pub(super) struct Locked<T> {
    /// Start of the mapping, which holds one live `T` and is ours alone.
    place: NonNull<T>,
    length: usize,
}

// SAFETY: `Locked` owns its `T` as `Box` does; it hands out only `&T`.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// Moves `secret` into memory of its own. The caller sees to the stack:
    /// [`scrubbed`](super::scrub::scrubbed).
    ///
    /// # Panics
    /// When the machine has no page of memory left.
    pub(super) fn new(secret: T) -> Self {
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        assert!(align_of::<T>() <= page);
        let length = size_of::<T>().div_ceil(page).max(1) * page;
        // SAFETY: a new anonymous private mapping aliases nothing.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(mapping, libc::MAP_FAILED, "out of memory");
        let place = NonNull::new(mapping.cast::<T>()).expect("mmap never maps page 0");
        // SAFETY: the range is the mapping just made. Each call is a hardening that may be
        // refused (RLIMIT_MEMLOCK); the secret is usable without it.
        unsafe {
            libc::mlock(mapping, length);
            libc::madvise(mapping, length, libc::MADV_DONTDUMP);
            libc::madvise(mapping, length, libc::MADV_WIPEONFORK);
        }
        // SAFETY: the mapping is large enough, aligned to a page, writable and not yet in use.
        unsafe { place.write(secret) };
        Self { place, length }
    }
}

impl<T> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `place` holds a live `T` for as long as `self` lives.
        unsafe { self.place.as_ref() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // SAFETY: `place` holds a live `T`, dropped once, here; the bytes are ours until unmapped.
        unsafe {
            ptr::drop_in_place(self.place.as_ptr());
            let bytes = self.place.as_ptr().cast::<u8>();
            for offset in 0..self.length {
                ptr::write_volatile(bytes.add(offset), 0);
            }
            compiler_fence(Ordering::SeqCst);
            libc::munmap(bytes.cast(), self.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_kept_whole_and_dropped_once() {
        struct Secret<'a>([u8; 5000], &'a std::cell::Cell<u32>);
        impl Drop for Secret<'_> {
            fn drop(&mut self) {
                self.1.set(self.1.get() + 1);
            }
        }
        let drops = std::cell::Cell::new(0);
        let locked = Locked::new(Secret([7; 5000], &drops));
        assert!(locked.0.iter().all(|byte| *byte == 7));
        drop(locked);
        assert_eq!(drops.get(), 1);
    }
}
