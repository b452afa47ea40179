//! From a row of a pipeline back to the rows that it was made of.
//!
//! A row says which row it was made of: `source` or `origin` hold file and line. The rows that a selection kept are
//! as they were read, so that their place among the kept decisions says it. Rows that another program or people made
//! are followed by the same fields, or by their `id`. Every look-up goes through an index of the file, so that the
//! time does not grow with the number of rows.

pub(crate) mod files;
pub(crate) mod index;
pub(crate) mod links;

use std::fs::File;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Digests, Host, Pipeline, PipelineError, PipelinePlan, Store};
use files::{Files, RowFile, Table, Tables, is_foreign};
use index::id_of;
use links::{Link, links_of};

/// Files of a run beside its outputs that say what became of a row, and why.
const RECORDS: [&str; 5] =
    ["candidates.jsonl", "decisions.jsonl", "fates.jsonl", "verdicts.jsonl", "skipped.jsonl"];
/// The rows that were left out.
const SKIPPED: &str = "skipped.jsonl";
/// What became of every row of a selection.
const DECISIONS: &str = "decisions.jsonl";
/// Records that are kept of what a stage says of one row that it read; others are counted.
const MAX_RECORDS: usize = 200;
/// Rows of one trace: of an `id` that many rows have, each may have been made of as many.
const MAX_ROWS: usize = 200;

/// The rows of a pipeline, to be followed.
pub struct Lineage<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) plan: &'a PipelinePlan,
    pub(crate) files: Files,
    pub(crate) tables: Tables<'a>,
    /// Keeps results from being removed meanwhile.
    _shared: File,
}

/// A row of a pipeline as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowAddress<'a> {
    /// The stage that left the row or reads it.
    pub stage: &'a str,
    /// An output, a file's name, or a setting that names a file. Default: the first output with rows, else the data
    /// that is read.
    pub file: Option<&'a str>,
    /// The line, counted from 1; or the `id` (also as `id=ID`).
    pub row: &'a str,
}

/// Where a row came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    /// The stage that reads the row, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader: Option<Reader>,
    /// The row.
    pub row: TracedRow,
    /// Rows of the file with the same `id`, this one too.
    pub n_with_id: usize,
}

/// A stage that reads a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reader {
    /// Its name.
    pub stage: String,
    /// Its kind.
    pub uses: String,
    /// The setting that names the file.
    pub setting: String,
    /// What it says of the row: why it was left out.
    pub records: Vec<Record>,
    /// Further records, which are too many to list.
    pub n_records_left_out: usize,
}

/// A row and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TracedRow {
    /// The stage that left it; `None` of a file from outside.
    pub stage: Option<String>,
    /// The kind of that stage.
    pub uses: Option<String>,
    /// The output, or the file's name.
    pub file: String,
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: u64,
    /// Its `id`.
    pub id: Option<String>,
    /// Its fields; `None` where the line is no row.
    pub row: Option<Map<String, Value>>,
    /// What the stage says of it in other files: decisions, candidates, verdicts.
    pub records: Vec<Record>,
    /// Further records, which are too many to list.
    pub n_records_left_out: usize,
    /// The rows that it was made of.
    pub from: Vec<TracedRow>,
    /// Why it cannot be followed further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A row of a file beside the outputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// The file's name.
    pub file: String,
    /// Its line.
    pub line: u64,
    /// The row.
    pub row: Map<String, Value>,
}

/// The rows that a row was made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Parents {
    /// Numbers of files, and lines.
    pub(crate) rows: Vec<(usize, u64)>,
    /// Why there are none.
    pub(crate) note: Option<String>,
}

impl Parents {
    fn without(note: String) -> Self {
        Self { rows: Vec::new(), note: Some(note) }
    }
}

impl<'a> Lineage<'a> {
    /// Looks at what the stages read and left. Indexes are made when they are needed first, below `lineage/` of the
    /// store.
    ///
    /// # Errors
    /// When nothing was applied yet, or results are being removed.
    pub fn open(
        pipeline: &'a Pipeline,
        plan: &'a PipelinePlan,
        store: &'a Store,
        digests: &'a Digests,
        host: &'a dyn Host,
    ) -> Result<Self, PipelineError> {
        if !store.root().is_dir() {
            let reason = format!(
                "there is no store at {}: expected results; `truing pipeline apply` makes them",
                store.root().display()
            );
            return Err(PipelineError::Lineage { reason });
        }
        let shared = store.lock_whole(false)?;
        let files = Files::of(pipeline, plan, store);
        Ok(Self { pipeline, plan, files, tables: Tables::new(store, digests, host), _shared: shared })
    }

