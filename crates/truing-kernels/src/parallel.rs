//! Sharing work between the threads of rayon's current pool without letting their number show in a result.
//!
//! Work is cut into items by its sizes alone; threads take items one after another from a common counter, the
//! largest first where the caller lists them so. Items write disjoint memory, so which thread runs which item,
//! and how many threads there are, cannot change a bit.

#![allow(unsafe_code, reason = "items write disjoint parts of one slice")]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work(item)` once for every item in `0..n_items`, on all threads of the current pool.
pub(crate) fn for_each_item(n_items: usize, work: impl Fn(usize) + Sync) {
    let n_threads = rayon::current_num_threads().min(n_items);
    if n_threads <= 1 {
        return (0..n_items).for_each(work);
    }
    let next = AtomicUsize::new(0);
    let take_items = || loop {
        let item = next.fetch_add(1, Ordering::Relaxed);
        if item >= n_items {
            break;
        }
        work(item);
    };
    rayon::scope(|scope| {
        for _ in 1..n_threads {
            scope.spawn(|_| take_items());
        }
        take_items();
    });
}

/// Elements an element-wise operation should have before a second thread pays for being woken.
pub(crate) const ELEMENTS_PER_ITEM: usize = 16 * 1024;

/// A slice that several items write, each its own part.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Disjoint<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Disjoint<'_, T> {}

// SAFETY: it is a `&mut [T]` handed out in parts that the callers of `part` keep apart.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// `len` elements from `offset`; panics past the end.
    ///
    /// # Safety
    /// No two parts that overlap may be alive at once.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    pub(crate) unsafe fn part(&self, offset: usize, len: usize) -> &'a mut [T] {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: inside the slice, and the caller keeps the parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }

    /// Where `len` elements from `offset` begin, for kernels that write between what others write; panics past the
    /// end.
    ///
    /// # Safety
    /// No two threads may touch one element through such pointers or parts at once.
    #[inline(always)]
    pub(crate) unsafe fn pointer(&self, offset: usize, len: usize) -> *mut T {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: inside the slice.
        unsafe { self.start.add(offset) }
    }
}
