//! Forward from rows that are to be removed: what falls with them in every stage, which stages run again, and which
//! models were trained on it.
//!
//! A row falls when it matches a selector, or was made of a row that falls. A row that loses some of its responses is
//! changed, and so is what was made of it. What a stage decides about several rows at once, such as a selection, may
//! come out otherwise when it runs again: the counts say what was made of the removed rows.

mod rewrite;
mod selector;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use truing_store::StoreError;
use truing_types::counted;

use crate::lineage::Parents;
use crate::lineage::files::{Table, is_lines};
use crate::lineage::index::{id_of, object};
use crate::{Lineage, PipelineError};

pub use rewrite::{FilteredFile, Written, write_without};
pub use selector::Selector;
use selector::{Match, n_responses, without_responses};

const BUFFER_BYTES: usize = 1 << 18;

/// What is to go of a file, by line: the row (`None`), or its responses at some places.
pub(crate) type Matches = BTreeMap<u64, Option<Vec<usize>>>;

/// What falls when rows are removed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Impact {
    /// The selectors.
    pub removed: Vec<String>,
    /// Every file of rows: those from outside first, then those of the stages in the order in which they run.
    pub files: Vec<FileImpact>,
    /// Stages that run again without the rows, in the order in which they run.
    pub runs_again: Vec<String>,
    /// Models that were made with the rows.
    pub models: Vec<ModelImpact>,
    /// Settings of stages that name a value of the selectors.
    pub named: Vec<NamedSetting>,
    /// What people should know.
    pub remarks: Vec<String>,
    /// The rows that fall.
    #[serde(skip)]
    pub rows: Vec<RemovedRow>,
    /// Files that are filtered so that the others follow, by their numbers.
    #[serde(skip)]
    pub(crate) cuts: Vec<usize>,
    /// What is to go of the files that are filtered: whole rows, or places of responses, by line.
    #[serde(skip)]
    pub(crate) matches: BTreeMap<usize, Matches>,
}

/// What falls of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileImpact {
    /// The stage that left it; `None` of a file from outside.
    pub stage: Option<String>,
    /// The output, or the file's name.
    pub file: String,
    /// The file.
    pub path: PathBuf,
    /// Its rows.
    pub n_rows: u64,
    /// Rows that match a selector themselves.
    pub n_matching: u64,
    /// Rows that fall: these, and what was made of rows that fall.
    pub n_removed: u64,
    /// Rows that stay and lose responses, or were made of such a row.
    pub n_changed: u64,
    /// Share of the rows that fall, 0 to 1.
    pub share: f64,
}

/// A model that was made with rows that fall.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelImpact {
    /// The stage.
    pub stage: String,
    /// Its kind.
    pub uses: String,
    /// Rows that it reads.
    pub n_rows: u64,
    /// Those of them that fall.
    pub n_removed: u64,
    /// Models of this list that it follows from: it starts from them or merges them, or reads what they wrote.
    pub from: Vec<String>,
}

/// A setting that names a value of a selector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedSetting {
    /// The stage.
    pub stage: String,
    /// The setting, its keys joined by dots.
    pub setting: String,
}

/// A row that falls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemovedRow {
    /// The stage that left it; `None` of a file from outside.
    pub stage: Option<String>,
    /// The output, or the file's name.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
    /// Its `id`.
    pub id: Option<String>,
    /// The row from which it follows, as `FILE:LINE`; `None` where the row matches itself.
    pub made_of: Option<String>,
}

/// What is known of the files so far.
struct Walk<'l, 'a> {
    lineage: &'l Lineage<'a>,
    selectors: &'l [Selector],
    /// Lines that fall, and lines that change, by file.
    fallen: HashMap<usize, HashSet<u64>>,
    changed: HashMap<usize, HashSet<u64>>,
    /// Files with rows that match and do not follow from others.
    roots: BTreeSet<usize>,
    impact: Impact,
}

