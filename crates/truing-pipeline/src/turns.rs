//! Turns of a pipeline: each evaluates a model and proposes the mix of prompts of the next. The history of a pipeline
//! is one JSON line a turn in its store; the proposal is the recipe with other quotas of its selection.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};
use truing_store::{Digest, StoreError, atomic};

use crate::file_locks::open_lock;
use crate::{CategoryScore, LockFile, Pipeline, PipelineError, ProposedShare, Store};

const FORMAT_VERSION: u32 = 1;
/// Digits of the digest in the name of a history.
const N_DIGITS: usize = 8;
/// The keys of the quotas in the table of a stage.
const QUOTAS: [&str; 3] = ["with", "selection", "quotas"];

/// One turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    format_version: u32,
    /// Its number, from 1.
    pub turn: usize,
    /// When it was recorded, in seconds since 1970.
    pub unix_secs: u64,
    /// The recipe's file, without its folder.
    pub recipe: String,
    /// The stage whose quotas are the mix.
    pub select: String,
    /// What was evaluated.
    pub evaluation: TurnEvaluation,
    /// The score over all items.
    pub score: Option<CategoryScore>,
    /// The categories with their scores, shares and proposed shares.
    pub categories: Vec<ProposedShare>,
    /// The difference from the turn before on the same items.
    pub step: Option<TurnStep>,
    /// Whether a next turn is worth it.
    pub decision: TurnDecision,
}

/// The evaluation of a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnEvaluation {
    /// The stage.
    pub stage: String,
    /// Its key.
    pub key: Digest,
    /// The benchmark.
    pub task: String,
    /// What its items are divided by.
    pub dimension: String,
    /// The metric.
    pub metric: String,
}

/// The difference of two turns, on the scale of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnStep {
    /// This turn less the one before.
    pub difference: f64,
    /// The lower end of its 95 % interval.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
    /// Two-sided p-value of the paired test.
    pub p_value: f64,
    /// Items that both turns have scored.
    pub n_items: usize,
    /// The smallest difference that these items resolve; `None` where they resolve none.
    pub resolvable: Option<f64>,
}

/// Whether a next turn is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnDecision {
    /// There is no turn before: the mix is changed, and the next turn shows what that gives.
    First,
    /// The turn is better than the one before.
    GoOn,
    /// A difference from the turn before is not shown.
    NotResolved,
    /// The turn is worse than the one before.
    Worse,
    /// The turn before measured something else, or its results are not there any more.
    NotCompared,
}

impl TurnDecision {
    /// Whether the turns end here.
    #[must_use]
    pub fn is_stop(self) -> bool {
        matches!(self, Self::NotResolved | Self::Worse)
    }
}

/// What a new turn is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTurn {
    /// See [`Turn::unix_secs`].
    pub unix_secs: u64,
    /// See [`Turn::select`].
    pub select: String,
    /// See [`Turn::evaluation`].
    pub evaluation: TurnEvaluation,
    /// See [`Turn::score`].
    pub score: Option<CategoryScore>,
    /// See [`Turn::categories`].
    pub categories: Vec<ProposedShare>,
    /// See [`Turn::step`].
    pub step: Option<TurnStep>,
    /// See [`Turn::decision`].
    pub decision: TurnDecision,
}

/// The history of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Turns {
    path: PathBuf,
    /// The file under an earlier name, where there is none at `path`.
    earlier: Option<PathBuf>,
    recipe: String,
    /// The turns, the first one first.
    pub turns: Vec<Turn>,
}

/// What every version of a turn has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

