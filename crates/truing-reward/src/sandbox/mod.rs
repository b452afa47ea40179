//! A closed room for code that a model wrote. The parent starts its own binary again with a hidden sub-command; that
//! child shuts itself in and only then starts the interpreter, so nothing is ever done between `fork` and `exec` of a
//! process with threads. Two programs can share a room and talk through pipes, one testing the other ([`Launcher`]).
//!
//! Covered: own user, mount, process, network and IPC namespaces; a file tree with the interpreter and the system's
//! libraries, read only, and a small `/tmp` in memory; the same once more by Landlock, with neither signals to others
//! nor TCP; no new processes, sockets, namespaces, tracing, mounts or signals (seccomp); limits of processor time,
//! address space, file size, open files, processes and threads; no new privileges; an empty environment; an end by the
//! wall clock and a cap on what is kept of the output.
//!
//! What of this a machine allows is found out and told ([`isolation`]). Nothing runs where neither namespaces nor
//! Landlock shut a program off from files, unless it is told to.
//!
//! Not covered: flaws of the kernel, and timing attacks. The kernel does not count the processes of a user who is root
//! outside. Linux only: elsewhere nothing runs.

#[cfg(target_os = "linux")]
mod child;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod isolation;
#[cfg(target_os = "linux")]
mod landlock_rules;
mod launcher;
mod limits;
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
pub use isolation::{Isolation, Level, isolation};
pub use launcher::{CHILD_COMMAND, Ending, Launcher, Output, SandboxError};
pub use limits::Limits;
