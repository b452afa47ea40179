//! The parts of the quickstart, in order, and which of them a resume finds done: printed before it starts. And the name
//! of the stage in its progress. They are called parts, since a step is one of the optimiser.

use std::path::Path;

use truing_store::RunDirectory;
use truing_types::{Event, EventSink};

use super::{Step, evaluation_file};

/// Everything to do.
pub(super) struct Agenda {
    items: Vec<Item>,
    n_begun: usize,
}

struct Item {
    text: String,
    is_done: bool,
}

impl Agenda {
    /// Looks into the quickstart's folder for what is done.
    pub(super) fn of(folder: &Path, steps: &[Step]) -> Self {
        let measure = |idx: usize, kind: &str, name: &str| Item {
            text: format!("measure {name}"),
            is_done: folder.join(evaluation_file(idx, kind)).is_file(),
        };
        let mut items = vec![measure(0, "before", "the base model")];
        let mut n_evaluations = 1;
        for step in steps {
            let is_done = RunDirectory::outcome_path(&folder.join(step.kind)).is_file();
            items.push(Item { text: format!("{}: {}", step.name, step.what), is_done });
            if step.makes_policy {
                items.push(measure(n_evaluations, step.kind, &format!("the model after {}", step.name)));
                n_evaluations += 1;
            }
        }
        items.push(Item { text: "write the report".into(), is_done: false });
        Self { items, n_begun: 0 }
    }

    /// The list, and how long it takes or where it continues.
    pub(super) fn lines(&self, duration: Option<&str>) -> Vec<String> {
        let mut lines = vec!["The quickstart will:".to_owned()];
        for (idx, item) in self.items.iter().enumerate() {
            let done = if item.is_done { " (done)" } else { "" };
            lines.push(format!("  {}. {}{done}", idx + 1, item.text));
        }
        let is_resume = self.items.iter().any(|item| item.is_done);
        match self.items.iter().position(|item| !item.is_done).filter(|_| is_resume) {
            Some(idx) => lines.push(format!("It continues with {}: {}.", idx + 1, self.items[idx].text)),
            None => lines.extend(duration.map(|duration| format!("All of it takes {duration}."))),
        }
        lines
    }

    /// Starts the next item: its index, and its line where it is not done yet.
    pub(super) fn begin_next(&mut self) -> Option<(usize, Option<String>)> {
        let item = self.items.get(self.n_begun)?;
        self.n_begun += 1;
        let line = (!item.is_done).then(|| format!("{}: {}", self.position(), item.text));
        Some((self.n_begun - 1, line))
    }

    /// Which item is under way.
    pub(super) fn position(&self) -> String {
        format!("part {} of {}", self.n_begun, self.items.len())
    }

    /// Whether each item is done, in order.
    pub(super) fn done(&self) -> Vec<bool> {
        self.items.iter().map(|item| item.is_done).collect()
    }
}

/// Events of a stage, whose phases carry its name. Those of numbered steps stay as they are, since the remaining
/// time of a run is estimated from their numbers.
pub(super) struct OfStage<'a> {
    pub(super) name: &'a str,
    pub(super) events: &'a mut dyn EventSink,
}

impl EventSink for OfStage<'_> {
    fn emit(&mut self, event: Event) {
        self.events.emit(match event {
            Event::PhaseStarted { phase, total } if !phase.starts_with("step ") => {
                Event::PhaseStarted { phase: format!("{}: {phase}", self.name), total }
            }
            other => other,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::local_engine::LocalEngine;
    use crate::quickstart::steps;

    #[test]
    fn the_list_has_every_step_and_a_resume_says_where_it_continues() {
        let folder = tempfile::tempdir().unwrap();
        let steps = steps::<LocalEngine>();
        let mut agenda = Agenda::of(folder.path(), &steps);
        let lines = agenda.lines(Some("an hour"));
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert_eq!((lines.len(), lines[1].as_str()), (9, "  1. measure the base model"));
        let names = [3, 5, 7].map(|place: usize| lines[place].split([' ', ':']).nth(3).unwrap_or_default());
        assert_eq!(names, ["measure", "GRPO", "write"]);
        assert!(
            lines[2].starts_with("  2. SFT: ") && lines[4].starts_with("  4. reward model: "),
            "{lines:#?}"
        );
        assert_eq!(lines[8], "All of it takes an hour.");
        assert_eq!(agenda.begin_next(), Some((0, Some("part 1 of 7: measure the base model".to_owned()))));

        fs::create_dir_all(folder.path().join("evaluations")).unwrap();
        fs::write(folder.path().join(evaluation_file(0, "before")), "{}").unwrap();
        let mut agenda = Agenda::of(folder.path(), &steps);
        let lines = agenda.lines(Some("an hour"));
        assert_eq!(lines[1], "  1. measure the base model (done)");
        assert_eq!(agenda.done(), [true, false, false, false, false, false, false]);
        assert!(lines[8].starts_with("It continues with 2: SFT: "), "{}", lines[8]);
        assert_eq!(agenda.begin_next(), Some((0, None)), "it is done");
        let next = agenda.begin_next().unwrap();
        assert!(next.1.is_some_and(|line| line.starts_with("part 2 of 7: SFT: ")));
    }

    struct Phases(Vec<String>);

    impl EventSink for Phases {
        fn emit(&mut self, event: Event) {
            if let Event::PhaseStarted { phase, .. } = event {
                self.0.push(phase);
            }
        }
    }

    #[test]
    fn phases_carry_the_name_of_their_stage() {
        let mut seen = Phases(Vec::new());
        let mut events = OfStage { name: "SFT", events: &mut seen };
        for phase in ["training", "step 3 of 40: sampling rollouts"] {
            events.emit(Event::PhaseStarted { phase: phase.into(), total: None });
        }
        assert_eq!(seen.0, ["SFT: training", "step 3 of 40: sampling rollouts"]);
    }
}
