//! Where text goes: results to stdout, progress, notes and errors to stderr.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use truing_types::with_causes;

use crate::outcome::Hinted;

/// A text attribute, used only where the stream is a terminal and colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Headings and figures that matter.
    Bold,
    /// Things that may be skipped.
    Dim,
    /// Good news.
    Green,
    /// Things to look at.
    Yellow,
    /// Bad news.
    Red,
    /// Names.
    Cyan,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
            Self::Cyan => "36",
        }
    }
}

/// Writes results and notes. Small and copied freely; the streams themselves are the process's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    is_quiet: bool,
    /// Of several processes that run together rank 0 alone prints.
    rank: usize,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    wants_colour: bool,
}

impl Printer {
    /// Looks at the streams once.
    pub(crate) fn new(is_quiet: bool, no_colour: bool) -> Self {
        Self {
            is_quiet,
            rank: 0,
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            wants_colour: !no_colour,
        }
    }

    /// The printer of one of several processes that run together. All but the first print nothing but errors.
    pub(crate) fn of_rank(self, rank: usize) -> Self {
        Self { rank, is_quiet: self.is_quiet || rank > 0, ..self }
    }

    /// Whether progress may be drawn over itself.
    pub(crate) fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }

    /// Whether text on stderr has colours.
    pub(crate) fn colours_stderr(&self) -> bool {
        self.stderr_is_terminal && self.wants_colour
    }

    /// Whether a person reads the results.
    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Whether progress and notes are unwanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// A line of results.
    pub(crate) fn line(&self, text: impl fmt::Display) -> io::Result<()> {
        if self.rank > 0 {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")
    }

    /// Results without a line end, shown at once.
    pub(crate) fn text(&self, text: impl fmt::Display) -> io::Result<()> {
        if self.rank > 0 {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        write!(out, "{text}")?;
        out.flush()
    }

    /// A result as indented JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string_pretty(value)?)?;
        Ok(())
    }

    /// A note beside the results, on stderr.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.is_quiet {
            // Nobody reads stderr: nothing to be done, and no reason to stop the work.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// A warning on stderr; `--quiet` does not silence it.
    pub(crate) fn warning(&self, text: impl fmt::Display) {
        if self.rank > 0 {
            return;
        }
        let label = self.styled_for(self.stderr_is_terminal, Style::Yellow, "warning:");
        let _ = writeln!(io::stderr().lock(), "{label} {text}");
    }

    /// `text` with an attribute where stdout shows it.
    pub(crate) fn styled(&self, style: Style, text: impl fmt::Display) -> String {
        self.styled_for(self.stdout_is_terminal, style, text)
    }

    fn styled_for(&self, is_terminal: bool, style: Style, text: impl fmt::Display) -> String {
        if is_terminal && self.wants_colour {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_string()
        }
    }

    /// `error: ...` and, where there is advice, `hint: ...`.
    pub(crate) fn print_error(&self, error: &anyhow::Error) {
        let mut err = io::stderr().lock();
        let label = self.styled_for(self.stderr_is_terminal, Style::Red, "error:");
        let rank = if self.rank > 0 { format!(" rank {}:", self.rank) } else { String::new() };
        let _ = writeln!(err, "{label}{rank} {}", one_sentence(error));
        for cause in error.chain() {
            if let Some(hinted) = cause.downcast_ref::<Hinted>() {
                let label = self.styled_for(self.stderr_is_terminal, Style::Cyan, "hint:");
                let _ = writeln!(err, "{label} {}", hinted.hint);
            }
        }
    }
}

/// A path as a person would write it: without `.` and repeated separators; `..` stays, for it may lead out of a link.
pub(crate) fn clean_path(path: &Path) -> String {
    let clean: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    if clean.as_os_str().is_empty() { ".".to_owned() } else { clean.display().to_string() }
}

/// The chain of causes joined by colons; a cause whose text its parent already quotes is left out.
pub(crate) fn one_sentence(error: &anyhow::Error) -> String {
    with_causes(&**error)
}

/// A broken invariant is our fault, not the user's, and is said so.
pub(crate) fn print_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message");
    let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "error: internal error{place}: {message}");
    let _ = writeln!(
        err,
        "hint: this is a fault in truing; report it with the command line and the two lines above. \
         A training run can be continued with --resume."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_clean() {
        for (path, expected) in [
            ("recipes/./runs//a/", "recipes/runs/a"),
            ("./runs/a", "runs/a"),
            ("/tmp/./x/../y", "/tmp/x/../y"),
            ("../runs", "../runs"),
            ("./.", "."),
        ] {
            assert_eq!(clean_path(Path::new(path)), expected);
        }
    }

    #[test]
    fn causes_are_joined_once() {
        let error =
            anyhow::anyhow!("line 3 has no `messages`").context("data.jsonl").context("reading the data");
        assert_eq!(one_sentence(&error), "reading the data: data.jsonl: line 3 has no `messages`");
        let repeated = anyhow::anyhow!("disk full").context("saving: disk full");
        assert_eq!(one_sentence(&repeated), "saving: disk full");
    }
}
