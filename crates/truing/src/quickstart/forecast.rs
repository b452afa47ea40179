//! How long all parts of the quickstart still take, beside the time of the phase that is under way.
//!
//! How it is estimated: every part is an amount of work of few kinds, counted from recipes and data before it begins
//! (tokens to train on, questions to answer, steps of the policy). A kind's pace is what this run has measured of it so
//! far; evaluations and checkpoints between the steps of a stage are in it. A kind that was not worked on yet takes the
//! mean pace of the others, by the rough cost of its unit ([`Kind`]). So the first figures are rough, and those after
//! SFT, which measures training, and after the first steps of GRPO are good. What is said is rounded accordingly.

use std::fs;
use std::path::Path;

use truing_run::Probe;
use truing_stages::grpo::GrpoConfig;
use truing_stages::training::TrainingConfig;
use truing_types::{Event, EventSink};

use super::agenda::Agenda;
use super::measure::{ANSWERS, HELD_OUT_LOSS, KNOWLEDGE_PHASE, Tests};

/// Less than this much work is no basis for a pace.
const MIN_SECONDS: f64 = 5.0;
/// Tokens of a byte of the quickstart's data, before the held-out conversations say it for the model's tokenizer.
const TOKENS_PER_BYTE: f64 = 0.26;

/// A kind of work, in units of its own. The cost of a unit is compared with a token that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Tokens of the held-out loss.
    Read,
    /// Options whose log-likelihood is computed.
    Options,
    /// Answers that are written.
    Answers,
    /// Tokens that are trained on: a pass forward, and one backward at twice its cost.
    Trained,
    /// Completions of the policy's steps: sampled, compared with the reference and trained on.
    Completions,
}

const N_KINDS: usize = 5;
const COSTS: [f64; N_KINDS] = [1.0, 12.0, 75.0, 3.0, 150.0];

/// The work of a part by kind.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Effort([f64; N_KINDS]);

impl Effort {
    fn of(kind: Kind, units: f64) -> Self {
        let mut effort = Self::default();
        effort.0[kind as usize] = units;
        effort
    }

    /// The evaluation of a model.
    pub(super) fn of_tests(folder: &Path, tests: &Tests) -> Self {
        let mut effort = Self::of(Kind::Read, tokens_of(&folder.join(super::measure::HELD_OUT)));
        effort.0[Kind::Options as usize] = tests.n_options() as f64;
        effort.0[Kind::Answers as usize] = tests.n_answers() as f64;
        effort
    }

    /// A stage that trains on rows.
    pub(super) fn of_training(config: &TrainingConfig) -> Self {
        let data = config.data.iter().map(|source| tokens_of(&config.data_dir.join(&source.path)));
        let n_epoch = data.sum::<f64>() * (1.0 - config.evaluation.eval_fraction);
        let of_epochs = n_epoch * config.schedule.num_train_epochs;
        let n_of_step = config.packs_per_step as f64 * f64::from(config.max_length);
        let n_tokens = match config.schedule.max_steps {
            // Packs are nearly full, but a step never has more than the whole of the data.
            Some(n_steps) => n_steps as f64 * n_of_step.min(n_epoch),
            None => of_epochs,
        };
        Self::of(Kind::Trained, n_tokens)
    }

    /// A stage that trains a policy.
    pub(super) fn of_policy(config: &GrpoConfig) -> Self {
        let rows = config.data.iter().map(|source| n_lines(&config.data_dir.join(&source.path)));
        let of_epochs = config.schedule.num_train_epochs * rows.sum::<f64>();
        let n_prompts = match config.schedule.max_steps {
            Some(n_steps) => n_steps as f64 * config.prompts_per_step as f64,
            None => of_epochs,
        };
        Self::of(Kind::Completions, n_prompts * config.num_generations as f64)
    }
}

/// About as many as the file's tokens; none where there is no such file.
fn tokens_of(path: &Path) -> f64 {
    fs::metadata(path).map_or(0.0, |found| found.len() as f64 * TOKENS_PER_BYTE)
}

fn n_lines(path: &Path) -> f64 {
    fs::read_to_string(path).map_or(0.0, |text| text.lines().count() as f64)
}

