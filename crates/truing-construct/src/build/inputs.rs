//! The seed rows, and the index of evaluation texts that no row may hold.

use serde_json::{Map, Value};
use truing_ask::pas::Language;
use truing_prompts::decontamination::{DecontaminationOptions, EvaluationIndex};
use truing_prompts::duplicates::ExactDuplicates;
use truing_run::rows::{prompt_text, value_at};
use truing_run::{DataReport, PromptSource};
use truing_stages::StageError;
use truing_types::{EventSink, Role};

use super::builder::{Dropped, Unit};
use super::config::BuildConfig;
use super::screening::contamination;
use crate::sources::Sources;

/// The step that drops seed rows.
pub(super) const SEED: &str = "seed";

/// A row of the data.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedRow {
    /// Its prompt or text.
    pub text: String,
    /// The language of the text.
    pub language: Language,
    /// Every field of the row.
    pub columns: Map<String, Value>,
    /// Fields that the built row keeps.
    pub kept: Map<String, Value>,
    /// Where it is.
    pub source: PromptSource,
    /// Why it is not used.
    pub dropped: Option<Dropped>,
}

impl SeedRow {
    /// The unit of a builder that makes one row of each seed.
    pub(super) fn unit(&self, kinds: Vec<String>) -> Unit {
        Unit {
            text: self.text.clone(),
            language: self.language,
            source: Some(self.source.clone()),
            kept: self.kept.clone(),
            kinds,
            dropped: self.dropped.clone(),
        }
    }

    /// The text of a column (`a.b` reaches inside), trimmed, or its number; `None` where it is missing or empty.
    pub(super) fn text_at(&self, column: &str) -> Option<String> {
        match value_at(&self.columns, column)? {
            Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// Everything a plan looks at.
#[derive(Debug)]
pub struct BuildInputs {
    /// The seed rows in the order of their files.
    pub seeds: Vec<SeedRow>,
    /// Texts of evaluations.
    pub evaluations: EvaluationIndex,
    /// What became of all rows of the data.
    pub report: DataReport,
    /// What became of all rows of the evaluations.
    pub evaluation_report: DataReport,
}

impl BuildInputs {
    /// Reads evaluations and seed rows. Seed rows that cannot be used are kept with the reason.
    ///
    /// # Errors
    /// When a setting is invalid, a file cannot be read, or a row is invalid and `on_bad_row` is `error`.
    pub fn load(config: &BuildConfig, events: &mut dyn EventSink) -> Result<Self, StageError> {
        config.check()?;
        let BuildConfig { data, evaluation_data, data_dir, on_bad_row, .. } = config;
        let sources = Sources { data, data_dir, on_bad_row: *on_bad_row };
        let of_evaluations = Sources { data: evaluation_data, ..sources };
        let (evaluations, evaluation_report) =
            of_evaluations.evaluation_index(DecontaminationOptions::default())?;
        let (mut seeds, report) = sources.read("the seed rows", events, |row, origin, _| {
            let is_single_turn = row.prompt.tools.is_empty()
                && matches!(row.prompt.messages.as_slice(), [only]
                    if only.role == Role::User && only.parts.is_empty());
            let text = prompt_text(&row.prompt);
            let language = Language::of(&text);
            let source = PromptSource::of(&origin);
            let kept = kept_columns(&config.keep_columns, &row.columns);
            let dropped = (!is_single_turn).then(|| Dropped::new(SEED, "not a single turn of a user"));
            Ok(Some(SeedRow { text, language, columns: row.columns, kept, source, dropped }))
        })?;
        drop_unusable(config, &evaluations, &mut seeds);
        evaluation_report.warn("the evaluations", events);
        Ok(Self { seeds, evaluations, report, evaluation_report })
    }
}

/// The columns of some names that a row has; `a.b` names nested fields.
fn kept_columns(names: &[String], columns: &Map<String, Value>) -> Map<String, Value> {
    let values = names.iter().filter_map(|name| Some((name.clone(), value_at(columns, name)?.clone())));
    values.collect()
}

/// Drops what is too long, repeated, of an evaluation, or more than `n_rows`: nothing is asked about it.
fn drop_unusable(config: &BuildConfig, evaluations: &EvaluationIndex, seeds: &mut [SeedRow]) {
    let (mut seen, mut n_usable) = (ExactDuplicates::default(), 0);
    for seed in seeds.iter_mut() {
        let is_repeated = seen.insert(&seed.text).is_some();
        let is_long = seed.text.chars().count() > config.max_prompt_characters;
        let reason = || {
            if is_long {
                return Some(Dropped::new(SEED, "longer than `max_prompt_characters`"));
            }
            if is_repeated {
                return Some(Dropped::new(SEED, "repeats an earlier seed row"));
            }
            contamination(evaluations, &seed.text)
                .map(|detail| Dropped::new(SEED, "holds text of an evaluation").with_detail(detail))
        };
        let dropped = seed.dropped.take().or_else(reason);
        seed.dropped = dropped;
        if seed.dropped.is_none() {
            n_usable += 1;
            if config.n_rows.is_some_and(|n_rows| n_usable > n_rows) {
                seed.dropped = Some(Dropped::new(SEED, "beyond `n_rows`"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(text: &str) -> SeedRow {
        SeedRow {
            text: text.into(),
            language: Language::of(text),
            columns: Map::new(),
            kept: Map::new(),
            source: PromptSource { path: "a.jsonl".into(), line: 1 },
            dropped: None,
        }
    }

    #[test]
    fn seeds_that_cannot_be_used_say_why() {
        let mut evaluations = EvaluationIndex::new(DecontaminationOptions::default()).unwrap();
        evaluations.add("capitals", ["What is the capital of France?"]).unwrap();
        let config = BuildConfig { n_rows: Some(2), max_prompt_characters: 60, ..BuildConfig::default() };
        let mut seeds = [
            seed("Why is the sky blue?"),
            seed("why is the  sky blue?"),
            seed("Tell me: what is the capital of France?"),
            seed(&"long ".repeat(20)),
            seed("Name a bird."),
            seed("Name a fish."),
        ];
        drop_unusable(&config, &evaluations, &mut seeds);
        let reasons: Vec<Option<&str>> =
            seeds.iter().map(|seed| seed.dropped.as_ref().map(|dropped| dropped.reason.as_str())).collect();
        let expected = [
            None,
            Some("repeats an earlier seed row"),
            Some("holds text of an evaluation"),
            Some("longer than `max_prompt_characters`"),
            None,
            Some("beyond `n_rows`"),
        ];
        assert_eq!(reasons, expected);
    }
}
