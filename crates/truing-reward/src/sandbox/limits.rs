//! Resource limits of the sandboxed process.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a sandboxed program may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall-clock time in milliseconds.
    pub wall_millis: u64,
    /// CPU time in seconds.
    pub cpu_secs: u64,
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// Maximum size of a file, and of `/tmp`, in bytes.
    pub file_bytes: u64,
    /// Open files.
    pub open_files: u64,
    /// Processes and threads. A program cannot start processes. Threads are counted only with namespaces.
    pub processes: u64,
    /// Bytes of each output stream that are kept.
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
            processes: 64,
            output_bytes: 16 << 10,
        }
    }
}

/// Sets the limits for this process and what it starts.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "system calls")]
pub(super) fn apply(limits: &Limits, has_own_user: bool) -> std::io::Result<()> {
    let mut pairs = vec![
        (libc::RLIMIT_CPU, limits.cpu_secs),
        (libc::RLIMIT_AS, limits.memory_bytes),
        (libc::RLIMIT_FSIZE, limits.file_bytes),
        (libc::RLIMIT_NOFILE, limits.open_files),
        (libc::RLIMIT_CORE, 0),
        // Memory beside the address space.
        (libc::RLIMIT_MEMLOCK, 0),
        (libc::RLIMIT_MSGQUEUE, 0),
    ];
    if has_own_user {
        // Otherwise everything that this user runs elsewhere would count.
        pairs.push((libc::RLIMIT_NPROC, limits.processes));
    }
    for (resource, value) in pairs {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: the pointer is to a live, initialised `rlimit`, which the call only reads.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