/// Follows rows forward.
///
/// # Errors
/// When a file cannot be read.
pub fn impact(lineage: &Lineage<'_>, selectors: &[Selector]) -> Result<Impact, PipelineError> {
    let impact = Impact {
        removed: selectors.iter().map(|selector| selector.text().to_owned()).collect(),
        files: Vec::new(),
        runs_again: Vec::new(),
        models: Vec::new(),
        named: Vec::new(),
        remarks: Vec::new(),
        rows: Vec::new(),
        cuts: Vec::new(),
        matches: BTreeMap::new(),
    };
    let (fallen, changed, roots) = Default::default();
    let mut walk = Walk { lineage, selectors, fallen, changed, roots, impact };
    for file in walk.in_order() {
        walk.file(file)?;
    }
    walk.named_settings();
    walk.cut();
    walk.models();
    Ok(walk.impact)
}

impl Walk<'_, '_> {
    /// The files, each after those that its rows may be made of.
    fn in_order(&self) -> Vec<usize> {
        let files = &self.lineage.files;
        let outside = (0..files.all.len()).filter(|&file| files.all[file].owner.is_none());
        let of_stages = self.lineage.pipeline.order.iter().flat_map(|&stage| files.of_stage(stage));
        outside.chain(of_stages).collect()
    }

    fn has_hit(&self, file: usize) -> bool {
        [&self.fallen, &self.changed].iter().any(|hit| hit.get(&file).is_some_and(|lines| !lines.is_empty()))
    }

    /// Finds what falls of a file.
    fn file(&mut self, file: usize) -> Result<(), PipelineError> {
        let own = self.lineage.files.all[file].clone();
        let stage = own.owner.map(|stage| self.lineage.pipeline.stages[stage].name.clone());
        let is_whole = self.selectors.iter().any(|selector| selector.is_file(&own));
        // People do not run again: what falls of their file is removed from it.
        let is_of_people = own.owner.is_some_and(|stage| self.lineage.plan.stages[stage].is_gate());
        // Where nothing falls above, no row needs to be followed.
        let follows = own.owner.is_some_and(|stage| {
            self.lineage.files.inputs[stage].iter().any(|input| self.has_hit(input.file))
        });
        let mut counts = FileImpact {
            stage: stage.clone(),
            file: own.name.clone(),
            path: own.path.clone(),
            n_rows: 0,
            n_matching: 0,
            n_removed: 0,
            n_changed: 0,
            share: 0.0,
        };
        let (mut fallen, mut changed, mut matches) = (HashSet::new(), HashSet::new(), Matches::new());
        let mut rows = Vec::new();
        let mut is_root = false;
        let mut not_followed: Option<(u64, String)> = None;
        each_row(self.lineage, &own.path, &mut |line, row| {
            counts.n_rows += 1;
            let found = if is_whole { Match::Row } else { self.find(row) };
            let (parent, note) =
                if follows { self.parent_that_falls(file, line, row)? } else { (None, None) };
            let (is_match, is_direct) = (found != Match::No, found == Match::Row);
            if let Some(note) = note.filter(|_| !is_direct) {
                not_followed.get_or_insert((0, note)).0 += 1;
            }
            let falls = matches!(parent, Some((_, true)));
            counts.n_matching += u64::from(is_match);
            is_root |= is_match && !falls;
            match found {
                Match::No => {}
                Match::Row => drop(matches.insert(line, None)),
                Match::Responses(places) => drop(matches.insert(line, Some(places))),
            }
            if is_direct || falls {
                if is_of_people {
                    matches.insert(line, None);
                    is_root = true;
                }
                fallen.insert(line);
                rows.push(RemovedRow {
                    stage: stage.clone(),
                    file: own.name.clone(),
                    line,
                    id: id_of(row),
                    made_of: parent.filter(|_| !is_direct).map(|(place, _)| place),
                });
            } else if is_match || parent.is_some() {
                changed.insert(line);
            }
            Ok(())
        })?;
        if let (Some((n_rows, note)), Some(stage)) = (not_followed, &stage) {
            self.impact.remarks.push(format!(
                "{} of {stage}/{} cannot be followed back, so that some may fall that are not counted: {note}",
                counted(n_rows, "row", "rows"),
                own.name
            ));
        }
        (counts.n_removed, counts.n_changed) = (fallen.len() as u64, changed.len() as u64);
        counts.share = counts.n_removed as f64 / counts.n_rows.max(1) as f64;
        self.impact.files.push(counts);
        self.impact.rows.append(&mut rows);
        self.fallen.insert(file, fallen);
        self.changed.insert(file, changed);
        if is_root {
            self.roots.insert(file);
            self.impact.matches.insert(file, matches);
        }
        Ok(())
    }

