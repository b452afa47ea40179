//! The remaining time of a phase or of a whole run, estimated from work done (tokens, where a phase counts them), not
//! from steps of different size; smoothed; and in words where there is nothing to tell.

use std::fmt;

/// Work of the last minutes counts most: what is this old weighs 1/e.
const MEMORY_SECONDS: f64 = 120.0;
/// The same for the steps of a run, which may take minutes each and have evaluations between them.
const RUN_MEMORY_SECONDS: f64 = 3600.0;
/// Less than this much watching is no basis for a figure.
const MIN_WATCHED_SECONDS: f64 = 2.0;
/// What was done up to the first report takes longer than the rest: memory is touched for the first time, and of work
/// that is done in parallel (completions of a batch, requests to a server) all has started when the first has ended.
/// The pace is that since then. While the pace from the start differs by more than this factor, either may be wrong,
/// and no figure is shown.
const MOST_DIFFERENCE: f64 = 2.0;

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum TimeLeft {
    /// Not yet.
    Unknown,
    /// About this many seconds.
    About(f64),
    /// The last unit takes longer than its forerunners did; no figure would be true.
    Overdue,
}

/// Learns the pace of a phase. Times are seconds on any one clock.
#[derive(Debug, Clone)]
pub(crate) struct Estimator {
    memory_seconds: f64,
    total: u64,
    done: u64,
    /// Units that were done before the count was restarted.
    done_before: u64,
    updated_at: f64,
    is_moving: bool,
    watched_seconds: f64,
    watched_units: u64,
    /// Spent on other work between the units, such as evaluations.
    paused_seconds: f64,
    weighted_seconds: f64,
    weighted_units: f64,
    /// What of both came with the first report; `None` before it.
    first: Option<(f64, f64)>,
}

impl Estimator {
    /// Work of `total` units that begins now.
    pub(crate) fn new(total: u64, now: f64) -> Self {
        Self {
            memory_seconds: MEMORY_SECONDS,
            total,
            done: 0,
            done_before: 0,
            updated_at: now,
            is_moving: false,
            watched_seconds: 0.0,
            watched_units: 0,
            paused_seconds: 0.0,
            weighted_seconds: 0.0,
            weighted_units: 0.0,
            first: None,
        }
    }

    /// A run of `n_steps` steps that begins now.
    pub(crate) fn of_run(n_steps: u64, now: f64) -> Self {
        Self { memory_seconds: RUN_MEMORY_SECONDS, ..Self::new(n_steps, now) }
    }

    /// The same work continues after a pause, with `remaining` units ahead that are counted from 0 again. The pace is
    /// kept, and so is what was done before; such pauses are expected again.
    pub(crate) fn go_on(&mut self, remaining: u64, now: f64) {
        self.total = self.total.max(remaining);
        self.done_before = self.total - remaining;
        self.done = self.done_before;
        self.paused_seconds += (now - self.updated_at).max(0.0);
        self.updated_at = now;
    }

    /// Units done and all units.
    pub(crate) fn position(&self) -> (u64, u64) {
        (self.done, self.total)
    }

    /// The work has come to `done`. A first report far ahead of the start is a resume: what was done before
    /// says nothing about the pace.
    pub(crate) fn update(&mut self, done: u64, now: f64) {
        let done = done + self.done_before;
        let seconds = (now - self.updated_at).max(0.0);
        let units = done.saturating_sub(self.done);
        let is_a_jump_of_a_resume = !self.is_moving && units > 0 && seconds < 0.5 && units < self.total;
        if units > 0 && !is_a_jump_of_a_resume {
            let decay = (-seconds / self.memory_seconds).exp();
            self.weighted_seconds = self.weighted_seconds * decay + seconds;
            self.weighted_units = self.weighted_units * decay + units as f64;
            let first = self.first.map(|(seconds, units)| (seconds * decay, units * decay));
            self.first = first.or(Some((seconds, units as f64)));
            self.watched_seconds += seconds;
            self.watched_units += units;
        }
        if units > 0 {
            self.is_moving = true;
            self.done = done;
            self.updated_at = now;
        }
    }

