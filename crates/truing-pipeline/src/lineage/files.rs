//! The files of rows of a pipeline: what its stages left, what they read, and which stage reads which file.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};
use truing_data::{ObjectRow, data_files, readable_objects};
use truing_store::StoreError;
use truing_store::paths::in_folder;

use super::index::{Index, id_of};
use crate::plan::PlannedWork;
use crate::recipe::Kind;
use crate::{Digests, Host, Pipeline, PipelineError, PipelinePlan, Store};

/// Endings of files of rows that stages leave.
const OUTPUT_ENDINGS: [&str; 3] = ["jsonl", "ndjson", "parquet"];
/// Endings of files of rows that stages read.
const INPUT_ENDINGS: [&str; 9] = ["jsonl", "ndjson", "json", "parquet", "csv", "tsv", "txt", "gz", "zst"];
/// Files that only folders of models have.
pub(crate) const MODEL_FILES: [&str; 3] = ["config.json", "adapter_config.json", "modules.json"];
/// The folder of the store with indexes.
pub(crate) const INDEXES: &str = "lineage";

/// A file of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowFile {
    /// The stage that left it; `None` of a file from outside.
    pub(crate) owner: Option<usize>,
    /// The name of the output; of a file from outside its name without the folder.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: PathBuf,
}

impl RowFile {
    /// The file's name without the folder.
    pub(crate) fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A file of rows that a stage reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// The setting that names it. Of a command or gate, which may read everything of the stages that it needs, the name
    /// of the stage.
    pub(crate) setting: String,
    /// Its number in [`Files`].
    pub(crate) file: usize,
}

/// All files of rows of a pipeline whose stages have results.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) all: Vec<RowFile>,
    /// What each stage reads, by its index in the pipeline.
    pub(crate) inputs: Vec<Vec<Input>>,
    by_path: HashMap<PathBuf, usize>,
    /// Files by the names that links have for them.
    found: RefCell<HashMap<String, Option<usize>>>,
    /// The run folders by the texts of their keys.
    runs: BTreeMap<String, PathBuf>,
    folder: PathBuf,
}

impl Files {
    /// Looks at everything that the plan knows to be there.
    pub(crate) fn of(pipeline: &Pipeline, plan: &PipelinePlan, store: &Store) -> Self {
        let keys = plan.stages.iter().filter_map(|stage| stage.key);
        let mut files = Self {
            all: Vec::new(),
            inputs: vec![Vec::new(); pipeline.stages.len()],
            by_path: HashMap::new(),
            found: RefCell::default(),
            runs: keys.map(|key| (key.to_string(), store.run_folder(key))).collect(),
            folder: pipeline.folder.clone(),
        };
        for &idx in &pipeline.order {
            let (stage, planned) = (&pipeline.stages[idx], &plan.stages[idx]);
            for read in &planned.files {
                for path in sources(&read.path) {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    // The file that a gate waits for is what the gate leaves.
                    let owner = matches!(stage.kind, Kind::Gate(_)).then_some(idx);
                    let name = if owner.is_some() { "file".to_owned() } else { name };
                    let file = files.add(RowFile { owner, name, path });
                    if owner.is_none() {
                        files.inputs[idx].push(Input { setting: read.setting.clone(), file });
                    }
                }
            }
            for (setting, placeholder) in &planned.made {
                let path = PathBuf::from(plan.with_real_paths(placeholder, store));
                // Of the stages of one key the one that is named.
                let is_named = |&file: &usize| {
                    let RowFile { owner, name, path: left } = &files.all[file];
                    let mut owners = owner.iter().filter(|owner| stage.upstream.contains(owner));
                    *left == path && owners.any(|&owner| pipeline.references_to(idx, owner).contains(name))
                };
                let named = (0..files.all.len()).find(is_named);
                if let Some(file) = named.or_else(|| files.by_path.get(&path).copied()) {
                    files.inputs[idx].push(Input { setting: setting.clone(), file });
                }
            }
            if !matches!(stage.kind, Kind::Stage(_)) {
                for (file, row_file) in files.all.iter().enumerate() {
                    let Some(owner) = row_file.owner.filter(|owner| stage.upstream.contains(owner)) else {
                        continue;
                    };
                    if files.inputs[idx].iter().all(|input| input.file != file) {
                        let setting = pipeline.stages[owner].name.clone();
                        files.inputs[idx].push(Input { setting, file });
                    }
                }
            }
            let Some(key) = planned.key.filter(|_| planned.done.is_some()) else { continue };
            let folder = store.run_folder(key);
            for (name, output) in planned.done.iter().flat_map(|done| &done.outputs) {
                let path = folder.join(&output.path);
                if has_ending(&path, &OUTPUT_ENDINGS) && path.is_file() {
                    files.add(RowFile { owner: Some(idx), name: name.clone(), path });
                }
            }
        }
        files
    }