    /// What the selectors find in a row together.
    fn find(&self, row: &Map<String, Value>) -> Match {
        let n_responses = n_responses(row);
        self.selectors
            .iter()
            .map(|selector| selector.find(row))
            .fold(Match::No, |all, one| all.and(one, n_responses))
    }

    /// A row that this one was made of and that falls or changes; and why it is not known what it was made of.
    fn parent_that_falls(
        &self,
        file: usize,
        line: u64,
        row: &Map<String, Value>,
    ) -> Result<(Option<AffectedParent>, Option<String>), PipelineError> {
        let Parents { rows: parents, note } = self.lineage.parents(file, line, row)?;
        let is_in = |hit: &HashMap<usize, HashSet<u64>>, (file, line): (usize, u64)| {
            hit.get(&file).is_some_and(|lines| lines.contains(&line))
        };
        let place = |(file, line): (usize, u64)| {
            let row_file = &self.lineage.files.all[file];
            let stage = row_file.owner.map(|stage| format!("{}/", self.lineage.pipeline.stages[stage].name));
            format!("{}{}:{line}", stage.unwrap_or_default(), row_file.name)
        };
        // Several rows may have one `id`. What was made of one of them is not known then, and falls with the first.
        let falls = parents.iter().find(|&&parent| is_in(&self.fallen, parent));
        let changes = parents.iter().find(|&&parent| is_in(&self.changed, parent));
        let found = match (falls, changes) {
            (Some(&parent), _) => Some((place(parent), true)),
            (None, Some(&parent)) => Some((place(parent), false)),
            (None, None) => None,
        };
        Ok((found, note))
    }

    /// Settings that name a value.
    fn named_settings(&mut self) {
        let is_value = |text: &str| self.selectors.iter().any(|selector| selector.is_value(text));
        let mut named = Vec::new();
        for &idx in &self.lineage.pipeline.order {
            let planned = &self.lineage.plan.stages[idx];
            let Some(parts) = &planned.parts else { continue };
            let of_settings = parts.settings.iter().filter(|(_, value)| is_value(value.trim_matches('"')));
            let of_inputs = parts.inputs.iter().filter(|(_, input)| is_value(&input.name));
            let settings = of_settings.map(|(name, _)| name).chain(of_inputs.map(|(name, _)| name));
            named.extend(
                settings
                    .map(|setting| NamedSetting { stage: planned.name.clone(), setting: setting.clone() }),
            );
        }
        self.impact.named = named;
    }