impl Turns {
    /// Reads the history of a pipeline; an empty one where there is none.
    ///
    /// The name of the file is made of the pipeline's name and a place. A store below the folder of the lock file moves
    /// with that folder, so the place is the store's path relative to it. Of any other store it is the path of the lock
    /// file: where the lock file was moved, it finds the history by an evaluation that both name.
    ///
    /// # Errors
    /// When it cannot be read, a line is damaged, or it was written by a newer version.
    pub fn read(pipeline: &Pipeline) -> Result<Self, PipelineError> {
        let path = history_at(pipeline, &place_in(&pipeline.store, &pipeline.lock_path()));
        let recipe = pipeline.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let earlier = if path.exists() { None } else { earlier_history(pipeline)? };
        let turns = turns_in(earlier.as_deref().unwrap_or(&path))?;
        Ok(Self { path, earlier, recipe, turns })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the turn of an evaluation is, or would be.
    fn place_of(&self, evaluation: Digest) -> usize {
        let known = self.turns.iter().position(|turn| turn.evaluation.key == evaluation);
        known.unwrap_or(self.turns.len())
    }

    /// The turn before that of an evaluation.
    #[must_use]
    pub fn before(&self, evaluation: Digest) -> Option<&Turn> {
        self.turns[..self.place_of(evaluation)].last()
    }

    /// Adds a turn, or replaces the one of the same evaluation, and writes the history. Returns the turn's number.
    ///
    /// # Errors
    /// When the file cannot be written; the earlier one stays.
    pub fn record(&mut self, new: NewTurn) -> Result<usize, PipelineError> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        }
        let lock_path = self.path.with_extension("lock");
        let guard = open_lock(&lock_path)?;
        guard.lock().map_err(StoreError::io("lock", &lock_path))?;
        // Another process may have recorded a turn since they were read.
        if self.path.exists() {
            self.earlier = None;
        }
        self.turns = turns_in(self.earlier.as_deref().unwrap_or(&self.path))?;
        let place = self.place_of(new.evaluation.key);
        let after_last = || self.turns.last().map_or(1, |last| last.turn + 1);
        let number = self.turns.get(place).map_or_else(after_last, |known| known.turn);
        let NewTurn { unix_secs, select, evaluation, score, categories, step, decision } = new;
        let turn = Turn {
            format_version: FORMAT_VERSION,
            turn: number,
            unix_secs,
            recipe: self.recipe.clone(),
            select,
            evaluation,
            score,
            categories,
            step,
            decision,
        };
        match self.turns.get_mut(place) {
            Some(known) => *known = turn,
            None => self.turns.push(turn),
        }
        let mut text = String::new();
        for turn in &self.turns {
            let line = serde_json::to_string(turn)
                .map_err(|source| StoreError::Json { path: self.path.clone(), source })?;
            text.push_str(&line);
            text.push('\n');
        }
        atomic::write(&self.path, text.as_bytes())?;
        self.earlier = None;
        Ok(number)
    }
}

/// The file with the history of the pipeline of this name whose lock file has this place.
fn history_at(pipeline: &Pipeline, place: &Path) -> PathBuf {
    let digest = Digest::of_bytes(place.to_string_lossy().as_bytes()).to_string();
    pipeline.store.join("turns").join(format!("{}-{}.jsonl", pipeline.name, &digest[..N_DIGITS]))
}

/// What identifies a lock file among those of a store: see [`Turns::read`].
fn place_in(store: &Path, lock: &Path) -> PathBuf {
    let relative = lock.parent().and_then(|folder| store.strip_prefix(folder).ok());
    let is_below = |path: &&Path| !path.components().any(|part| part == Component::ParentDir);
    relative.filter(is_below).unwrap_or(lock).to_path_buf()
}

/// The history of a pipeline in a file with another name than today's. That of the lock file's path comes first: all
/// had it once. Else it is a history with an evaluation that the lock file names: the lock file was moved, or was copied
/// with its store. Of several histories it is the longest.
fn earlier_history(pipeline: &Pipeline) -> Result<Option<PathBuf>, PipelineError> {
    let own_lock = pipeline.lock_path();
    let by_path = history_at(pipeline, &own_lock);
    if by_path.exists() {
        return Ok(Some(by_path));
    }
    let (mut others, used) = (histories(pipeline)?, used_histories(pipeline)?);
    others.retain(|path| !used.contains(path));
    if others.is_empty() {
        return Ok(None);
    }
    let locked = LockFile::read(&own_lock)?;
    let stages = locked.pipelines.get(&pipeline.name).into_iter().flat_map(BTreeMap::values);
    let keys: BTreeSet<Digest> = stages.map(|stage| stage.key).collect();
    let mut longest: Option<(usize, PathBuf)> = None;
    for path in others {
        let turns = turns_in(&path)?;
        let is_same = turns.iter().any(|turn| keys.contains(&turn.evaluation.key));
        if is_same && longest.as_ref().is_none_or(|(n_turns, _)| turns.len() > *n_turns) {
            longest = Some((turns.len(), path));
        }
    }
    Ok(longest.map(|(_, path)| path))
}

