//! The live line of a phase: its parts, and which of them are shown where the terminal is narrow.

use std::fmt;

/// Columns of a terminal that does not tell its size.
const DEFAULT_COLUMNS: usize = 80;
/// Cells of a bar.
const BAR_CELLS: usize = 16;
const CYAN: &str = "\x1b[36m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// What is known of a phase.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LiveLine {
    pub(super) name: String,
    /// The part that is done; `None` where the end is not known.
    pub(super) share: Option<f32>,
    /// The remaining time, or where the end is not known the time since the start.
    pub(super) time: String,
    /// What the work said last.
    pub(super) note: String,
    /// The last figures of a step, the most important one first, with commas between them.
    pub(super) figures: String,
}

/// The parts that a line has.
#[derive(Debug, Clone, Copy)]
struct Choice {
    has_bar: bool,
    has_time: bool,
    has_note: bool,
    n_figures: usize,
}

/// A line that fits.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Composed {
    name: String,
    /// Full cells of the bar.
    bar: Option<usize>,
    /// Percentage and time.
    progress: String,
    /// Note and figures.
    message: String,
}

impl LiveLine {
    /// The line for a terminal of `columns`. The last figures go first, then the bar, which repeats the percentage,
    /// then the note, the first figure and the time. The percentage stays, and as much of the name as there is room
    /// for.
    pub(super) fn compose(&self, columns: usize) -> Composed {
        let n_figures = self.figures.split(", ").filter(|figure| !figure.is_empty()).count();
        let n_least = n_figures.min(1);
        let whole = Choice { has_bar: self.share.is_some(), has_time: true, has_note: true, n_figures };
        let without_bar = Choice { has_bar: false, n_figures: n_least, ..whole };
        let without_note = Choice { has_note: false, ..without_bar };
        let without_figures = Choice { n_figures: 0, ..without_note };
        let barest = Choice { has_time: false, ..without_figures };
        let fewer_figures = (n_least..=n_figures).rev().map(|n_figures| Choice { n_figures, ..whole });
        fewer_figures
            .chain([without_bar, without_note, without_figures, barest])
            .map(|choice| self.with(choice))
            .find(|line| line.n_columns() <= columns)
            .unwrap_or_else(|| self.with(barest).with_short_name(columns))
    }

    fn with(&self, choice: Choice) -> Composed {
        let percentage = self.share.map(|share| format!("{:>3.0} %", 100.0 * share));
        let time = choice.has_time.then(|| self.time.clone()).filter(|time| !time.is_empty());
        let progress: Vec<String> = percentage.into_iter().chain(time).collect();
        let note = Some(self.note.as_str()).filter(|_| choice.has_note);
        let figures = self.figures.split(", ").take(choice.n_figures);
        let message: Vec<&str> = note.into_iter().chain(figures).filter(|part| !part.is_empty()).collect();
        let n_full = |share: f32| (share.clamp(0.0, 1.0) * BAR_CELLS as f32) as usize;
        Composed {
            name: self.name.clone(),
            bar: self.share.filter(|_| choice.has_bar).map(n_full),
            progress: progress.join("  "),
            message: message.join(", "),
        }
    }
}

impl Composed {
    fn n_columns(&self) -> usize {
        self.to_string().chars().count()
    }

    fn with_short_name(mut self, columns: usize) -> Self {
        let excess = self.n_columns().saturating_sub(columns);
        let n_kept = self.name.chars().count().saturating_sub(excess);
        self.name = self.name.chars().take(n_kept).collect();
        self
    }

    /// Writes the line with its colours.
    pub(super) fn write_coloured(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.write(out, (CYAN, DIM, PLAIN))
    }

    fn write(&self, out: &mut dyn fmt::Write, (cyan, dim, plain): (&str, &str, &str)) -> fmt::Result {
        out.write_str(&self.name)?;
        if let Some(n_full) = self.bar {
            let (full, empty) = ("━".repeat(n_full), "─".repeat(BAR_CELLS - n_full));
            write!(out, " {cyan}{full}{plain}{dim}{empty}{plain}")?;
        }
        if !self.progress.is_empty() {
            // The percentage is set to the right already.
            let gap = if self.bar.is_some() || self.progress.starts_with(' ') { " " } else { "  " };
            write!(out, "{gap}{}", self.progress)?;
        }
        if !self.message.is_empty() {
            write!(out, "  {dim}{}{plain}", self.message)?;
        }
        Ok(())
    }
}

impl fmt::Display for Composed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, ("", "", ""))
    }
}

/// Columns of the terminal behind stderr, which may change at any time.
pub(super) fn terminal_columns() -> usize {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stderr())
        && size.ws_row > 0
        && size.ws_col > 0
    {
        return usize::from(size.ws_col);
    }
    DEFAULT_COLUMNS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training() -> LiveLine {
        LiveLine {
            name: "training".into(),
            share: Some(0.5),
            time: "about 10 min left".into(),
            note: "step 12 of 24".into(),
            figures: "loss 1.2346, accuracy 0.712, gradient norm 0.31, rate 1.00e-5, 152 tokens/s".into(),
        }
    }

    #[test]
    fn a_wide_terminal_shows_everything() {
        let line = training().compose(160).to_string();
        assert_eq!(
            line,
            "training ━━━━━━━━────────  50 %  about 10 min left  step 12 of 24, loss 1.2346, accuracy 0.712, \
             gradient norm 0.31, rate 1.00e-5, 152 tokens/s"
        );
        assert!(line.chars().count() > 80);
    }

    #[test]
    fn the_least_important_parts_go_first() {
        let shown = |columns| training().compose(columns).to_string();
        assert_eq!(
            shown(100),
            "training ━━━━━━━━────────  50 %  about 10 min left  step 12 of 24, loss 1.2346, accuracy 0.712"
        );
        assert_eq!(shown(70), "training  50 %  about 10 min left  step 12 of 24, loss 1.2346");
        assert_eq!(shown(50), "training  50 %  about 10 min left  loss 1.2346");
        assert_eq!(shown(40), "training  50 %  about 10 min left");
        assert_eq!(shown(20), "training  50 %");
        assert_eq!(shown(10), "trai  50 %");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let fetching = LiveLine {
            name: "fetching the model".into(),
            time: "12 s".into(),
            note: "model-00001-of-00004.safetensors, 1.2 GiB".into(),
            ..LiveLine::default()
        };
        assert_eq!(fetching.compose(40).to_string(), "fetching the model  12 s");
        for line in [training(), fetching] {
            for columns in 6..200 {
                let shown = line.compose(columns).to_string();
                assert!(shown.chars().count() <= columns, "{columns}: {shown}");
            }
        }
    }

    #[test]
    fn colours_change_nothing_else() {
        let mut coloured = String::new();
        let line = training().compose(80);
        line.write_coloured(&mut coloured).unwrap();
        let bare = [CYAN, DIM, PLAIN].iter().fold(coloured.clone(), |text, code| text.replace(code, ""));
        assert_eq!(bare, line.to_string());
        assert!(coloured.contains(CYAN));
    }
}