    /// Chooses the files that are filtered: those with rows that match, unless they are made of such a file. Stages
    /// that read a filtered file run again, and all that need them.
    fn cut(&mut self) {
        let (pipeline, files) = (self.lineage.pipeline, &self.lineage.files);
        let mut again: BTreeSet<usize> = BTreeSet::new();
        for file in self.in_order().into_iter().filter(|file| self.roots.contains(file)) {
            let own = &files.all[file];
            if let Some(owner) =
                own.owner.filter(|owner| again.contains(owner) && !self.lineage.plan.stages[*owner].is_gate())
            {
                let name = &pipeline.stages[owner].name;
                self.impact.remarks.push(format!(
                    "rows of {name}/{} match, and `{name}` runs again: change its settings, and look again afterwards",
                    own.name
                ));
                continue;
            }
            let readers = (0..pipeline.stages.len()).filter(|&stage| is_read(self.lineage, stage, file));
            let readers: Vec<usize> = readers.collect();
            if !readers.is_empty() {
                self.impact.cuts.push(file);
            }
            for reader in readers {
                again.insert(reader);
                again.extend(pipeline.downstream(reader));
            }
        }
        for (file, own) in files.all.iter().enumerate() {
            let n_changed = self.changed.get(&file).map_or(0, HashSet::len);
            if let Some(gate) =
                own.owner.filter(|owner| n_changed > 0 && self.lineage.plan.stages[*owner].is_gate())
            {
                self.impact.remarks.push(format!(
                    "{n_changed} rows of {}/{} were made of rows that lose responses: look at them again",
                    pipeline.stages[gate].name, own.name
                ));
            }
        }
        let in_order = pipeline.order.iter().filter(|&stage| again.contains(stage));
        self.impact.runs_again = in_order.map(|&stage| pipeline.stages[stage].name.clone()).collect();
    }

    /// Finds the models that rows which fall are in.
    fn models(&mut self) {
        let (pipeline, files) = (self.lineage.pipeline, &self.lineage.files);
        let mut models: Vec<(usize, ModelImpact)> = Vec::new();
        for &idx in &pipeline.order {
            let stage = &pipeline.stages[idx];
            if !stage.outputs.iter().any(|(name, _)| name == "model") {
                continue;
            }
            let read: BTreeSet<usize> = files.inputs[idx].iter().map(|input| input.file).collect();
            let n_removed =
                read.iter().filter_map(|file| self.fallen.get(file)).map(HashSet::len).sum::<usize>();
            let counted = self.in_order().into_iter().zip(&self.impact.files);
            let counts = counted.filter(|(file, _)| read.contains(file));
            let n_rows = counts.map(|(_, counts)| counts.n_rows).sum();
            let is_upstream = |model: &&(usize, ModelImpact)| pipeline.downstream(model.0).contains(&idx);
            let from: Vec<String> =
                models.iter().filter(is_upstream).map(|(_, model)| model.stage.clone()).collect();
            let is_named = self.impact.named.iter().any(|named| named.stage == stage.name);
            if n_removed > 0 || !from.is_empty() || is_named {
                let (stage, uses) = (stage.name.clone(), stage.uses.clone());
                models.push((idx, ModelImpact { stage, uses, n_rows, n_removed: n_removed as u64, from }));
            }
        }
        self.impact.models = models.into_iter().map(|(_, model)| model).collect();
    }
}

/// Whether the settings of a stage name a file. A command or gate has everything of the stages before it among its
/// inputs, whether it reads it or not.
fn is_read(lineage: &Lineage<'_>, stage: usize, file: usize) -> bool {
    let own = &lineage.files.all[file];
    let is_input = lineage.files.setting(stage, file).is_some();
    let is_named = |owner| lineage.pipeline.references_to(stage, owner).contains(&own.name);
    is_input && own.owner.is_none_or(is_named)
}

/// `FILE:LINE` of a row that others were made of, and whether it falls; else it changes.
type AffectedParent = (String, bool);

/// Takes a row and its line in the file, counted from 1.
pub(crate) type TakeRow<'a> = dyn FnMut(u64, &Map<String, Value>) -> Result<(), PipelineError> + 'a;

/// Hands over the rows of a file with their lines, in order. Lines without an object are passed over.
pub(crate) fn each_row(
    lineage: &Lineage<'_>,
    path: &Path,
    take: &mut TakeRow<'_>,
) -> Result<(), PipelineError> {
    if !is_lines(path)? {
        if let Table::Objects(rows) = lineage.tables.open(path)? {
            for row in rows.iter() {
                take(row.origin.line, &row.object)?;
            }
        }
        return Ok(());
    }
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let (mut bytes, mut line) = (Vec::new(), 0);
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(StoreError::io("read", path))? == 0 {
            return Ok(());
        }
        line += 1;
        if let Some(row) = object(&bytes) {
            take(line, &row)?;
        }
    }
}
