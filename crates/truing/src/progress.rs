//! Shows events during work: bars on a terminal, plain lines elsewhere. All of it goes to stderr. A run whose phases
//! are parts of numbered steps (`step 3 of 60: sampling rollouts`) has a time of its own over all steps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use truing_types::{Event, EventSink};

mod live_line;

use live_line::LiveLine;

use crate::printer::{Printer, clean_path};
use crate::time_left::Estimator;
use crate::units;

/// Seconds between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// The same inside a step, which has a line of its own at its end.
const INSIDE_STEP_INTERVAL: Duration = Duration::from_secs(60);
/// How often a bar's time is redrawn while nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// The sink that fits this process's stderr.
pub(crate) fn for_this_terminal(printer: &Printer) -> Box<dyn EventSink> {
    if printer.is_quiet() {
        Box::new(WarningsOnly(*printer))
    } else if printer.stderr_is_terminal() {
        Box::new(Bars::new(*printer, MultiProgress::new()))
    } else {
        let printer = *printer;
        Box::new(PlainLines::new(Box::new(move |line| match line {
            Line::Note(text) => printer.note(text),
            Line::Warning(text) => printer.warning(text),
        })))
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

/// A phase that is part of a numbered step.
struct PartOfStep<'a> {
    step: u64,
    n_steps: u64,
    part: &'a str,
}

impl<'a> PartOfStep<'a> {
    fn of(phase: &'a str) -> Option<Self> {
        let (numbers, part) = phase.strip_prefix("step ")?.split_once(": ")?;
        let (step, n_steps) = numbers.split_once(" of ")?;
        Some(Self { step: step.parse().ok()?, n_steps: n_steps.parse().ok()?, part })
    }
}

/// Bars, one per running phase; a phase inside another is below it.
struct Bars {
    printer: Printer,
    screen: MultiProgress,
    /// How far all work is, above everything else.
    overall: Option<ProgressBar>,
    /// Over all steps, above the phases.
    run: Option<BarPhase>,
    phases: Vec<BarPhase>,
}

struct BarPhase {
    bar: ProgressBar,
    line: Arc<Mutex<BarLine>>,
}

/// What the thread that draws a bar reads.
struct BarLine {
    estimator: Estimator,
    /// Name, note and figures; what changes with the time is put in when the line is drawn.
    shown: LiveLine,
}

impl BarPhase {
    /// Changes what is known of the phase. The bar's own thread locks the bar and then the line to draw it, so the bar
    /// must not be asked anything while the line is locked.
    fn change<T>(&self, change: impl FnOnce(&mut BarLine) -> T) -> Option<T> {
        let mut line = self.line.lock().ok()?;
        Some(change(&mut line))
    }

    /// Changes the estimate at the phase's time, and shows where it then stands.
    fn estimate(&self, change: impl FnOnce(&mut Estimator, f64)) {
        let now = self.bar.elapsed().as_secs_f64();
        let position = self.change(|line| {
            change(&mut line.estimator, now);
            line.estimator.position()
        });
        let Some((done, total)) = position else { return };
        if total > 0 {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }

    fn name(&self) -> String {
        self.change(|line| line.shown.name.clone()).unwrap_or_default()
    }

    /// Shows the figures of a step.
    fn show_figures(&self, values: &BTreeMap<String, f64>) {
        self.change(|line| line.shown.figures = figures(values));
    }
}

impl Bars {
    fn new(printer: Printer, screen: MultiProgress) -> Self {
        Self { printer, screen, overall: None, run: None, phases: Vec::new() }
    }

    /// Shows how far all work is, or removes the line where there is no more.
    fn show_overall(&mut self, position: &str, left: &str) {
        if position.is_empty() {
            if let Some(line) = self.overall.take() {
                line.finish_and_clear();
                self.screen.remove(&line);
            }
            return;
        }
        let line = self.overall.get_or_insert_with(|| {
            let line = self.screen.insert(0, ProgressBar::new_spinner());
            line.set_style(
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            line
        });
        line.set_message(if left.is_empty() { position.to_owned() } else { format!("{position}, {left}") });
    }

    /// Begins a phase, below the bar of the whole run where it is part of a step.
    fn begin(&mut self, phase: String, total: Option<u64>) {
        let Some(PartOfStep { step, n_steps, part }) = PartOfStep::of(&phase) else {
            return self.begin_phase(phase, total);
        };
        if self.run.is_none() {
            self.run = Some(self.add_bar(String::new(), Some(n_steps), Estimator::of_run(n_steps, 0.0)));
        }
        if let Some(run) = &self.run {
            run.change(|line| line.shown.name = format!("step {step} of {n_steps}"));
            run.estimate(|estimator, now| estimator.update(step.saturating_sub(1), now));
        }
        self.begin_phase(format!("  {part}"), total);
    }

    /// Begins a phase, or continues the one of that name (training after an evaluation).
    fn begin_phase(&mut self, phase: String, total: Option<u64>) {
        let is_known = |known: &BarPhase| known.name() == phase;
        if let Some(place) = self.phases.iter().position(is_known) {
            for inner in self.phases.drain(place + 1..) {
                inner.bar.finish_and_clear();
                self.screen.remove(&inner.bar);
            }
            if let (Some(running), Some(remaining)) = (self.phases.get(place), total) {
                running.estimate(|estimator, now| estimator.go_on(remaining, now));
            }
            return;
        }
        let phase = self.add_bar(phase, total, Estimator::new(total.unwrap_or(0), 0.0));
        self.phases.push(phase);
    }

    fn add_bar(&self, name: String, total: Option<u64>, estimator: Estimator) -> BarPhase {
        let bar = self.screen.add(total.map_or_else(ProgressBar::new_spinner, ProgressBar::new));
        let shown = LiveLine { name, ..LiveLine::default() };
        let line = Arc::new(Mutex::new(BarLine { estimator, shown }));
        // The spinner takes two columns.
        let (template, n_taken) = if total.is_some() { ("{line}", 0) } else { ("{spinner:.cyan} {line}", 2) };
        let (drawn, printer, has_total) = (Arc::clone(&line), self.printer, total.is_some());
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("line", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let Ok(line) = drawn.lock() else { return };
                let elapsed = state.elapsed().as_secs_f64();
                let (share, time) = match has_total {
                    true => (Some(state.fraction()), line.estimator.left(elapsed).to_string()),
                    false => (None, units::duration(elapsed)),
                };
                let composed = LiveLine { share, time, ..line.shown.clone() }
                    .compose(live_line::terminal_columns().saturating_sub(n_taken));
                let _ = match printer.colours_stderr() {
                    true => composed.write_coloured(out),
                    false => write!(out, "{composed}"),
                };
            });
        bar.set_style(style);
        bar.enable_steady_tick(TICK);
        BarPhase { bar, line }
    }

    /// Ends a phase. Parts of steps are many and leave no line.
    fn finish(&self, phase: &BarPhase) {
        let line = format!("{}  {}", phase.name(), units::duration(phase.bar.elapsed().as_secs_f64()));
        phase.bar.finish_and_clear();
        self.screen.remove(&phase.bar);
        if !line.starts_with(' ') {
            self.say(&line);
        }
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
                if let Some(phase) = self.phases.last() {
                    phase.estimate(|estimator, now| estimator.update(done, now));
                    if !note.is_empty() {
                        phase.change(|line| line.shown.note = note);
                    }
                }
            }
            Event::PhaseFinished => {
                if let Some(phase) = self.phases.pop() {
                    self.finish(&phase);
                }
            }
            Event::Metrics { step, values } => {
                if is_evaluation(&values) {
                    self.say(&evaluation_line(step, &values));
                } else if let Some(run) = &self.run {
                    run.estimate(|estimator, now| estimator.update(step, now));
                    run.show_figures(&values);
                } else if let Some(phase) = self.phases.last() {
                    phase.show_figures(&values);
                }
            }
            Event::Overall { position, left } => self.show_overall(&position, &left),
            Event::Note(text) => self.say(&text),
            Event::Warning(text) => self.screen.suspend(|| self.printer.warning(text)),
            Event::Saved { what, path } => {
                // The model is the last thing that a run saves.
                if what == "model"
                    && let Some(run) = self.run.take()
                {
                    self.finish(&run);
                }
                self.say(&format!("saved {what}: {}", clean_path(&path)));
            }
        }
    }
}

