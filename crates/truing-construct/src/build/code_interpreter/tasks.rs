//! What conversations begin with: new tasks over kinds, tables and topics, or the rows of data.

use rand_chacha::rand_core::Rng;
use serde_json::Map;
use truing_types::Seed;

use super::config::{CodeInterpreterConfig, InterpreterKind, TOPICS};
use super::tables::{DataFile, data_file};
use crate::build::inputs::{SEED, SeedRow};
use crate::build::reasoning::{given_answer, is_comparable};
use crate::build::{Dropped, Unit};

/// What a conversation begins with.
#[derive(Debug, Clone)]
pub(super) enum Beginning {
    /// A question that the writer makes; `number` counts those of the kind.
    New { kind: InterpreterKind, number: usize, file: Option<DataFile> },
    /// A question of a row with its answer.
    Row { reference: String },
}

/// The kinds in turn, each on its tables or topics in turn.
pub(super) fn new_tasks(
    settings: &CodeInterpreterConfig,
    n_rows: usize,
    seed: Seed,
) -> (Vec<Unit>, Vec<Beginning>) {
    let drawn = seed.generator("code interpreter topics", &[]).next_u64();
    let first_topic = (drawn % TOPICS.len() as u64) as usize;
    let new = |row: usize| {
        let (kind, number) = (settings.kinds[row % settings.kinds.len()], row / settings.kinds.len());
        let language = settings.languages[number % settings.languages.len()];
        let (file, about) = match data_file(kind, number, settings.file_rows, seed) {
            Some((file, about)) => (Some(file), about),
            None => (None, TOPICS[(first_topic + number) % TOPICS.len()]),
        };
        let unit = Unit {
            text: about[language as usize].to_owned(),
            language,
            source: None,
            kept: Map::new(),
            kinds: vec![kind.code().to_owned()],
            dropped: None,
        };
        (unit, Beginning::New { kind, number, file })
    };
    (0..n_rows).map(new).unzip()
}

/// Rows with reference answers.
pub(super) fn given_tasks(
    settings: &CodeInterpreterConfig,
    seeds: &[SeedRow],
) -> (Vec<Unit>, Vec<Beginning>) {
    let given = |seed: &SeedRow| {
        let reference = given_answer(seed, &settings.answer_column);
        let mut unit = seed.unit(Vec::new());
        if !is_comparable(&reference) {
            let reason = "no short answer in `code_interpreter.answer_column`";
            unit.dropped.get_or_insert(Dropped::new(SEED, reason));
        }
        (unit, Beginning::Row { reference })
    };
    seeds.iter().map(given).unzip()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use truing_ask::pas::Language;

    use super::*;

    #[test]
    fn kinds_tables_and_languages_come_up_equally_often() {
        let settings = CodeInterpreterConfig::default();
        let (units, beginnings) = new_tasks(&settings, 30, Seed(1));
        let mut n_of: BTreeMap<(String, Language), usize> = BTreeMap::new();
        for unit in &units {
            *n_of.entry((unit.kinds[0].clone(), unit.language)).or_default() += 1;
        }
        assert_eq!(n_of.len(), 10);
        assert!(n_of.values().all(|n| *n == 3), "{n_of:?}");
        let has_file = |one: &&Beginning| matches!(one, Beginning::New { file: Some(_), .. });
        assert_eq!(beginnings.iter().filter(has_file).count(), 18);
    }
}