/// What was measured of a kind.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    seconds: f64,
    units: f64,
}

/// The work that is left, and the paces.
#[derive(Debug)]
pub(super) struct Forecast {
    /// Left of each part; all 0 where it is done.
    left: Vec<Effort>,
    part: usize,
    paces: [Pace; N_KINDS],
    /// The phases under way, outermost first; those without a kind are parts of other phases.
    phases: Vec<(String, Option<Kind>)>,
    /// Of the kind that is worked on: units done in this phase, and when the clock was looked at last.
    position: Option<(Kind, f64, f64)>,
    /// Units of the part's policy, all steps together.
    n_completions: f64,
    is_scaled: bool,
}

impl Forecast {
    pub(super) fn new(parts: Vec<Effort>) -> Self {
        Self {
            left: parts,
            part: 0,
            paces: [Pace::default(); N_KINDS],
            phases: Vec::new(),
            position: None,
            n_completions: 0.0,
            is_scaled: false,
        }
    }

    /// The part with this index begins; those before it are done.
    pub(super) fn begin(&mut self, part: usize) {
        self.left.iter_mut().take(part).for_each(|done| *done = Effort::default());
        self.part = part;
        self.phases.clear();
        self.position = None;
        self.n_completions = self.left_of(Kind::Completions);
    }

    fn left_of(&self, kind: Kind) -> f64 {
        self.left.get(self.part).map_or(0.0, |left| left.0[kind as usize])
    }

    fn set_left(&mut self, kind: Kind, units: f64) {
        if let Some(left) = self.left.get_mut(self.part) {
            left.0[kind as usize] = units.max(0.0);
        }
    }

    /// Learns from an event at the time `now`.
    pub(super) fn observe(&mut self, event: &Event, now: f64) {
        match event {
            Event::PhaseStarted { phase, total } => self.begin_phase(phase, total.map(|n| n as f64), now),
            Event::Progress { done, .. } => {
                if let Some(&(_, Some(kind))) = self.phases.last() {
                    self.advance(kind, *done as f64, now);
                }
            }
            Event::PhaseFinished => {
                if let Some((_, Some(kind))) = self.phases.pop() {
                    self.set_left(kind, 0.0);
                    self.position = None;
                }
            }
            _ => {}
        }
    }

    fn begin_phase(&mut self, phase: &str, total: Option<f64>, now: f64) {
        if let Some((step, n_steps)) = step_of(phase) {
            // Of the policy only whole steps count: their parts are of different kinds.
            self.phases.push((phase.to_owned(), None));
            let n_done = self.n_completions * (step - 1.0) / n_steps;
            if self.position.is_none() {
                self.position = Some((Kind::Completions, n_done, now));
            }
            self.advance(Kind::Completions, n_done, now);
            return self.set_left(Kind::Completions, self.n_completions - n_done);
        }
        if let Some(place) = self.phases.iter().position(|(known, _)| known == phase) {
            self.phases.truncate(place);
        }
        let kind = kind_of(phase);
        self.phases.push((phase.to_owned(), kind));
        let (Some(kind), Some(total)) = (kind, total) else { return };
        if kind == Kind::Read && !self.is_scaled && self.left_of(kind) > 0.0 {
            // The model's tokenizer may need more or fewer tokens for all data.
            self.is_scaled = true;
            let ratio = total / self.left_of(kind);
            for left in &mut self.left {
                left.0[Kind::Read as usize] *= ratio;
                left.0[Kind::Trained as usize] *= ratio;
            }
        }
        // Training that goes on after an evaluation counts from 0 again; the evaluation's time is the training's.
        let since = self.position.filter(|(known, ..)| *known == kind).map_or(now, |(.., since)| since);
        self.position = Some((kind, 0.0, since));
        self.set_left(kind, total);
    }

    fn advance(&mut self, kind: Kind, done: f64, now: f64) {
        let Some((known, before, since)) = self.position else { return };
        if known != kind || done <= before {
            return;
        }
        let pace = &mut self.paces[kind as usize];
        pace.seconds += (now - since).max(0.0);
        pace.units += done - before;
        self.position = Some((kind, done, now));
        self.set_left(kind, self.left_of(kind) - (done - before));
    }