    /// Follows a row back to the files from outside.
    ///
    /// # Errors
    /// When there is no such stage, file or row, or a file cannot be read.
    pub fn trace(&self, address: RowAddress<'_>) -> Result<Trace, PipelineError> {
        let stage = self.pipeline.stage_index(address.stage)?;
        let file = self.file_at(stage, address.file)?;
        let (line, n_with_id) = self.line_at(file, address.row)?;
        let reader = match self.files.setting(stage, file) {
            Some(setting) if self.files.all[file].owner != Some(stage) => {
                let (records, n_records_left_out) = self.records(stage, (file, line), None)?;
                let StageNames { name, uses } = self.names(stage);
                Some(Reader { stage: name, uses, setting: setting.to_owned(), records, n_records_left_out })
            }
            _ => None,
        };
        let row = self.traced(file, line, self.pipeline.stages.len(), &mut 0)?;
        Ok(Trace { reader, row, n_with_id })
    }

    fn names(&self, stage: usize) -> StageNames {
        let stage = &self.pipeline.stages[stage];
        StageNames { name: stage.name.clone(), uses: stage.uses.clone() }
    }

    /// The file of an address.
    fn file_at(&self, stage: usize, named: Option<&str>) -> Result<usize, PipelineError> {
        let own = &self.pipeline.stages[stage];
        let (left, read) = (|| self.files.of_stage(stage), &self.files.inputs[stage]);
        let Some(named) = named else {
            let first = own
                .outputs
                .iter()
                .find_map(|(name, _)| left().find(|&file| self.files.all[file].name == *name));
            let data: Vec<usize> = read
                .iter()
                .filter(|input| input.setting.starts_with("data"))
                .map(|input| input.file)
                .collect();
            return match (first, data.as_slice(), read.as_slice()) {
                (Some(first), ..) => Ok(first),
                (None, [only], _) => Ok(*only),
                (None, [], [only]) => Ok(only.file),
                _ => Err(self.no_file(stage, "it does not say which file")),
            };
        };
        let is_named = |file: usize| {
            let file = &self.files.all[file];
            file.name == named || file.file_name() == named
        };
        let by_setting = || read.iter().find(|input| input.setting == named).map(|input| input.file);
        let found = left().find(|&file| is_named(file)).or_else(by_setting);
        let found = found.or_else(|| read.iter().map(|input| input.file).find(|&file| is_named(file)));
        found.ok_or_else(|| self.no_file(stage, &format!("it has no file `{named}`")))
    }

    /// An error that lists the files of a stage.
    fn no_file(&self, stage: usize, problem: &str) -> PipelineError {
        let name = &self.pipeline.stages[stage].name;
        let left = self.files.of_stage(stage).map(|file| self.files.all[file].name.clone());
        let read = self.files.inputs[stage].iter().map(|input| input.setting.clone());
        let names: Vec<String> = left.chain(read).map(|name| format!("`{name}`")).collect();
        let expected = match names.as_slice() {
            [] => {
                "it left no rows and reads none; `truing pipeline status` says whether it has run".to_owned()
            }
            _ => format!("expected `{name}/FILE` with one of {}", names.join(", ")),
        };
        PipelineError::Lineage { reason: format!("stage `{name}`: {problem}: {expected}") }
    }

    /// The line of a row, and how many rows have its `id`.
    fn line_at(&self, file: usize, row: &str) -> Result<(u64, usize), PipelineError> {
        let RowFile { path, .. } = &self.files.all[file];
        let table = self.tables.open(path)?;
        if let Ok(line) = row.parse::<u64>() {
            if table.row(line)?.is_some() {
                return Ok((line, 1));
            }
            let last = table.last_line();
            let reason = format!(
                "{}:{line} holds no row: expected a line of 1 to {last}, or `id=ID`; empty lines are counted",
                path.display()
            );
            return Err(PipelineError::Lineage { reason });
        }
        let id = row.strip_prefix("id=").unwrap_or(row);
        let lines = table.with_id(id)?;
        let first = lines.first().ok_or_else(|| {
            let reason = format!("{} has no row with `id` {id}: expected an id or a line", path.display());
            PipelineError::Lineage { reason }
        })?;
        Ok((*first, lines.len()))
    }