    /// Adds a file once. Two stages of one key leave the same file, and each has it.
    fn add(&mut self, file: RowFile) -> usize {
        let known = self.by_path.get(&file.path).copied();
        if let Some(known) = known.filter(|&known| self.all[known].owner == file.owner) {
            return known;
        }
        let number = self.all.len();
        if let Ok(real) = fs::canonicalize(&file.path) {
            self.by_path.entry(real).or_insert(number);
        }
        self.by_path.entry(file.path.clone()).or_insert(number);
        self.all.push(file);
        number
    }

    /// The file that a row's link names. The store may have moved since, and links may be written by way of
    /// `pipeline-out/`.
    pub(crate) fn find(&self, named: &str) -> Option<usize> {
        if let Some(&found) = self.found.borrow().get(named) {
            return found;
        }
        let found = self.look_for(named);
        self.found.borrow_mut().insert(named.to_owned(), found);
        found
    }

    fn look_for(&self, named: &str) -> Option<usize> {
        let path = in_folder(&self.folder, Path::new(named));
        if let Some(&found) = self.by_path.get(&path) {
            return Some(found);
        }
        let in_run = self.runs.iter().find_map(|(key, folder)| {
            let (_, below) = named.split_once(&format!("{key}/run/"))?;
            self.by_path.get(&folder.join(below))
        });
        let real = || self.by_path.get(&fs::canonicalize(&path).ok()?);
        in_run.or_else(real).copied().or_else(|| self.moved(&path))
    }

    /// The file from outside that a path which leads to nothing now meant: the only one whose last parts agree most.
    fn moved(&self, path: &Path) -> Option<usize> {
        if path.exists() {
            return None;
        }
        let n_common = |file: usize| {
            let parts = self.all[file].path.components().rev().zip(path.components().rev());
            parts.take_while(|(one, other)| one == other).count()
        };
        let outside = (0..self.all.len()).filter(|&file| self.all[file].owner.is_none());
        let most = outside.clone().map(n_common).max().filter(|most| *most > 0)?;
        let mut found = outside.filter(|&file| n_common(file) == most);
        found.next().filter(|_| found.next().is_none())
    }

    /// The files that a stage left.
    pub(crate) fn of_stage(&self, stage: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.all.len()).filter(move |&file| self.all[file].owner == Some(stage))
    }

    /// The number under which a stage reads a file. Two stages of one key leave the same file under two numbers.
    pub(crate) fn as_read_by(&self, stage: usize, file: usize) -> Option<usize> {
        let mut read = self.inputs[stage].iter().map(|input| input.file);
        let same = |&read: &usize| self.all[read].path == self.all[file].path;
        if self.setting(stage, file).is_some() { Some(file) } else { read.find(same) }
    }

    /// The setting by which a stage reads a file.
    pub(crate) fn setting(&self, stage: usize, file: usize) -> Option<&str> {
        let found = self.inputs[stage].iter().find(|input| input.file == file);
        found.map(|input| input.setting.as_str())
    }
}