    /// Seconds a unit, once the first report and those after it agree.
    fn pace(&self) -> Option<f64> {
        let (first_seconds, first_units) = self.first?;
        let from_the_beginning = self.weighted_seconds / self.weighted_units;
        let since_the_first = (self.weighted_seconds - first_seconds) / (self.weighted_units - first_units);
        let ratio = from_the_beginning / since_the_first;
        (1.0 / MOST_DIFFERENCE..=MOST_DIFFERENCE).contains(&ratio).then_some(since_the_first)
    }

    /// What can be said now, between updates too.
    pub(crate) fn left(&self, now: f64) -> TimeLeft {
        let Some(pace) = self.pace().filter(|_| self.watched_seconds >= MIN_WATCHED_SECONDS) else {
            return TimeLeft::Unknown;
        };
        let pauses = self.paused_seconds / self.watched_units.max(1) as f64;
        let at_update = (pace + pauses) * self.total.saturating_sub(self.done) as f64;
        let left = at_update - (now - self.updated_at);
        if left >= 1.0 { TimeLeft::About(left) } else { TimeLeft::Overdue }
    }
}

impl fmt::Display for TimeLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown => write!(f, "measuring the pace"),
            Self::Overdue => write!(f, "nearly done"),
            // Rounded as the estimate deserves, so that the text does not flicker.
            Self::About(seconds) if seconds < 12.5 => write!(f, "a few seconds left"),
            Self::About(seconds) if seconds < 57.5 => write!(f, "about {:.0} s left", round_to(seconds, 5.0)),
            Self::About(seconds) if seconds < 595.0 => {
                let rounded = round_to(seconds, 10.0) as u64;
                write!(f, "about {} min {:02} s left", rounded / 60, rounded % 60)
            }
            Self::About(seconds) if seconds < 5400.0 => write!(f, "about {:.0} min left", seconds / 60.0),
            Self::About(seconds) => {
                let minutes = round_to(seconds / 60.0, 5.0) as u64;
                write!(f, "about {} h {:02} min left", minutes / 60, minutes % 60)
            }
        }
    }
}