/// What is written to a log or pipe.
enum Line {
    Note(String),
    Warning(String),
}

/// Lines for logs and pipes: one every few seconds, and one for each step of a run with numbered steps. Of the steps
/// inside a phase (`training`) the first, the last, the one before another phase, and one every few seconds have a
/// line.
struct PlainLines {
    write: Box<dyn FnMut(Line)>,
    /// Before the names of phases: which part of all work is under way. How long all parts still take is in the note
    /// with which a part begins.
    position: String,
    /// Over all steps, and when it began.
    run: Option<(Estimator, Instant)>,
    phases: Vec<PlainPhase>,
    last_line: Option<Instant>,
}

struct PlainPhase {
    name: String,
    started: Instant,
    estimator: Estimator,
    /// What the work said last.
    note: String,
    /// The line of the last step, until it is written.
    step_line: Option<String>,
    last_step_line: Option<Instant>,
}

impl PlainPhase {
    /// Whether a step of the run, or one inside the phase, is under way.
    fn is_in_step(&self) -> bool {
        PartOfStep::of(&self.name).is_some() || self.note.starts_with("step ")
    }
}

/// Whether it is time for another line; if so, the interval starts again.
fn is_due(last_line: &mut Option<Instant>, interval: Duration) -> bool {
    let is_due = last_line.is_none_or(|last| last.elapsed() >= interval);
    if is_due {
        *last_line = Some(Instant::now());
    }
    is_due
}

