//! Working memory that outlives a call: one buffer per thread and use, grown when needed, aligned to cache lines.

use crate::memory::zeroed;
use std::cell::Cell;
use std::thread::LocalKey;

const FLOATS_PER_LINE: usize = 16;

/// A buffer that is kept between calls.
#[derive(Default)]
pub(crate) struct Scratch(Vec<f32>);

impl Scratch {
    pub(crate) const fn new() -> Self {
        Scratch(Vec::new())
    }

    /// `len` floats from the start of a cache line, holding whatever the last use left.
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