    /// A row with the rows that it was made of, at most `depth` stages back. `n_rows` counts the rows of the trace.
    fn traced(
        &self,
        file: usize,
        line: u64,
        depth: usize,
        n_rows: &mut usize,
    ) -> Result<TracedRow, PipelineError> {
        *n_rows += 1;
        let RowFile { owner, name, path } = &self.files.all[file];
        let row = self.tables.open(path)?.row(line)?;
        let names = owner.map(|stage| self.names(stage));
        let mut traced = TracedRow {
            stage: names.as_ref().map(|names| names.name.clone()),
            uses: names.map(|names| names.uses),
            file: name.clone(),
            path: path.clone(),
            line,
            id: row.as_ref().and_then(id_of),
            row: None,
            records: Vec::new(),
            n_records_left_out: 0,
            from: Vec::new(),
            note: None,
        };
        if let (Some(stage), Some(fields)) = (*owner, &row) {
            let parents = self.parents(file, line, fields)?;
            traced.note = parents.note;
            for (place, &parent) in parents.rows.iter().enumerate() {
                // The first is always followed.
                if place > 0 && *n_rows >= MAX_ROWS {
                    let n_more = parents.rows.len() - place;
                    traced.note = Some(format!("{n_more} more rows have its `id`, and are left out here"));
                    break;
                }
                let (records, n_left_out) = self.records(stage, parent, Some((file, fields)))?;
                traced.records.extend(records);
                traced.n_records_left_out += n_left_out;
                if depth > 0 {
                    traced.from.push(self.traced(parent.0, parent.1, depth - 1, n_rows)?);
                }
            }
        }
        traced.row = row;
        Ok(traced)
    }

    /// The rows that a row of a stage was made of; none of a file from outside.
    pub(crate) fn parents(
        &self,
        file: usize,
        line: u64,
        row: &Map<String, Value>,
    ) -> Result<Parents, PipelineError> {
        let own = &self.files.all[file];
        let Some(stage) = own.owner else { return Ok(Parents::default()) };
        let uses = self.pipeline.stages[stage].uses.as_str();
        let file_name = own.file_name();
        if uses == "select" && file_name == "selected.jsonl" {
            return self.parents_of_kept(stage, own, line);
        }
        let links = links_of(row, uses, &file_name);
        if let Some(found) = self.linked(stage, &links) {
            return Ok(Parents { rows: vec![found], note: None });
        }
        if is_foreign(&self.plan.stages[stage].work) {
            return self.parents_by_id(stage, row);
        }
        Ok(Parents::without(match links.first() {
            None => "it has no link to a row that it was made of".to_owned(),
            Some(Link { path, line }) => {
                let name = &self.pipeline.stages[stage].name;
                format!("it was made of {path}:{line}, which is no file that `{name}` reads now")
            }
        }))
    }

    /// The first of some links that names a file which a stage reads.
    fn linked(&self, stage: usize, links: &[Link]) -> Option<(usize, u64)> {
        links.iter().find_map(|link| {
            let file = self.files.find(&link.path)?;
            self.files.as_read_by(stage, file).map(|file| (file, link.line))
        })
    }

    /// A selection writes rows as they were read: the nth of them is the nth that its decisions keep.
    fn parents_of_kept(&self, stage: usize, own: &RowFile, line: u64) -> Result<Parents, PipelineError> {
        let path = own.path.with_file_name(DECISIONS);
        if !path.is_file() {
            return Ok(Parents::without(format!("{} is missing", path.display())));
        }
        let Table::Lines(decisions) = self.tables.open(&path)? else {
            return Ok(Parents::without(format!("{} holds no JSON Lines", path.display())));
        };
        let decision = match decisions.kept(line)? {
            Some(line) => decisions.row(line)?.unwrap_or_default(),
            None => Map::new(),
        };
        let found = self.linked(stage, &links_of(&decision, "select", DECISIONS));
        let note = || format!("no decision of {} is about it", path.display());
        Ok(found.map_or_else(|| Parents::without(note()), |found| Parents { rows: vec![found], note: None }))
    }

