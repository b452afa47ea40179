//! Processes that this one starts and watches.

use std::process::{Child, Command};

/// Keeps the terminal's Ctrl-C from the child: this process passes one on, and a second one would end it at once.
#[cfg(unix)]
pub(crate) fn own_group(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// Keeps the terminal's Ctrl-C from the child, where the system can.
#[cfg(not(unix))]
pub(crate) fn own_group(_: &mut Command) {}

/// Asks a child to stop, and what it has started, as Ctrl-C in a terminal does: a shell waits for its programs.
#[cfg(unix)]
pub(crate) fn ask_to_stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    // One that has just ended needs no asking.
    let _ = pid.map(|pid| rustix::process::kill_process_group(pid, rustix::process::Signal::INT));
}

/// Ends a child.
#[cfg(not(unix))]
pub(crate) fn ask_to_stop(child: &mut Child) {
    let _ = child.kill();
}
