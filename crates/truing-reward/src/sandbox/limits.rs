//! Resource limits of the sandboxed process.
#![allow(unsafe_code, reason = "system calls")]

use std::io;

use serde::{Deserialize, Serialize};

/// What a sandboxed program may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall-clock time, in milliseconds.
    pub wall_millis: u64,
    /// Processor time, in whole seconds.
    pub cpu_secs: u64,
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// Longest file, and size of `/tmp`, in bytes.
    pub file_bytes: u64,
    /// Open files.
    pub open_files: u64,
    /// Most bytes of each output stream that are kept.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall_millis: 6000,
            cpu_secs: 5,
            memory_bytes: 512 << 20,
            file_bytes: 16 << 20,
            open_files: 64,
            output_bytes: 16 << 10,
        }
    }
}

/// Sets the limits for this process and what it starts.
pub(super) fn apply(limits: &Limits) -> io::Result<()> {
    let pairs = [
        (libc::RLIMIT_CPU, limits.cpu_secs),
        (libc::RLIMIT_AS, limits.memory_bytes),
        (libc::RLIMIT_FSIZE, limits.file_bytes),
        (libc::RLIMIT_NOFILE, limits.open_files),
        (libc::RLIMIT_CORE, 0),
    ];
    for (resource, value) in pairs {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: the pointer is to a live, initialised `rlimit`, which the call only reads.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