    /// Seconds that are left of all parts; `None` before anything is measured.
    fn seconds_left(&self) -> Option<f64> {
        let seconds: f64 = self.paces.iter().map(|pace| pace.seconds).sum();
        let cost: f64 = self.paces.iter().zip(COSTS).map(|(pace, cost)| pace.units * cost).sum();
        if seconds < MIN_SECONDS || cost <= 0.0 {
            return None;
        }
        let pace_of = |idx: usize| match self.paces[idx] {
            pace if pace.seconds >= MIN_SECONDS && pace.units > 0.0 => pace.seconds / pace.units,
            _ => seconds / cost * COSTS[idx],
        };
        let left =
            self.left.iter().map(|left| (0..N_KINDS).map(|idx| left.0[idx] * pace_of(idx)).sum::<f64>());
        Some(left.sum())
    }

    /// What is left in words; empty before anything is known.
    pub(super) fn text(&self) -> String {
        self.seconds_left()
            .map_or_else(String::new, |seconds| format!("{} left of all parts", about(seconds)))
    }
}

/// A time rounded as the estimate deserves.
fn about(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    let by_five = (minutes + 2) / 5 * 5;
    match minutes {
        0 | 1 => "about a minute".into(),
        2..20 => format!("about {minutes} min"),
        20..90 => format!("about {by_five} min"),
        _ => format!("about {} h {:02} min", by_five / 60, by_five % 60),
    }
}

/// The step and all steps of a policy's phase, such as `step 3 of 40: sampling rollouts`.
fn step_of(phase: &str) -> Option<(f64, f64)> {
    let (numbers, _) = phase.strip_prefix("step ")?.split_once(": ")?;
    let (step, n_steps) = numbers.split_once(" of ")?;
    let (step, n_steps): (u64, u64) = (step.parse().ok()?, n_steps.parse().ok()?);
    (step > 0 && n_steps > 0).then_some((step as f64, n_steps as f64))
}

/// What is counted in a phase of this name.
fn kind_of(phase: &str) -> Option<Kind> {
    let begins = |name: &str| phase.starts_with(name);
    if begins(HELD_OUT_LOSS) {
        Some(Kind::Read)
    } else if begins(KNOWLEDGE_PHASE) {
        Some(Kind::Options)
    } else if begins(ANSWERS) {
        Some(Kind::Answers)
    } else {
        (phase == "training" || phase.ends_with(": training")).then_some(Kind::Trained)
    }
}

/// The events of all parts: with each, how far all of the work is.
pub(super) struct Overall<'a> {
    events: &'a mut dyn EventSink,
    probe: &'a dyn Probe,
    agenda: Agenda,
    forecast: Forecast,
    said: Option<Event>,
}

impl<'a> Overall<'a> {
    pub(super) fn new(
        events: &'a mut dyn EventSink,
        probe: &'a dyn Probe,
        agenda: Agenda,
        forecast: Forecast,
    ) -> Self {
        Self { events, probe, agenda, forecast, said: None }
    }

    /// Starts the next part, and says so where it is not done yet.
    pub(super) fn begin_next(&mut self) {
        let Some((place, line)) = self.agenda.begin_next() else { return };
        self.forecast.begin(place);
        self.say();
        if let Some(line) = line {
            let left = self.forecast.text();
            let left = if left.is_empty() { left } else { format!("; {left}") };
            self.events.emit(Event::Note(format!("{line}{left}")));
        }
    }

    /// Nothing is under way any more.
    pub(super) fn end(&mut self) {
        self.events.emit(Event::Overall { position: String::new(), left: String::new() });
    }

    fn say(&mut self) {
        let now = Event::Overall { position: self.agenda.position(), left: self.forecast.text() };
        if self.said.as_ref() != Some(&now) {
            self.events.emit(now.clone());
            self.said = Some(now);
        }
    }
}