/// The histories of all pipelines of this name in the store, in the order of their names. The registrations of lock
/// files do not tell all of them: `gc` removes that of a lock file which was moved.
fn histories(pipeline: &Pipeline) -> Result<Vec<PathBuf>, StoreError> {
    let folder = pipeline.store.join("turns");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
        let entry = entry.map_err(StoreError::io("list", &folder))?;
        if is_history(&pipeline.name, &entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file's name is that of a history of the pipelines of a name: see [`history_at`].
fn is_history(pipeline: &str, file: &str) -> bool {
    let digits = file.strip_prefix(pipeline).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".jsonl"));
    digits.is_some_and(|digits| digits.len() == N_DIGITS)
}

/// The histories of lock files that still use a common store.
fn used_histories(pipeline: &Pipeline) -> Result<BTreeSet<PathBuf>, StoreError> {
    let own_lock = pipeline.lock_path();
    let store = Store::at(&pipeline.store);
    let is_common = place_in(&pipeline.store, &own_lock) == own_lock;
    if !is_common || !store.registrations().is_dir() {
        return Ok(BTreeSet::new());
    }
    let locks = store.registered()?.into_iter().map(|(_, lock)| lock).filter(|lock| lock.exists());
    let places = locks.flat_map(|lock| [place_in(&pipeline.store, &lock), lock]);
    Ok(places.map(|place| history_at(pipeline, &place)).collect())
}

/// The turns of a file; none where there is no file.
fn turns_in(path: &Path) -> Result<Vec<Turn>, PipelineError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::io("read", path)(source).into()),
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let bad =
        |idx: usize, reason| PipelineError::BadTurns { path: path.to_path_buf(), line: idx + 1, reason };
    lines.map(|(idx, line)| read_turn(line).map_err(|reason| bad(idx, reason))).collect()
}

fn read_turn(line: &str) -> Result<Turn, String> {
    if let Ok(Version { format_version }) = serde_json::from_str(line)
        && format_version > FORMAT_VERSION
    {
        return Err(format!(
            "version {format_version}, expected at most {FORMAT_VERSION}: it was written by a newer truing"
        ));
    }
    serde_json::from_str(line).map_err(|error| error.to_string())
}

/// The quotas that a pipeline's recipe sets for the selection of a stage, in its own text: `None` where it sets none.
#[must_use]
pub fn quotas_of(text: &str, stage: &str) -> Option<BTreeMap<String, u64>> {
    let table: Table = toml::from_str(text).ok()?;
    let mut at = table.get("stages")?.get(stage)?;
    for key in QUOTAS {
        at = at.get(key)?;
    }
    let quotas = at.as_table()?.iter().map(|(name, value)| {
        let quota = value.as_integer().and_then(|quota| u64::try_from(quota).ok());
        Some((name.clone(), quota?))
    });
    quotas.collect::<Option<_>>().filter(|quotas: &BTreeMap<_, _>| !quotas.is_empty())
}

/// The text of a pipeline's recipe with other quotas of a stage, and with the pipeline's name where one is given, so
/// that the recipe may have another file name. Everything else stays byte for byte. `None` where the text has not
/// these quotas, or another name.
#[must_use]
pub fn with_quotas(
    text: &str,
    name: Option<&str>,
    stage: &str,
    quotas: &BTreeMap<String, u64>,
) -> Option<String> {
    let mut spans = quota_spans(text, stage)?;
    spans.sort_by_key(|(_, span)| std::cmp::Reverse(span.start));
    let mut edited = text.to_owned();
    for (quota, span) in spans {
        edited.replace_range(span, &quotas.get(&quota)?.to_string());
    }
    if let Some(name) = name {
        edited = with_name(&edited, name)?;
    }
    (quotas_of(&edited, stage)? == *quotas).then_some(edited)
}