impl PlainLines {
    fn new(write: Box<dyn FnMut(Line)>) -> Self {
        Self { write, position: String::new(), run: None, phases: Vec::new(), last_line: None }
    }

    fn note(&mut self, text: impl Into<String>) {
        (self.write)(Line::Note(text.into()));
    }

    /// A phase's name after the part of all work that it belongs to.
    fn in_part(&self, phase: &str) -> String {
        if self.position.is_empty() { phase.to_owned() } else { format!("{}: {phase}", self.position) }
    }

    fn begin(&mut self, phase: String, total: Option<u64>) {
        self.write_step_line();
        if let Some(place) = self.phases.iter().position(|known| known.name == phase) {
            self.phases.truncate(place + 1);
            let going_on = &mut self.phases[place];
            going_on.estimator.go_on(total.unwrap_or(0), going_on.started.elapsed().as_secs_f64());
            return;
        }
        if let Some(PartOfStep { step, n_steps, .. }) = PartOfStep::of(&phase) {
            let (run, started) =
                self.run.get_or_insert_with(|| (Estimator::of_run(n_steps, 0.0), Instant::now()));
            run.update(step.saturating_sub(1), started.elapsed().as_secs_f64());
        } else {
            self.note(format!("{} ...", self.in_part(&phase)));
            self.last_line = Some(Instant::now());
        }
        self.phases.push(PlainPhase {
            name: phase,
            started: Instant::now(),
            estimator: Estimator::new(total.unwrap_or(0), 0.0),
            note: String::new(),
            step_line: None,
            last_step_line: None,
        });
    }

    /// The remaining time of the whole run, where its steps are counted.
    fn left_of_run(&self) -> Option<String> {
        let (run, started) = self.run.as_ref()?;
        Some(run.left(started.elapsed().as_secs_f64()).to_string())
    }

    fn progress(&mut self, done: u64, note: String) {
        let left_of_run = self.left_of_run();
        let name = self.phases.last().map(|phase| self.in_part(&phase.name)).unwrap_or_default();
        let Some(phase) = self.phases.last_mut() else { return };
        let now = phase.started.elapsed().as_secs_f64();
        phase.estimator.update(done, now);
        phase.note = note;
        let (done, total) = phase.estimator.position();
        // The end of a step's part is said by what follows it.
        let is_end_of_part = left_of_run.is_some() && total > 0 && done >= total;
        let interval = if phase.is_in_step() { INSIDE_STEP_INTERVAL } else { PLAIN_INTERVAL };
        if is_end_of_part || !is_due(&mut self.last_line, interval) {
            return;
        }
        let mut line = name;
        if total > 0 {
            line += &format!(", {:.0} %", 100.0 * done as f64 / total as f64);
        }
        match left_of_run {
            Some(left) => line += &format!("; run: {left}"),
            None if total > 0 => line += &format!(", {}", phase.estimator.left(now)),
            None => {}
        }
        if !phase.note.is_empty() {
            line += &format!(", {}", phase.note);
        }
        self.note(line);
    }

    /// Writes the line of the last step inside the running phase, where it is not written yet.
    fn write_step_line(&mut self) {
        let Some(phase) = self.phases.last_mut() else { return };
        let Some(line) = phase.step_line.take() else { return };
        phase.last_step_line = Some(Instant::now());
        self.last_line = phase.last_step_line;
        self.note(line);
    }

