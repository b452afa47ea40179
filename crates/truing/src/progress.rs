//! Shows events during work: bars on a terminal, a plain line every few seconds elsewhere. All of it goes to stderr.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use truing_types::{Event, EventSink};

use crate::printer::Printer;
use crate::time_left::Estimator;
use crate::units;

/// Seconds between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// How often a bar's time is drawn anew while nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// The sink that fits this process's stderr.
pub(crate) fn for_this_terminal(printer: &Printer) -> Box<dyn EventSink> {
    if printer.is_quiet() {
        Box::new(WarningsOnly(*printer))
    } else if printer.stderr_is_terminal() {
        Box::new(Bars::new(*printer, MultiProgress::new()))
    } else {
        Box::new(PlainLines { printer: *printer, phases: Vec::new(), last_line: None })
    }
}

/// Hands every event to several sinks, in order.
pub(crate) struct FanOut(pub(crate) Vec<Box<dyn EventSink>>);

impl EventSink for FanOut {
    fn emit(&mut self, event: Event) {
        if let Some((last, others)) = self.0.split_last_mut() {
            for sink in others {
                sink.emit(event.clone());
            }
            last.emit(event);
        }
    }
}

/// Under `--quiet`.
struct WarningsOnly(Printer);

impl EventSink for WarningsOnly {
    fn emit(&mut self, event: Event) {
        if let Event::Warning(text) = event {
            self.0.warning(text);
        }
    }
}

/// Bars, one per running phase; a phase inside another is below it.
struct Bars {
    printer: Printer,
    screen: MultiProgress,
    phases: Vec<BarPhase>,
}

struct BarPhase {
    bar: ProgressBar,
    estimator: Arc<Mutex<Estimator>>,
    /// What the work said last.
    note: String,
    /// The last figures of a step.
    metrics: String,
}

impl BarPhase {
    /// Changes the estimate at the phase's time, and shows where it then stands. The bar's own thread locks the
    /// bar and then the estimator to draw it, so the bar must not be asked anything while the estimator is locked.
    fn estimate(&self, change: impl FnOnce(&mut Estimator, f64)) {
        let now = self.bar.elapsed().as_secs_f64();
        let Ok(mut estimator) = self.estimator.lock() else { return };
        change(&mut estimator, now);
        let (done, total) = estimator.position();
        drop(estimator);
        if total > 0 {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }

    /// Shows the note and the figures behind the bar; what the line has no room for is cut off.
    fn show_message(&self) {
        let parts = [&self.note, &self.metrics].map(String::as_str);
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.bar.set_message(format!("  {}", parts.join(", ")));
    }
}

impl Bars {
    fn new(printer: Printer, screen: MultiProgress) -> Self {
        Self { printer, screen, phases: Vec::new() }
    }

    /// Begins a phase, or continues the one of that name (training after an evaluation).
    fn begin(&mut self, phase: String, total: Option<u64>) {
        if let Some(place) = self.phases.iter().position(|known| known.bar.prefix() == phase) {
            for inner in self.phases.drain(place + 1..) {
                inner.bar.finish_and_clear();
                self.screen.remove(&inner.bar);
            }
            if let (Some(running), Some(remaining)) = (self.phases.get(place), total) {
                running.estimate(|estimator, now| estimator.go_on(remaining, now));
            }
            return;
        }
        let bar = self.screen.add(total.map_or_else(ProgressBar::new_spinner, ProgressBar::new));
        let estimator = Arc::new(Mutex::new(Estimator::new(total.unwrap_or(0), 0.0)));
        let template = match total {
            Some(_) => "{prefix} {bar:16.cyan/dim} {percent:>3} %  {left}{wide_msg:.dim}",
            None => "{spinner:.cyan} {prefix}  {elapsed}{wide_msg:.dim}",
        };
        let shown = Arc::clone(&estimator);
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸─")
            .with_key("left", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                if let Ok(estimator) = shown.lock() {
                    let _ = write!(out, "{}", estimator.left(state.elapsed().as_secs_f64()));
                }
            });
        bar.set_style(style);
        bar.set_prefix(phase);
        bar.enable_steady_tick(TICK);
        self.phases.push(BarPhase { bar, estimator, note: String::new(), metrics: String::new() });
    }

    fn say(&self, text: &str) {
        // A closed terminal is no reason to stop the work.
        let _ = self.screen.println(text);
    }
}

impl EventSink for Bars {
    fn emit(&mut self, event: Event) {
        match event {
            Event::PhaseStarted { phase, total } => self.begin(phase, total),
            Event::Progress { done, note } => {
                if let Some(phase) = self.phases.last_mut() {
                    phase.estimate(|estimator, now| estimator.update(done, now));
                    if !note.is_empty() {
                        phase.note = note;
                    }
                    phase.show_message();
                }
            }
            Event::PhaseFinished => {
                if let Some(BarPhase { bar, .. }) = self.phases.pop() {
                    let line = format!("{}  {}", bar.prefix(), units::duration(bar.elapsed().as_secs_f64()));
                    bar.finish_and_clear();
                    self.screen.remove(&bar);
                    self.say(&line);
                }
            }
            Event::Metrics { step, values } => {
                if is_evaluation(&values) {
                    self.say(&format!("step {step}, {}", figures(&values)));
                } else if let Some(phase) = self.phases.last_mut() {
                    phase.metrics = figures(&values);
                    phase.show_message();
                }
            }
            Event::Note(text) => self.say(&text),
            Event::Warning(text) => self.screen.suspend(|| self.printer.warning(text)),
            Event::Saved { what, path } => self.say(&format!("saved {what}: {}", path.display())),
        }
    }
}