    /// What another program or people made: rows of the same `id` in what the stages before it left.
    fn parents_by_id(&self, stage: usize, row: &Map<String, Value>) -> Result<Parents, PipelineError> {
        const HOW: &str = "rows of commands and gates are followed by `source` = {path, line} or by `id`";
        let Some(id) = id_of(row) else { return Ok(Parents::without(format!("it has no `id`: {HOW}"))) };
        for input in &self.files.inputs[stage] {
            let lines = self.tables.open(&self.files.all[input.file].path)?.with_id(&id)?;
            if !lines.is_empty() {
                let rows = lines.into_iter().map(|line| (input.file, line)).collect();
                return Ok(Parents { rows, note: None });
            }
        }
        // An item without an `id` is named after its file and line.
        let place = id.rsplit_once(':').and_then(|(path, line)| {
            self.linked(stage, &[Link { path: path.to_owned(), line: line.parse().ok()? }])
        });
        let note = || format!("no row that the stage reads has its `id` {id}: {HOW}");
        Ok(place.map_or_else(|| Parents::without(note()), |found| Parents { rows: vec![found], note: None }))
    }

    /// What a stage says in other files about a row that it read, and `made` of it: at most [`MAX_RECORDS`], and how
    /// many more there are.
    fn records(
        &self,
        stage: usize,
        parent: (usize, u64),
        made: Option<(usize, &Map<String, Value>)>,
    ) -> Result<(Vec<Record>, usize), PipelineError> {
        let Some(key) = self.plan.stages[stage].key.filter(|_| !is_foreign(&self.plan.stages[stage].work))
        else {
            return Ok((Vec::new(), 0));
        };
        let folder = self.tables.store.run_folder(key);
        let uses = self.pipeline.stages[stage].uses.as_str();
        let (mut records, mut n_left_out) = (Vec::new(), 0);
        for name in RECORDS {
            let path = folder.join(name);
            let is_own = made.is_some_and(|(file, _)| self.files.all[file].path == path);
            // What was made of a row says nothing about why rows are left out, and the other way round.
            if is_own || (made.is_none() && name != SKIPPED) || !path.is_file() {
                continue;
            }
            let Table::Lines(index) = self.tables.open(&path)? else { continue };
            for (number, named) in index.paths().iter().enumerate() {
                let found = self.files.find(named).and_then(|found| self.files.as_read_by(stage, found));
                if found != Some(parent.0) {
                    continue;
                }
                for line in index.linked_to(number, parent.1)? {
                    let Some(row) = index.row(line)? else { continue };
                    if self.linked(stage, &links_of(&row, uses, name)) != Some(parent) {
                        continue;
                    }
                    let row = match made {
                        Some((_, made)) => about(made, &row),
                        None => Some(row),
                    };
                    match row {
                        Some(row) if records.len() < MAX_RECORDS => {
                            records.push(Record { file: name.to_owned(), line, row });
                        }
                        Some(_) => n_left_out += 1,
                        None => {}
                    }
                }
            }
        }
        Ok((records, n_left_out))
    }
}

/// The names of a stage.
struct StageNames {
    name: String,
    uses: String,
}

/// What of a record is about a row that was made: of several responses the one in it, of several verdicts those on its
/// responses. `None` where nothing is.
fn about(made: &Map<String, Value>, record: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut record = record.clone();
    let said = made.get("messages").and_then(Value::as_array).and_then(|turns| turns.last()?.get("content"));
    if let (Some(said), Some(Value::Array(responses))) = (said, record.get_mut("responses")) {
        let is_it = |response: &Value| {
            let agrees = |field: &str| match made.get(field) {
                Some(own) => response.get(field) == Some(own),
                None => true,
            };
            response.get("content") == Some(said) && agrees("model") && agrees("decoding")
        };
        if responses.iter().any(is_it) {
            responses.retain(is_it);
        }
    }
    let places: Vec<&Value> =
        ["chosen_index", "rejected_index"].iter().filter_map(|field| made.get(*field)).collect();
    let is_of = |value: &Value| match value {
        Value::Array(shown) => shown.iter().any(|place| places.contains(&place)),
        place => places.contains(&place),
    };
    let shown = record.get("response").filter(|place| place.is_number()).or_else(|| record.get("order"));
    let is_other =
        record.contains_key("judge") && !places.is_empty() && shown.is_some_and(|shown| !is_of(shown));
    (!is_other).then_some(record)
}