/// The files of rows behind a path that a stage reads; none of a model.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        let is_rows = has_ending(path, &INPUT_ENDINGS);
        return if is_rows { vec![path.to_path_buf()] } else { Vec::new() };
    }
    if MODEL_FILES.iter().any(|name| path.join(name).is_file()) {
        return Vec::new();
    }
    // A folder that another program reads need not hold rows.
    let files = data_files(path).unwrap_or_default();
    files.into_iter().filter(|file| has_ending(file, &INPUT_ENDINGS)).collect()
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    endings.contains(&ending.as_str())
}

/// The rows of a file.
#[derive(Debug, Clone)]
pub(crate) enum Table {
    /// JSON Lines, by their index.
    Lines(Rc<Index>),
    /// Rows of another format, all in memory.
    Objects(Rc<Vec<ObjectRow>>),
}

impl Table {
    /// The row at a line.
    pub(crate) fn row(&self, line: u64) -> Result<Option<Map<String, Value>>, PipelineError> {
        match self {
            Self::Lines(index) => Ok(index.row(line)?),
            Self::Objects(rows) => {
                let found = rows.iter().find(|row| row.origin.line == line);
                Ok(found.map(|row| row.object.clone()))
            }
        }
    }

    /// The lines of the rows with an id.
    pub(crate) fn with_id(&self, id: &str) -> Result<Vec<u64>, PipelineError> {
        match self {
            Self::Lines(index) => Ok(index.with_id(id)?),
            Self::Objects(rows) => {
                let found = rows.iter().filter(|row| id_of(&row.object).is_some_and(|own| own == id));
                Ok(found.map(|row| row.origin.line).collect())
            }
        }
    }

    /// The number of the last line.
    pub(crate) fn last_line(&self) -> u64 {
        match self {
            Self::Lines(index) => index.n_lines(),
            Self::Objects(rows) => rows.last().map_or(0, |row| row.origin.line),
        }
    }
}

/// The rows of all files, each opened once.
pub(crate) struct Tables<'a> {
    pub(crate) store: &'a Store,
    pub(crate) digests: &'a Digests,
    pub(crate) host: &'a dyn Host,
    opened: RefCell<HashMap<PathBuf, Table>>,
}

impl<'a> Tables<'a> {
    pub(crate) fn new(store: &'a Store, digests: &'a Digests, host: &'a dyn Host) -> Self {
        Self { store, digests, host, opened: RefCell::default() }
    }

    /// The rows of a file. Its index is made where the store has none for its content.
    pub(crate) fn open(&self, path: &Path) -> Result<Table, PipelineError> {
        if let Some(table) = self.opened.borrow().get(path) {
            return Ok(table.clone());
        }
        let table = if is_lines(path)? {
            Table::Lines(Rc::new(self.index(path)?))
        } else {
            // A program may read other files than such of rows, and a stage may skip bad rows.
            Table::Objects(Rc::new(readable_objects(path)?))
        };
        self.opened.borrow_mut().insert(path.to_path_buf(), table.clone());
        Ok(table)
    }

    /// The index of a file of JSON Lines.
    fn index(&self, path: &Path) -> Result<Index, PipelineError> {
        let digest = self.digests.of_file(path, self.host.now())?.blake3;
        let index = self.store.root().join(INDEXES).join(format!("{digest}.index"));
        Ok(Index::open(path, &index)?)
    }
}

/// Whether a file is plain JSON Lines, by its ending and its first byte.
pub(crate) fn is_lines(path: &Path) -> Result<bool, StoreError> {
    if !has_ending(path, &["jsonl", "ndjson"]) {
        return Ok(false);
    }
    let mut first = Vec::new();
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    file.take(1).read_to_end(&mut first).map_err(StoreError::io("read", path))?;
    // A list begins with a bracket, a compressed file with a byte that is no text.
    Ok(first.first().is_none_or(|byte| byte.is_ascii_whitespace() || [b'{', 0xef].contains(byte)))
}

/// Whether a stage runs another program or waits for people.
pub(crate) fn is_foreign(work: &PlannedWork) -> bool {
    matches!(work, PlannedWork::Command(_) | PlannedWork::Gate(_))
}