/// Lines for logs and pipes.
struct PlainLines {
    printer: Printer,
    phases: Vec<PlainPhase>,
    last_line: Option<Instant>,
}

struct PlainPhase {
    name: String,
    started: Instant,
    estimator: Estimator,
    metrics: String,
}

impl PlainLines {
    /// Whether it is time for another line; if so, the clock starts anew.
    fn is_due(&mut self) -> bool {
        let is_due = self.last_line.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL);
        if is_due {
            self.last_line = Some(Instant::now());
        }
        is_due
    }
}

impl EventSink for PlainLines {
    fn emit(&mut self, event: Event) {
        match event {
            Event::PhaseStarted { phase, total }
                if let Some(place) = self.phases.iter().position(|known| known.name == phase) =>
            {
                self.phases.truncate(place + 1);
                let going_on = &mut self.phases[place];
                going_on.estimator.go_on(total.unwrap_or(0), going_on.started.elapsed().as_secs_f64());
            }
            Event::PhaseStarted { phase, total } => {
                self.printer.note(format_args!("{phase} ..."));
                self.last_line = Some(Instant::now());
                self.phases.push(PlainPhase {
                    name: phase,
                    started: Instant::now(),
                    estimator: Estimator::new(total.unwrap_or(0), 0.0),
                    metrics: String::new(),
                });
            }
            Event::Progress { done, note } => {
                let is_due = self.is_due();
                if let Some(phase) = self.phases.last_mut() {
                    let now = phase.started.elapsed().as_secs_f64();
                    phase.estimator.update(done, now);
                    if is_due {
                        let mut line = phase.name.clone();
                        let (done, total) = phase.estimator.position();
                        if total > 0 {
                            let percent = 100.0 * done as f64 / total as f64;
                            line += &format!(" {percent:.0} %, {}", phase.estimator.left(now));
                        }
                        for more in [&note, &phase.metrics] {
                            if !more.is_empty() {
                                line += &format!(", {more}");
                            }
                        }
                        self.printer.note(line);
                    }
                }
            }
            Event::PhaseFinished => {
                if let Some(phase) = self.phases.pop() {
                    let seconds = phase.started.elapsed().as_secs_f64();
                    self.printer.note(format_args!("{}: done in {}", phase.name, units::duration(seconds)));
                }
            }
            Event::Metrics { step, values } => {
                let figures = figures(&values);
                match self.phases.last_mut() {
                    Some(phase) if !is_evaluation(&values) => phase.metrics = figures,
                    _ => self.printer.note(format_args!("step {step}, {figures}")),
                }
            }
            Event::Note(text) => self.printer.note(text),
            Event::Warning(text) => self.printer.warning(text),
            Event::Saved { what, path } => {
                self.printer.note(format_args!("saved {what}: {}", path.display()));
            }
        }
    }
}

fn is_evaluation(values: &BTreeMap<String, f64>) -> bool {
    values.keys().any(|name| name.starts_with("eval"))
}

/// The few figures that a person watches, in a fixed order, as far as they are there.
fn figures(values: &BTreeMap<String, f64>) -> String {
    let watched: [(&str, &str, usize); 6] = [
        ("loss", "loss", 4),
        ("eval_loss", "held-out loss", 4),
        ("mean_token_accuracy", "accuracy", 3),
        ("grad_norm", "gradient norm", 2),
        ("learning_rate", "rate", 0),
        ("tokens_per_second", "tokens/s", 0),
    ];
    let figure = |&(name, label, digits): &(&str, &str, usize)| {
        let value = values.get(name)?;
        Some(match name {
            "learning_rate" => format!("{label} {value:.2e}"),
            "tokens_per_second" => format!("{value:.0} {label}"),
            _ => format!("{label} {value:.digits$}"),
        })
    };
    watched.iter().filter_map(figure).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that is drawn on and that nobody looks at.
    #[derive(Debug)]
    struct Unseen;

    impl TermLike for Unseen {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, _: &str) -> io::Result<()> {
            Ok(())
        }

        fn write_str(&self, _: &str) -> io::Result<()> {
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn work_and_the_thread_that_draws_never_wait_for_each_other() {
        let (send_done, done) = mpsc::channel();
        std::thread::spawn(move || {
            let screen = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(Unseen)));
            let mut bars = Bars::new(Printer::new(false, true), screen);
            bars.emit(Event::PhaseStarted { phase: "training".into(), total: Some(10_000) });
            let drawn = bars.phases[0].bar.clone();
            let drawing = std::thread::spawn(move || (0..10_000).for_each(|_| drawn.force_draw()));
            for done in 0..10_000 {
                bars.emit(Event::Progress { done, note: String::new() });
            }
            bars.emit(Event::PhaseStarted { phase: "training".into(), total: Some(10) });
            drawing.join().unwrap();
            bars.emit(Event::PhaseFinished);
            send_done.send(()).unwrap();
        });
        done.recv_timeout(Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn a_step_reads_as_one_line() {
        let values =
            [("loss", 1.23456), ("learning_rate", 1e-5), ("tokens_per_second", 151.7), ("other", 1.0)];
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(figures(&values), "loss 1.2346, rate 1.00e-5, 152 tokens/s");
    }
}
