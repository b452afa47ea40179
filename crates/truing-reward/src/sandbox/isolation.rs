//! How far a program is shut off on this machine.

use std::fmt;

/// What shuts a program off from files and other processes, the least first. System calls are filtered and resources
/// limited at every level but the first, where they are as far as can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing: a program can read and write what this user can.
    Nothing,
    /// Landlock: it reads the system's libraries and writes nothing.
    Landlock,
    /// Namespaces: it has a file tree of its own and sees no other process.
    Namespaces,
    /// Namespaces and Landlock.
    Full,
}

/// What was found on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// How far a program is shut off.
    pub level: Level,
    /// Each mechanism that does not work here, with the reason.
    pub missing: Vec<String>,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Nothing => "no sandbox",
            Level::Landlock => "Landlock, seccomp and limits",
            Level::Namespaces => "namespaces, seccomp and limits",
            Level::Full => "namespaces, Landlock, seccomp and limits",
        })?;
        for reason in &self.missing {
            write!(f, "; {reason}")?;
        }
        Ok(())
    }
}