fn round_to(value: f64, unit: f64) -> f64 {
    (value / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(left: TimeLeft) -> f64 {
        match left {
            TimeLeft::About(seconds) => seconds,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn steps_of_different_size_do_not_disturb_it() {
        let mut estimator = Estimator::new(100_000, 0.0);
        let mut now = 0.0;
        let mut done = 0;
        for size in [100, 4000, 300, 2000, 1000, 50, 3000] {
            now += size as f64 / 100.0;
            done += size;
            estimator.update(done, now);
        }
        assert!((seconds(estimator.left(now)) - (100_000 - done) as f64 / 100.0).abs() < 1e-6);
        assert!((seconds(estimator.left(now + 5.0)) - ((100_000 - done) as f64 / 100.0 - 5.0)).abs() < 1e-6);
    }

    #[test]
    fn a_resume_does_not_look_fast() {
        let mut estimator = Estimator::new(1000, 0.0);
        estimator.update(600, 0.01);
        assert_eq!(estimator.left(0.1), TimeLeft::Unknown);
        estimator.update(610, 10.01);
        estimator.update(620, 20.01);
        assert!((seconds(estimator.left(20.01)) - 380.0).abs() < 1.0);
    }

    #[test]
    fn a_late_last_unit_is_said_in_words_not_as_zero_seconds() {
        let mut estimator = Estimator::new(10, 0.0);
        for done in 1..=9 {
            estimator.update(done, 10.0 * done as f64);
        }
        assert_eq!(estimator.left(90.0).to_string(), "a few seconds left");
        assert_eq!(estimator.left(190.0), TimeLeft::Overdue);
        assert_eq!(estimator.left(190.0).to_string(), "nearly done");
    }

    #[test]
    fn it_follows_a_change_of_pace_within_minutes() {
        let mut estimator = Estimator::new(10_000, 0.0);
        for step in 1..=100 {
            estimator.update(10 * step, step as f64);
        }
        for step in 1..=300 {
            estimator.update(1000 + step, 100.0 + step as f64);
        }
        let left = seconds(estimator.left(400.0));
        assert!((left - 8700.0).abs() < 0.15 * 8700.0 * 4.0 && left > 4000.0, "{left}");
    }

    #[test]
    fn a_break_keeps_pace_and_position_and_is_expected_again() {
        let mut estimator = Estimator::new(100, 0.0);
        for done in 1..=40 {
            estimator.update(done, f64::from(done as u32));
        }
        estimator.go_on(60, 50.0);
        assert_eq!(estimator.position(), (40, 100));
        // 60 s of work, and 10 s of evaluation for every 40 units.
        assert!((seconds(estimator.left(50.0)) - 75.0).abs() < 1e-6);
        estimator.update(10, 60.0);
        assert_eq!(estimator.position(), (50, 100));
        assert!((seconds(estimator.left(60.0)) - 60.0).abs() < 1e-6);
    }

    #[test]
    fn a_resumed_run_is_counted_from_its_beginning() {
        // 140 units of which 8 are done.
        let mut estimator = Estimator::new(140, 0.0);
        estimator.go_on(132, 0.0);
        assert_eq!(estimator.position(), (8, 140));
        estimator.update(1, 1.0);
        assert_eq!(estimator.position(), (9, 140));
        (2..=32).for_each(|done| estimator.update(done, done as f64));
        assert!((seconds(estimator.left(32.0)) - 100.0).abs() < 1e-6, "at the pace of what was done since");
    }

    #[test]
    fn steps_of_minutes_with_evaluations_between_them_are_averaged() {
        let mut run = Estimator::of_run(100, 0.0);
        let mut now = 0.0;
        for step in 1..=20 {
            now += if step % 10 == 0 { 600.0 } else { 60.0 };
            run.update(step, now);
        }
        // 18 steps of 60 s and 2 of 600 s; the newest of them counts a little more.
        let left = seconds(run.left(now));
        assert!((80.0 * 114.0..80.0 * 150.0).contains(&left), "{left}");
    }

    /// What is said after each report of one unit, at these times.
    fn said(total: u64, times: &[f64]) -> Vec<TimeLeft> {
        let mut estimator = Estimator::new(total, 0.0);
        let say = |(idx, &now): (usize, &f64)| {
            estimator.update(idx as u64 + 1, now);
            estimator.left(now)
        };
        times.iter().enumerate().map(say).collect()
    }

    #[test]
    fn completions_that_end_one_after_the_other_are_not_taken_for_begun_one_after_the_other() {
        // 64 completions, 32 at a time, of 12 to 90 s each: all are done after 180 s. After the first one the pace from
        // the beginning would say 63 * 12 s, more than 12 minutes.
        let mut free = [0.0; 32];
        let mut times: Vec<f64> = (0..64)
            .map(|idx| {
                let next = (0..free.len()).min_by(|&a, &b| f64::total_cmp(&free[a], &free[b])).unwrap();
                free[next] += 12.0 + f64::from((idx * 37) % 64) / 63.0 * 78.0;
                free[next]
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let end = times[63];
        let mut n_figures = 0;
        for (now, left) in times.iter().zip(said(64, &times)) {
            if let TimeLeft::About(seconds) = left {
                n_figures += 1;
                assert!(seconds < 1.6 * (end - now) + 10.0, "{seconds} s at {now} of {end}");
            }
        }
        assert!(n_figures > 30, "{n_figures} figures");
    }

    #[test]
    fn completions_that_end_together_are_not_taken_for_fast_ones() {
        // Two batches of 32, each of which ends within 3 s after 300 s.
        let times: Vec<f64> =
            (0..64).map(|idx| f64::from(300 * (1 + idx / 32)) + f64::from(idx % 32) * 0.1).collect();
        let left = said(64, &times);
        assert!(left[..32].iter().all(|left| *left == TimeLeft::Unknown), "{left:?}");
    }

    #[test]
    fn a_slow_first_step_is_not_expected_again() {
        // The first step touches all of the memory for the first time.
        let times: Vec<f64> = (0..40).map(|step| 31.0 + 5.0 * f64::from(step)).collect();
        let left = said(40, &times);
        assert_eq!(left[..4], [TimeLeft::Unknown; 4], "one step says nothing, and a few not enough");
        for (step, left) in left.iter().enumerate().skip(8).take(30) {
            assert!((seconds(*left) - 5.0 * (39 - step) as f64).abs() < 1e-6, "{step}: {left:?}");
        }
    }

    #[test]
    fn texts_are_rounded() {
        let text = |seconds| TimeLeft::About(seconds).to_string();
        assert_eq!(text(43.0), "about 45 s left");
        assert_eq!(text(133.0), "about 2 min 10 s left");
        assert_eq!(text(1234.0), "about 21 min left");
        assert_eq!(text(7400.0), "about 2 h 05 min left");
    }
}