impl EventSink for Overall<'_> {
    fn emit(&mut self, event: Event) {
        self.forecast.observe(&event, self.probe.elapsed_secs());
        self.events.emit(event);
        self.say();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(forecast: &mut Forecast, phase: &str, total: u64, now: f64) {
        forecast.observe(&Event::PhaseStarted { phase: phase.into(), total: Some(total) }, now);
    }

    fn progress(forecast: &mut Forecast, done: u64, now: f64) {
        forecast.observe(&Event::Progress { done, note: String::new() }, now);
    }

    #[test]
    fn what_is_measured_of_a_kind_is_the_pace_of_the_parts_ahead() {
        let mut evaluation = Effort::of(Kind::Read, 1000.0);
        evaluation.0[Kind::Answers as usize] = 100.0;
        let training = Effort::of(Kind::Trained, 20_000.0);
        let mut forecast = Forecast::new(vec![evaluation, training, evaluation]);
        forecast.begin(0);
        assert_eq!(forecast.text(), "", "nothing is measured");
        // 2000 tokens instead of 1000, so that there are 40,000 to train on; 10 s for all of them.
        start(&mut forecast, "held-out loss of the base model", 2000, 0.0);
        progress(&mut forecast, 2000, 10.0);
        forecast.observe(&Event::PhaseFinished, 10.0);
        start(&mut forecast, "answers of the base model", 100, 10.0);
        progress(&mut forecast, 50, 60.0);
        progress(&mut forecast, 100, 110.0);
        forecast.observe(&Event::PhaseFinished, 110.0);
        forecast.begin(1);
        // One answer is 1 s: the last part is 100 s of answers and 10 s of reading.
        start(&mut forecast, "SFT: training", 40_000, 110.0);
        progress(&mut forecast, 10_000, 210.0);
        // An evaluation of 20 s, after which training counts the rest.
        start(&mut forecast, "SFT: evaluating", 7, 210.0);
        progress(&mut forecast, 7, 230.0);
        forecast.observe(&Event::PhaseFinished, 230.0);
        start(&mut forecast, "SFT: training", 30_000, 230.0);
        progress(&mut forecast, 10_000, 350.0);
        // 240 s for 20,000 tokens, and as many are left.
        let left = forecast.seconds_left().unwrap();
        assert!((left - (240.0 + 110.0)).abs() < 1e-6, "{left}");
        assert_eq!(forecast.text(), "about 6 min left of all parts");
        forecast.begin(2);
        assert!((forecast.seconds_left().unwrap() - 110.0).abs() < 1e-6);
    }

    #[test]
    fn steps_of_a_policy_are_counted_whole_and_a_resume_does_not_look_fast() {
        let mut forecast = Forecast::new(vec![Effort::of(Kind::Completions, 400.0)]);
        forecast.begin(0);
        // Resumed after 20 of 40 steps of 10 completions.
        for (step, now) in [(21, 100.0), (22, 110.0), (23, 120.0)] {
            let phase = format!("step {step} of 40: sampling rollouts");
            start(&mut forecast, &phase, 10, now);
            progress(&mut forecast, 10, now + 1.0);
            forecast.observe(&Event::PhaseFinished, now + 1.0);
        }
        let left = forecast.seconds_left().unwrap();
        assert!((left - 180.0).abs() < 1e-6, "18 steps of 10 s: {left}");
    }

    #[test]
    fn a_kind_without_a_measurement_costs_what_its_unit_does() {
        let mut forecast =
            Forecast::new(vec![Effort::of(Kind::Read, 100.0), Effort::of(Kind::Trained, 100.0)]);
        forecast.begin(0);
        start(&mut forecast, "held-out loss of the base model", 100, 0.0);
        progress(&mut forecast, 50, 10.0);
        // 10 s of reading, and 60 s for 100 tokens at three times the cost.
        assert!((forecast.seconds_left().unwrap() - 70.0).abs() < 1e-6);
    }

    #[test]
    fn times_are_rounded_to_what_is_known() {
        let texts = [20.0, 100.0, 743.0, 1390.0, 7000.0].map(about);
        assert_eq!(
            texts,
            ["about a minute", "about 2 min", "about 12 min", "about 25 min", "about 1 h 55 min"]
        );
    }
}
