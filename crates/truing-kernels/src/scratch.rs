//! Working memory that outlives a call, grown when needed, aligned to cache lines: one buffer per thread and use where
//! every thread needs one at once ([`with_scratch`]), one per use where one caller at a time does ([`Stock`]).

use crate::memory::zeroed;
use std::cell::Cell;
use std::sync::{Mutex, PoisonError};
use std::thread::LocalKey;

const FLOATS_PER_LINE: usize = 16;

/// A buffer that is kept between calls.
#[derive(Default)]
pub(crate) struct Scratch(Vec<f32>);

impl Scratch {
    pub(crate) const fn new() -> Self {
        Scratch(Vec::new())
    }

    /// `len` floats from the start of a cache line, with the contents of the last use.
    pub(crate) fn floats(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len + FLOATS_PER_LINE {
            // The old numbers are of no use, so they are freed before the new buffer is made.
            self.0 = Vec::new();
            self.0 = zeroed(len + FLOATS_PER_LINE);
        }
        let start = self.0.as_ptr().align_offset(FLOATS_PER_LINE * size_of::<f32>());
        &mut self.0[start..start + len]
    }
}

/// Runs `work` with this thread's buffer of a use.
///
/// The buffer is taken out meanwhile: when the thread, waiting inside `work`, takes another task that needs the same
/// buffer, that task gets a fresh one.
pub(crate) fn with_scratch<R>(
    buffer: &'static LocalKey<Cell<Scratch>>,
    work: impl FnOnce(&mut Scratch) -> R,
) -> R {
    let mut scratch = buffer.take();
    let result = work(&mut scratch);
    buffer.set(scratch);
    result
}

/// Buffers of a use that one caller at a time has: large ones that belong to a whole operation. Which thread of a pool
/// runs the operation is chance; were there one for each thread, each would grow to the full size in the end.
pub(crate) struct Stock(Mutex<Vec<Scratch>>);

impl Stock {
    pub(crate) const fn new() -> Self {
        Stock(Mutex::new(Vec::new()))
    }

    /// Frees the buffers that nobody uses.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    /// Runs `work` with a buffer that nobody else uses meanwhile.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let mut scratch = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let result = work(&mut scratch);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_after_another_gets_one_buffer_and_two_at_once_get_two() {
        let stock = Stock::new();
        let address = |scratch: &mut Scratch| scratch.floats(100).as_ptr() as usize;
        let first = stock.with(address);
        let from_thread = std::thread::scope(|scope| scope.spawn(|| stock.with(address)).join());
        assert_eq!(from_thread.ok(), Some(first));
        let (outer, inner) = stock.with(|scratch| (address(scratch), stock.with(address)));
        assert!(outer == first && inner != first);
    }
}
