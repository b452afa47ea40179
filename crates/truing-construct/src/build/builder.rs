//! What a builder is, and the list of all. A new one is a file with a [`Job`] and a line in [`BUILDERS`].

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use truing_ask::pas::Language;
use truing_run::PromptSource;
use truing_stages::StageError;

use super::asking::Asking;
use super::config::BuildConfig;
use super::inputs::SeedRow;
use super::{
    back_translation, code, code_interpreter, constraints, mathematics, reasoning, reversal, rewrite,
    system_messages, textbook, tools,
};

/// A builder as users meet it.
#[derive(Debug, Clone, Copy)]
pub struct BuilderInfo {
    /// The value of `ability` in recipes, and the name of the table with the builder's own settings.
    pub name: &'static str,
    /// What it makes.
    pub about: &'static str,
    /// What its seed rows have.
    pub seeds: &'static str,
    /// What models are asked.
    pub asks: &'static str,
    /// Whether it makes rows without `[[data]]` too.
    pub works_without_data: bool,
    /// Sets out what is to be made from the seed rows.
    pub(super) prepare: Prepare,
}

/// Sets out what is to be made from the seed rows.
pub(super) type Prepare = fn(&BuildConfig, &[SeedRow]) -> Result<Box<dyn Job>, StageError>;

/// All builders, in the order in which they are listed.
pub const BUILDERS: &[BuilderInfo] = &[
    constraints::INFO,
    reversal::INFO,
    mathematics::INFO,
    system_messages::INFO,
    reasoning::INFO,
    textbook::INFO,
    code::INFO,
    tools::INFO,
    code_interpreter::INFO,
    back_translation::INFO,
    rewrite::INFO,
];

impl BuilderInfo {
    /// The builder of an ability.
    #[must_use]
    pub fn find(ability: &str) -> Option<&'static Self> {
        BUILDERS.iter().find(|builder| builder.name == ability)
    }
}

/// A row that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// The seed's text, or in words what is to be made.
    pub text: String,
    /// The language that models are asked in.
    pub language: Language,
    /// The seed's place; `None` where there is no seed.
    pub source: Option<PromptSource>,
    /// Columns of the seed that the row keeps.
    pub kept: Map<String, Value>,
    /// What the row counts for in the coverage table.
    pub kinds: Vec<String>,
    /// Why nothing is asked about it.
    pub dropped: Option<Dropped>,
}

/// Why a unit has no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The step that dropped it.
    pub step: &'static str,
    /// Why, in words that many units share.
    pub reason: String,
    /// What is special to this unit.
    pub detail: Option<String>,
}

impl Dropped {
    /// Without a detail.
    #[must_use]
    pub fn new(step: &'static str, reason: impl Into<String>) -> Self {
        Self { step, reason: reason.into(), detail: None }
    }

    /// With a detail.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }
}

/// A row that was made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BuiltRow {
    /// The system message, where there is one.
    pub system: Option<String>,
    /// The first turn of the user.
    pub prompt: String,
    /// Turns between the first and the last, as they are written: objects with `role` and `content`.
    pub between: Vec<Value>,
    /// The last turn, which is the assistant's; `None` where the row has a prompt alone.
    pub response: Option<String>,
    /// Why a row that may have a response has none.
    pub no_response: Option<String>,
    /// Whether the prompt has the columns that rewards need, so that `truing grpo` can train on it.
    pub has_reward_columns: bool,
    /// Every other column.
    pub columns: Map<String, Value>,
}

impl BuiltRow {
    /// System message, prompt, the turns `between`, response and columns in one object, as [`Job::recheck`] sees them.
    #[must_use]
    pub fn record(&self) -> Map<String, Value> {
        let mut record = self.columns.clone();
        record.insert("prompt".into(), self.prompt.clone().into());
        for (name, text) in [("system", &self.system), ("response", &self.response)] {
            record.extend(text.as_ref().map(|text| (name.to_owned(), text.clone().into())));
        }
        if !self.between.is_empty() {
            record.insert("between".into(), self.between.clone().into());
        }
        record
    }
}

/// A row, or why there is none.
pub type Built = Result<BuiltRow, Dropped>;

/// Calls of one step, before the first is sent. Replies that cannot be read are asked for again, on top of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedCalls {
    /// What is asked.
    pub step: &'static str,
    /// Calls where everything succeeds at once.
    pub n_calls: u64,
    /// Calls where every round is needed.
    pub max_calls: u64,
    /// Bytes of the prompts of `max_calls`.
    pub prompt_bytes: u64,
}

