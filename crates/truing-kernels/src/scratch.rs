//! Working memory that outlives a call: one buffer per thread and use, grown when needed, aligned to cache lines.

#![allow(unsafe_code, reason = "a slice of cache lines seen as a slice of floats")]

use std::cell::Cell;
use std::thread::LocalKey;

const FLOATS_PER_LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(align(64))]
#[expect(dead_code, reason = "seen only as floats, through a pointer")]
struct CacheLine([f32; FLOATS_PER_LINE]);

/// A buffer that is kept between calls.
#[derive(Default)]
pub(crate) struct Scratch(Vec<CacheLine>);

impl Scratch {
    pub(crate) const fn new() -> Self {
        Scratch(Vec::new())
    }

    /// The first `len` floats, holding whatever the last use left.
    pub(crate) fn floats(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(FLOATS_PER_LINE);
        if self.0.len() < lines {
            // The old numbers are of no use, so they are not copied.
            self.0 = Vec::new();
            self.0.resize(lines, CacheLine([0.0; FLOATS_PER_LINE]));
        }
        // SAFETY: a line is sixteen floats without padding, and there are enough lines.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
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