    fn metrics(&mut self, step: u64, values: &BTreeMap<String, f64>) {
        if is_evaluation(values) {
            return self.note(evaluation_line(step, values));
        }
        if let Some((run, started)) = &mut self.run {
            run.update(step, started.elapsed().as_secs_f64());
            let (_, n_steps) = run.position();
            let left = match step < n_steps {
                true => self.left_of_run().map_or_else(String::new, |left| format!("; {left}")),
                false => String::new(),
            };
            self.last_line = Some(Instant::now());
            return self.note(format!("step {step} of {n_steps}: {}{left}", figures(values)));
        }
        let Some(phase) = self.phases.last_mut() else {
            return self.note(format!("step {step}: {}", figures(values)));
        };
        // The work says how many steps there are.
        let of_step = format!("step {step}");
        let has_total = phase.note.strip_prefix(&of_step).is_some_and(|rest| rest.starts_with(" of "));
        let name = if has_total { phase.note.clone() } else { of_step };
        let (done, total) = phase.estimator.position();
        let left = match done < total {
            true => format!("; {}", phase.estimator.left(phase.started.elapsed().as_secs_f64())),
            false => String::new(),
        };
        phase.step_line = Some(format!("{name}: {}{left}", figures(values)));
        if phase.last_step_line.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) {
            self.write_step_line();
        }
    }
}

impl EventSink for PlainLines {
    fn emit(&mut self, event: Event) {
        match event {
            Event::PhaseStarted { phase, total } => self.begin(phase, total),
            Event::Progress { done, note } => self.progress(done, note),
            Event::PhaseFinished => {
                self.write_step_line();
                if let Some(phase) = self.phases.pop()
                    && PartOfStep::of(&phase.name).is_none()
                {
                    let seconds = phase.started.elapsed().as_secs_f64();
                    let name = self.in_part(&phase.name);
                    self.note(format!("{name}: done in {}", units::duration(seconds)));
                }
            }
            Event::Metrics { step, values } => self.metrics(step, &values),
            Event::Overall { position, .. } => self.position = position,
            Event::Note(text) => self.note(text),
            Event::Warning(text) => (self.write)(Line::Warning(text)),
            Event::Saved { what, path } => {
                // The model is the last thing that a run saves.
                if what == "model" {
                    self.run = None;
                }
                self.note(format!("saved {what}: {}", clean_path(&path)));
            }
        }
    }
}

fn is_evaluation(values: &BTreeMap<String, f64>) -> bool {
    values.keys().any(|name| name.starts_with("eval"))
}

/// One evaluation; that of step 0 is of the model as it was loaded.
fn evaluation_line(step: u64, values: &BTreeMap<String, f64>) -> String {
    let when = if step == 0 { "before training".to_owned() } else { format!("after step {step}") };
    match figures(values) {
        found if found.is_empty() => format!("{when}: evaluated"),
        found => format!("{when}: {found}"),
    }
}

/// The few figures that a person watches, in a fixed order, as far as they are there. The loss of a policy is none.
fn figures(values: &BTreeMap<String, f64>) -> String {
    const OF_POLICY: [(&str, &str, usize); 4] = [
        ("reward", "reward", 3),
        ("kl", "KL", 4),
        ("completions/mean_length", "length", 0),
        ("entropy", "entropy", 2),
    ];
    const OF_TRAINING: [(&str, &str, usize); 5] = [
        ("loss", "loss", 4),
        ("mean_token_accuracy", "accuracy", 3),
        ("grad_norm", "gradient norm", 2),
        ("learning_rate", "rate", 0),
        ("tokens_per_second", "tokens/s", 0),
    ];
    const OF_EVALUATION: [(&str, &str, usize); 6] = [
        ("eval_reward", "held-out reward", 3),
        ("eval_pass_rate", "pass rate", 3),
        ("eval_loss", "held-out loss", 4),
        ("eval_accuracy", "held-out accuracy", 3),
        ("eval_rewards/accuracies", "held-out accuracy", 3),
        ("eval_completions/mean_length", "length", 0),
    ];
    let watched: &[(&str, &str, usize)] =
        if values.contains_key("reward") { &OF_POLICY } else { &OF_TRAINING };
    let figure = |&(name, label, digits): &(&str, &str, usize)| {
        let value = values.get(name)?;
        Some(match name {
            "learning_rate" => format!("{label} {value:.2e}"),
            "tokens_per_second" => format!("{value:.0} {label}"),
            _ => format!("{label} {value:.digits$}"),
        })
    };
    watched.iter().chain(&OF_EVALUATION).filter_map(figure).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
