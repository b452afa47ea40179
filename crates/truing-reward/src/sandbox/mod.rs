//! A sandbox for code that a model wrote. The parent starts its own binary again with a hidden sub-command; that
//! child shuts itself in and only then starts the interpreter, so nothing is ever done between `fork` and `exec` of a
//! process with threads. Two programs can share a sandbox and talk through pipes, one testing the other ([`Launcher`]).
//!
//! Covered at every level that shuts files off ([`Level`]):
//! - files: the interpreter and the system's libraries can be read, nothing can be written but three devices and, with
//!   namespaces, a small `/tmp` in memory (its bytes and its number of files are limited);
//! - other processes: no signals, also none by way of descriptors; no tracing, reading or writing of their memory; no
//!   change of their limits, priority, scheduling or processors; no new processes; no sockets; no shared memory,
//!   semaphores or message queues (System V or POSIX); no leases on files, no watching of files;
//! - limits of processor time, address space, file size, open files and locked memory. There is no memory beside the
//!   address space: neither shared segments nor `memfd_create`;
//! - no namespaces, mounts, kernel modules, keys, `bpf`, `io_uring`, `userfaultfd` or performance counters; no new
//!   privileges; no system call newer than the list in `seccomp.rs`;
//! - an empty environment; an end by the wall clock, together with the group that cannot be left, and with the parent;
//!   a cap on what is kept of the output.
//!
//! With namespaces also: own user, mount, process, network and IPC namespaces, so that nothing outside can even be
//! named; a limit on processes and threads. With Landlock alone, modes, owners, times and attributes of files are
//! closed by the system call filter, since Landlock does not guard them.
//!
//! [`isolation`] finds out what of this a machine allows. Nothing runs where neither namespaces nor Landlock shut a
//! program off from files, unless a setting allows it.
//!
//! Not covered: flaws of the kernel, and timing attacks. Pipes hold up to 1 MiB each beside the address space (half as
//! many as `open_files`). With Landlock alone, a program can ask whether a path exists, how long the file is and when
//! it was changed, lock a library file that it can read, see which process numbers are taken, and start as many threads
//! as fit into its address space; the kernel also does not count threads of a user who is root outside. Linux only:
//! elsewhere nothing runs.
//!
//! The parent looks at the clock for the wall-clock limit, and the child looks at it while a peer ends: exceptions to
//! the rule that libraries do not (ARCHITECTURE.md, invariant 8).

#[cfg(target_os = "linux")]
mod child;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod isolation;
#[cfg(target_os = "linux")]
mod landlock_rules;
mod launcher;
mod limits;
mod messages;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod seccomp;

#[cfg(target_os = "linux")]
pub use child::child_main;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::child_main;
pub use isolation::{Isolation, Level};
pub use launcher::{Launcher, isolation};
pub use limits::Limits;
pub use messages::{CHILD_COMMAND, Ending, Output, SandboxError};