impl PlannedCalls {
    /// Steps as `(step, n_calls, max_calls, prompt_bytes)`; those without a call are left out.
    pub(super) fn of_steps(steps: impl IntoIterator<Item = (&'static str, u64, u64, u64)>) -> Vec<Self> {
        let steps = steps.into_iter().map(|(step, n_calls, max_calls, prompt_bytes)| Self {
            step,
            n_calls,
            max_calls,
            prompt_bytes,
        });
        steps.filter(|step| step.max_calls > 0).collect()
    }

    /// A step that asks once for each of `n` units, in at most `rounds` rounds; `prompt_bytes` are those of one round.
    pub(super) fn in_rounds(step: &'static str, n: usize, rounds: usize, prompt_bytes: u64) -> Self {
        let (n_calls, rounds) = (n as u64, rounds as u64);
        Self {
            step,
            n_calls,
            max_calls: n_calls.saturating_mul(rounds),
            prompt_bytes: prompt_bytes.saturating_mul(rounds),
        }
    }
}

/// What one builder does with its seed rows.
pub trait Job: std::fmt::Debug + Send + Sync {
    /// The rows that are to be made.
    fn units(&self) -> &[Unit];

    /// How many units each kind is to have; empty where there is no target, as for builders whose rows have the kinds
    /// of their seeds.
    fn targets(&self) -> BTreeMap<String, usize> {
        BTreeMap::new()
    }

    /// The calls, step by step.
    fn calls(&self) -> Vec<PlannedCalls>;

    /// Asks, and makes one [`Built`] of each unit, in their order; `None` once the run is stopped.
    ///
    /// # Errors
    /// When a model refuses everything.
    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError>;

    /// Checks a row by programs alone, from what will be written of it ([`BuiltRow::record`]).
    ///
    /// # Errors
    /// What is wrong with it.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String>;

    /// The turns of a row of `rows.jsonl` and its other columns, as they are to be written.
    fn layout(
        &self,
        turns: Vec<Value>,
        columns: Map<String, Value>,
        _unit: &Unit,
    ) -> (Vec<Value>, Map<String, Value>) {
        (turns, columns)
    }
}

/// Which units are still open while they are built.
#[derive(Debug)]
pub struct Fates(Vec<Option<Dropped>>);

impl Fates {
    /// All open that nothing has dropped yet.
    #[must_use]
    pub fn of(units: &[Unit]) -> Self {
        Self(units.iter().map(|unit| unit.dropped.clone()).collect())
    }

    /// Places of the open units.
    #[must_use]
    pub fn open(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|&idx| self.0[idx].is_none()).collect()
    }

    /// Drops a unit, unless it has been dropped before.
    pub fn drop_unit(&mut self, idx: usize, dropped: Dropped) {
        self.0[idx].get_or_insert(dropped);
    }

    /// Takes over answers of open units: readable ones go to `take`, the units of others are dropped.
    pub fn take<V>(
        &mut self,
        step: &'static str,
        places: &[usize],
        answers: Vec<Result<V, String>>,
        mut take: impl FnMut(usize, V) -> Result<(), Dropped>,
    ) {
        for (&idx, answer) in places.iter().zip(answers) {
            let taken =
                answer.map_err(|reason| Dropped::new(step, reason)).and_then(|value| take(idx, value));
            if let Err(dropped) = taken {
                self.drop_unit(idx, dropped);
            }
        }
    }

    /// One result for each unit: why it was dropped, or its row.
    pub fn finish(self, mut row: impl FnMut(usize) -> Built) -> Vec<Built> {
        let rows = self.0.into_iter().enumerate();
        rows.map(|(idx, dropped)| dropped.map_or_else(|| row(idx), Err)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builders_have_names_of_their_own() {
        for (i, builder) in BUILDERS.iter().enumerate() {
            assert!(BUILDERS[..i].iter().all(|other| other.name != builder.name));
            assert_eq!(BuilderInfo::find(builder.name).map(|found| found.about), Some(builder.about));
        }
        assert!(BuilderInfo::find("constraint").is_none());
    }

    #[test]
    fn a_unit_is_dropped_once_and_the_others_have_rows() {
        let unit = |dropped| Unit {
            text: "x".into(),
            language: Language::En,
            source: None,
            kept: Map::new(),
            kinds: Vec::new(),
            dropped,
        };
        let units = [unit(None), unit(Some(Dropped::new("seed", "too long"))), unit(None), unit(None)];
        let mut fates = Fates::of(&units);
        let places = fates.open();
        assert_eq!(places, [0, 2, 3]);
        let answers = vec![Ok(5), Err("no reply".to_owned()), Ok(7)];
        fates.take("write", &places, answers, |_, value| {
            if value == 7 { Err(Dropped::new("check", "seven").with_detail("7")) } else { Ok(()) }
        });
        fates.drop_unit(2, Dropped::new("later", "not this one"));
        let row = BuiltRow { prompt: "p".into(), response: Some("r".into()), ..BuiltRow::default() };
        assert_eq!(serde_json::json!(row.record()), serde_json::json!({"prompt": "p", "response": "r"}));
        let built = fates.finish(|_| Ok(row.clone()));
        let steps: Vec<Option<&str>> =
            built.iter().map(|built| built.as_ref().err().map(|dropped| dropped.step)).collect();
        assert_eq!(steps, [None, Some("seed"), Some("write"), Some("check")]);
    }
}
