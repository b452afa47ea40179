//! A closed room for code that a model wrote. The parent starts its own binary again with a hidden sub-command; that
//! child shuts itself in and only then starts the interpreter, so nothing is ever done between `fork` and `exec` of a
//! process with threads.
//!
//! Covered: own user, mount, process, network and IPC namespaces; a file tree with the interpreter and the system's
//! libraries, read only, and a small `/tmp` in memory; no new processes, sockets, namespaces, tracing or mounts
//! (seccomp); limits of processor time, address space, file size and open files; no new privileges; an empty
//! environment; an end by the wall clock and a cap on what is kept of the output.
//!
//! Not covered: Landlock, flaws of the kernel, and timing attacks. Linux only.

mod child;
mod launcher;
mod limits;
mod namespaces;
mod seccomp;

pub use child::{CHILD_COMMAND, child_main};
pub use launcher::{Ending, Launcher, Output, SandboxError};
pub use limits::Limits;