/// The quotas by name, with the byte ranges of their numbers in the text.
fn quota_spans(text: &str, stage: &str) -> Option<Vec<(String, Range<usize>)>> {
    let document = DeTable::parse(text).ok()?;
    let mut at = document.get_ref();
    for key in ["stages", stage].into_iter().chain(QUOTAS) {
        let DeValue::Table(table) = at.get(key)?.get_ref() else { return None };
        at = table;
    }
    Some(at.iter().map(|(name, value)| (name.get_ref().to_string(), value.span())).collect())
}

/// The text with the pipeline's name, where it has none.
fn with_name(text: &str, name: &str) -> Option<String> {
    let table: Table = toml::from_str(text).ok()?;
    let named = table.get("pipeline").and_then(|pipeline| pipeline.get("name"));
    if named.is_some() {
        return (named.and_then(Value::as_str) == Some(name)).then(|| text.to_owned());
    }
    let line = format!("name = {}\n", Value::from(name));
    let ends = text.split_inclusive('\n').scan(0, |at, line| {
        *at += line.len();
        Some((*at, line))
    });
    let mut headers = ends.filter(|(_, line)| line.trim() == "[pipeline]");
    let after_header = headers.next().map(|(at, _)| at);
    let edited = match after_header {
        Some(at) => format!("{}{line}{}", &text[..at], &text[at..]),
        None => format!("[pipeline]\n{line}\n{text}"),
    };
    let table: Table = toml::from_str(&edited).ok()?;
    (table.get("pipeline")?.get("name")?.as_str() == Some(name)).then_some(edited)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "# A comment.\n[stages.select]\nuses = \"select\"\n\n[stages.select.with.selection]\n\
                          quota_column = \"topic\"\nquotas = { math = 60, code = 40 } # by topic\n\n\
                          [stages.pas]\nuses = \"pas\"\nwith = { selection = true }\n";

    fn quotas(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, quota)| ((*name).to_owned(), *quota)).collect()
    }

    #[test]
    fn quotas_are_read_and_replaced_and_nothing_else_changes() {
        assert_eq!(quotas_of(RECIPE, "select"), Some(quotas(&[("code", 40), ("math", 60)])));
        assert_eq!((quotas_of(RECIPE, "pas"), quotas_of(RECIPE, "none")), (None, None));
        let new = quotas(&[("code", 5), ("math", 95)]);
        let edited = with_quotas(RECIPE, Some("songs"), "select", &new).unwrap();
        let expected = RECIPE.replace("math = 60, code = 40", "math = 95, code = 5");
        assert_eq!(edited, format!("[pipeline]\nname = \"songs\"\n\n{expected}"));
        assert_eq!(with_quotas(RECIPE, None, "select", &new).unwrap(), expected);
        assert_eq!(with_quotas(&edited, Some("songs"), "select", &new).unwrap(), edited);
        assert_eq!(with_quotas(&edited, Some("other"), "select", &new), None, "another pipeline's recipe");
        assert_eq!(
            with_quotas(RECIPE, Some("songs"), "select", &quotas(&[("math", 1)])),
            None,
            "a quota is missing"
        );
    }

    #[test]
    fn quotas_in_a_table_and_a_pipeline_without_a_name_are_edited_in_place() {
        let text = "[pipeline]\nstore = \"s\"\n\n[stages.s]\nuses = \"select\"\n[stages.s.with.selection.quotas]\n\
                    \"deep math\" = 1_000\ncode = 3\n";
        let edited =
            with_quotas(text, Some("songs"), "s", &quotas(&[("code", 4), ("deep math", 999)])).unwrap();
        let expected = "[pipeline]\nname = \"songs\"\nstore = \"s\"\n\n[stages.s]\nuses = \"select\"\n\
                        [stages.s.with.selection.quotas]\n\"deep math\" = 999\ncode = 4\n";
        assert_eq!(edited, expected);
    }
}
