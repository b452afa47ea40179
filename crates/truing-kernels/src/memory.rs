//! Large buffers. On Linux the pages of zeroed ones are asked to be huge: a model's gradients and moments are touched
//! for the first time inside the first step, and 4 KiB faults there cost seconds. And a buffer that is freed goes back
//! to the system, as the memory planner assumes.

#![allow(unsafe_code, reason = "advice to the operating system and the allocator about our own memory")]

/// `len` zeros, in huge pages where the system gives them.
#[must_use]
pub fn zeroed(len: usize) -> Vec<f32> {
    let mut buffer = vec![0.0; len];
    advise_huge_pages(&mut buffer);
    buffer
}

/// `len` zero bytes, in huge pages where the system gives them.
pub(crate) fn zeroed_bytes(len: usize) -> Vec<i8> {
    let mut buffer = vec![0; len];
    advise_huge_pages(&mut buffer);
    buffer
}

#[cfg(target_os = "linux")]
fn advise_huge_pages<T>(buffer: &mut [T]) {
    const HUGE_PAGE_BYTES: usize = 2 << 20;
    let start = buffer.as_mut_ptr() as usize;
    let first = start.next_multiple_of(HUGE_PAGE_BYTES);
    let end = (start + size_of_val(buffer)) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if first < end {
        let pages = std::ptr::with_exposed_provenance_mut(first);
        // SAFETY: whole pages inside memory that we own; the advice changes neither content nor mapping.
        // A refusal only means small pages.
        let _ = unsafe { rustix::mm::madvise(pages, end - first, rustix::mm::Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages<T>(_buffer: &mut [T]) {}

/// From this size on a buffer is a mapping of its own, which is unmapped when the buffer is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BUFFER_BYTES: libc::c_int = 1 << 20;

/// Makes the process return buffers of 1 MiB or more to the system when they are freed. Call it once, before any thread
/// is started.
///
/// By default glibc raises this threshold up to 32 MiB as buffers are freed, and then keeps a freed buffer in the arena
/// of the thread that allocated it. Which thread of a pool allocates is chance, so each arena ends up with memory that
/// the others cannot use: measured, a GRPO step with 64 completions of a prompt peaked at 1.6 times the memory that was
/// alive. Does nothing with another C library.
pub fn return_large_buffers_when_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a parameter of the allocator; no memory is touched. A refusal (0) leaves the default.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BUFFER_BYTES) };
}

/// Returns to the system what the process has freed and the allocator still holds, in whole pages, wherever it lies.
///
/// Buffers below 1 MiB that were freed can stay in the arenas of the allocator, between others that are in use, such as
/// the blocks of a cache of keys and values. Call it where much was freed and other sizes are asked for next. Does
/// nothing with another C library.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: gives up pages that hold nothing. The result only says whether there were any.
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn small_and_large_buffers_are_zero() {
        for len in [0, 1, 1000, (8 << 20) / 4 + 3] {
            let buffer = super::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.capacity(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
        }
    }
}
