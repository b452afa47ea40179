//! The recipe of a pipeline: its stages, and which stage needs which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::{Table, Value};
use truing_run::recipe::{FileKind, line_of_key, read_kind};
use truing_run::{RecipeError, RecipePlace};
use truing_store::paths::in_folder;
use truing_types::nearest_name;

use crate::references::{self, Reference};
use crate::settings::StageText;
use crate::{Host, NamedOutput, PipelineError, StageKind};

/// The kind of stage that runs another program.
const COMMAND: &str = "command";
/// The kind of stage that waits for a file.
const GATE: &str = "gate";
/// Where results are shown, beside the recipe.
const LINKS: &str = "pipeline-out";

/// A pipeline's recipe.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PipelineFile {
    #[serde(default)]
    pipeline: PipelineSettings,
    #[serde(default)]
    stages: BTreeMap<String, StageSettings>,
}

/// The table `[pipeline]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PipelineSettings {
    /// Its name in the lock file. Default: the name of the recipe's file.
    name: Option<String>,
    /// The folder of finished runs. Default: `.truing/store` beside the recipe.
    store: Option<PathBuf>,
    /// Object storage through which machines share results. Default: none.
    remote: Option<String>,
}

/// A table `[stages.NAME]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StageSettings {
    /// The kind of stage.
    uses: String,
    /// Settings; with `recipe`, on top of it.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    with: Table,
    /// A recipe's file.
    recipe: Option<PathBuf>,
    /// Stages that come first, besides those whose outputs are read.
    #[serde(default)]
    needs: Vec<String>,
}

/// The settings of a stage that runs another program.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandSettings {
    /// The program and its arguments; `${output}` is the folder for its results.
    pub(crate) command: Vec<String>,
    /// Files and folders that it reads.
    #[serde(default)]
    pub(crate) inputs: Vec<String>,
    /// What it leaves: names, and paths below the folder for its results.
    pub(crate) outputs: BTreeMap<String, String>,
}

/// The settings of a stage that waits for a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GateSettings {
    /// The file.
    pub(crate) file: PathBuf,
    /// What people are asked to do.
    pub(crate) message: Option<String>,
}

/// What a stage is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Stage(StageKind),
    Command,
    Gate(GateSettings),
}

/// A stage of a pipeline.
#[derive(Debug, Clone)]
pub struct PipelineStage {
    /// Its name.
    pub name: String,
    /// Its kind, as `uses` says it.
    pub uses: String,
    /// The stages that it needs, by index.
    pub upstream: Vec<usize>,
    pub(crate) kind: Kind,
    pub(crate) with: Table,
    /// A recipe's file, absolute and as it is shown, and its text.
    pub(crate) recipe: Option<RecipeFile>,
    /// The stages that `needs` names.
    pub(crate) needs: Vec<usize>,
    /// Names of outputs and their paths.
    pub(crate) outputs: Vec<(String, String)>,
}

/// The recipe of a single stage.
#[derive(Debug, Clone)]
pub(crate) struct RecipeFile {
    pub(crate) path: PathBuf,
    pub(crate) shown: PathBuf,
    pub(crate) text: String,
}

/// A pipeline.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// The stages in the order of the recipe.
    pub stages: Vec<PipelineStage>,
    /// Indices of the stages, each after those that it needs.
    pub order: Vec<usize>,
    /// The folder of finished runs.
    pub store: PathBuf,
    /// The address of the object storage through which machines share results.
    pub remote: Option<String>,
    /// The folder of the recipe, absolute.
    pub folder: PathBuf,
    /// The folder of the lock file and of the links: that of the recipe, unless the results go elsewhere.
    pub(crate) results: PathBuf,
    path: PathBuf,
    text: String,
}

impl Pipeline {
    /// Reads a pipeline's recipe from `path`. `absolute` is the same path from the root.
    ///
    /// # Errors
    /// When the file cannot be read, a key is unknown, a kind of stage, a stage or an output does not exist, or stages
    /// need each other.
    pub fn read(path: &Path, absolute: &Path, host: &dyn Host) -> Result<Self, PipelineError> {
        let read = |path: &Path, shown: &Path| {
            let source = |source| PipelineError::Read { path: shown.to_path_buf(), source };
            fs::read_to_string(path).map_err(source)
        };
        let text = read(absolute, path)?;
        let file: PipelineFile = read_kind(&text, path, FileKind::Pipeline)?;
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = file.pipeline.name.unwrap_or(stem);
        check_name(&name, &text, path)?;
        let store = file.pipeline.store.unwrap_or_else(|| ".truing/store".into());
        let mut pipeline = Self {
            name,
            stages: Vec::new(),
            order: Vec::new(),
            store: in_folder(&folder, &store),
            results: folder.clone(),
            remote: file.pipeline.remote,
            folder,
            path: path.to_path_buf(),
            text,
        };
        let mut settings: Vec<(String, StageSettings)> = file.stages.into_iter().collect();
        settings.sort_by_key(|(name, _)| pipeline.line_of_stage(name));
        let needs: Vec<Vec<String>> = settings.iter().map(|(_, stage)| stage.needs.clone()).collect();
        for (name, stage) in settings {
            let recipe = stage.recipe.as_ref().map(|recipe| {
                let absolute = in_folder(&pipeline.folder, recipe);
                let shown = in_folder(path.parent().unwrap_or(Path::new("")), recipe);
                Ok::<_, PipelineError>(RecipeFile { text: read(&absolute, &shown)?, path: absolute, shown })
            });
            let stage = pipeline.stage(name, stage, recipe.transpose()?, host)?;
            pipeline.stages.push(stage);
        }
        pipeline.connect(&needs)?;
        pipeline.order = pipeline.sorted()?;
        Ok(pipeline)
    }

    /// The recipe's file as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lock file.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.results.join(crate::LockFile::FILE_NAME)
    }

    /// Held while the lock file is changed.
    pub(crate) fn guard_path(&self) -> PathBuf {
        self.results.join(LINKS).join(".lock")
    }

    /// The folder with a link to the result of each stage.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.results.join(LINKS).join(&self.name)
    }

    /// The same pipeline with its store, lock file and links in another folder, so that a trial leaves nothing beside
    /// the recipe and in its store.
    #[must_use]
    pub fn with_results_in(mut self, folder: &Path) -> Self {
        self.store = folder.join("store");
        self.results = folder.to_path_buf();
        self
    }

    /// The pipeline without a stage, by its index, and without those that need it.
    #[must_use]
    pub fn without(&self, stage: usize) -> Self {
        let mut left_out: BTreeSet<usize> = self.downstream(stage).into_iter().collect();
        left_out.insert(stage);
        let kept: Vec<usize> = (0..self.stages.len()).filter(|idx| !left_out.contains(idx)).collect();
        let moved = |indices: &[usize]| -> Vec<usize> {
            indices.iter().filter_map(|idx| kept.iter().position(|kept| kept == idx)).collect()
        };
        let stages = kept.iter().map(|&idx| {
            let stage = &self.stages[idx];
            let (upstream, needs) = (moved(&stage.upstream), moved(&stage.needs));
            PipelineStage { upstream, needs, ..stage.clone() }
        });
        Self { stages: stages.collect(), order: moved(&self.order), ..self.clone() }
    }

    /// The place of a setting of a stage, whose keys and indices are `keys`: in the pipeline's recipe, or else in the
    /// stage's own. Where neither has it, that of the nearest table of the pipeline's recipe that is there.
    #[must_use]
    pub fn place_of_setting(&self, stage: &str, keys: &[String]) -> RecipePlace {
        let in_pipeline = [&["stages".to_owned(), stage.to_owned(), "with".to_owned()], keys].concat();
        let own =
            self.stages.iter().find(|known| known.name == stage).and_then(|known| known.recipe.as_ref());
        match own.map(|file| (file, line_of_key(&file.text, keys))) {
            Some((file, Some(line))) if line_of_key(&self.text, &in_pipeline).is_none() => {
                RecipePlace::Line { path: file.shown.clone(), line }
            }
            _ => self.at(stage).place_of(&in_pipeline[2..]),
        }
    }

    /// The stage of a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn stage_index(&self, name: &str) -> Result<usize, PipelineError> {
        let found = self.stages.iter().position(|stage| stage.name == name);
        found.ok_or_else(|| PipelineError::NoStage {
            path: self.path.clone(),
            name: name.to_owned(),
            hint: hint(name, self.stages.iter().map(|stage| stage.name.as_str())),
        })
    }

    /// All stages that need a stage, directly or through others, in the order of the recipe.
    #[must_use]
    pub fn downstream(&self, stage: usize) -> Vec<usize> {
        let mut found = BTreeSet::from([stage]);
        for &idx in &self.order {
            if self.stages[idx].upstream.iter().any(|upstream| found.contains(upstream)) {
                found.insert(idx);
            }
        }
        found.remove(&stage);
        found.into_iter().collect()
    }

    /// The text of the recipe.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The names of the outputs of `owner` that the settings of a stage name.
    pub(crate) fn references_to(&self, stage: usize, owner: usize) -> Vec<String> {
        let found = self.references_of(&self.stages[stage]).unwrap_or_default();
        let of_owner = found.into_iter().filter(|(reference, _)| reference.stage == self.stages[owner].name);
        of_owner.map(|(reference, _)| reference.output).collect()
    }

    pub(crate) fn at<'a>(&'a self, stage: &'a str) -> StageText<'a> {
        StageText { path: &self.path, text: &self.text, stage }
    }

    /// An error of a stage at one of its keys.
    pub(crate) fn error(&self, stage: &str, key: &[&str], reason: impl Into<String>) -> PipelineError {
        let keys: Vec<String> = key.iter().map(ToString::to_string).collect();
        let place = self.at(stage).place_of(&keys);
        PipelineError::Stage { place, stage: stage.to_owned(), reason: reason.into() }
    }

    fn line_of_stage(&self, stage: &str) -> usize {
        line_of_key(&self.text, &["stages".to_owned(), stage.to_owned()]).unwrap_or(0)
    }

    /// A stage that is not connected to others yet.
    fn stage(
        &self,
        name: String,
        settings: StageSettings,
        recipe: Option<RecipeFile>,
        host: &dyn Host,
    ) -> Result<PipelineStage, PipelineError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_plain) {
            let reason = "expected a name of letters, digits, `_` and `-`";
            return Err(self.error(&name, &[], reason));
        }
        let StageSettings { uses, with, .. } = settings;
        if recipe.is_some() && [COMMAND, GATE].contains(&uses.as_str()) {
            return Err(self.error(&name, &["recipe"], format!("a stage of kind `{uses}` has no recipe")));
        }
        let (kind, outputs) = match uses.as_str() {
            COMMAND => self.command(&name, &with)?,
            GATE => self.gate(&name, &with)?,
            _ => {
                let Some(kind) = host.kinds().iter().find(|kind| kind.name == uses) else {
                    let known = host.kinds().iter().map(|kind| kind.name).chain([COMMAND, GATE]);
                    let reason = format!("unknown kind of stage `{uses}`: {}", hint(&uses, known));
                    return Err(self.error(&name, &["uses"], reason));
                };
                let named = |output: &NamedOutput| (output.name.to_owned(), output.path.to_owned());
                (Kind::Stage(*kind), kind.outputs.iter().map(named).collect())
            }
        };
        Ok(PipelineStage { name, uses, upstream: Vec::new(), kind, with, recipe, needs: Vec::new(), outputs })
    }

    fn command(&self, name: &str, with: &Table) -> Result<(Kind, Vec<(String, String)>), PipelineError> {
        let settings: CommandSettings = self.settings_of(name, with)?;
        if settings.command.first().is_none_or(String::is_empty) {
            return Err(self.error(name, &["with", "command"], "expected a program and its arguments"));
        }
        if settings.outputs.is_empty() {
            let reason = "expected at least one output, for instance `outputs = { rows = \"rows.jsonl\" }`";
            return Err(self.error(name, &["with", "outputs"], reason));
        }
        let leaves = |path: &String| {
            let is_name = |part: Component<'_>| matches!(part, Component::Normal(_));
            path.is_empty() || !Path::new(path).components().all(is_name)
        };
        if let Some(path) = settings.outputs.values().find(|path| leaves(path)) {
            let reason = format!("`{path}`: expected a path below the folder for the results");
            return Err(self.error(name, &["with", "outputs"], reason));
        }
        let outputs = settings.outputs.into_iter().collect();
        Ok((Kind::Command, outputs))
    }

    fn gate(&self, name: &str, with: &Table) -> Result<(Kind, Vec<(String, String)>), PipelineError> {
        let mut settings: GateSettings = self.settings_of(name, with)?;
        let mut refuse = |_: Reference| -> Result<String, String> {
            Err("a gate waits for a file from people: expected a path without references".to_owned())
        };
        references::replace(&settings.file.to_string_lossy(), &mut refuse)
            .map_err(|reason| self.error(name, &["with", "file"], reason))?;
        settings.file = in_folder(&self.folder, &settings.file);
        let Some(file) = settings.file.file_name() else {
            return Err(self.error(name, &["with", "file"], "expected the path of a file"));
        };
        let outputs = vec![("file".to_owned(), file.to_string_lossy().into_owned())];
        Ok((Kind::Gate(settings), outputs))
    }

    fn settings_of<T: for<'de> Deserialize<'de>>(
        &self,
        name: &str,
        with: &Table,
    ) -> Result<T, PipelineError> {
        let settings = Value::Table(with.clone()).try_into();
        settings.map_err(|error: toml::de::Error| self.error(name, &["with"], error.message()))
    }

    /// Finds what each stage needs.
    fn connect(&mut self, needs: &[Vec<String>]) -> Result<(), PipelineError> {
        for (idx, needs) in needs.iter().enumerate() {
            let stage = &self.stages[idx];
            let named = needs.iter().map(|name| self.index_for(&stage.name, &["needs"], name));
            let named = named.collect::<Result<Vec<_>, _>>()?;
            let mut upstream: BTreeSet<usize> = named.iter().copied().collect();
            for (reference, key) in self.references_of(stage)? {
                let from = self.index_for(&stage.name, &key, &reference.stage)?;
                let outputs = self.stages[from].outputs.iter().map(|(name, _)| name.as_str());
                if !outputs.clone().any(|name| name == reference.output) {
                    let Reference { stage: of, output } = &reference;
                    let reason = format!("stage `{of}` has no output `{output}`: {}", hint(output, outputs));
                    return Err(self.error(&stage.name, &key, reason));
                }
                upstream.insert(from);
            }
            let stage = &mut self.stages[idx];
            stage.needs = named;
            stage.upstream = upstream.into_iter().collect();
        }
        Ok(())
    }

    /// The references of a stage, each with the key that holds it.
    fn references_of<'a>(
        &self,
        stage: &'a PipelineStage,
    ) -> Result<Vec<(Reference, Vec<&'a str>)>, PipelineError> {
        let mut found = Vec::new();
        for (key, value) in &stage.with {
            let place = vec!["with", key.as_str()];
            let mut collect = |reference| {
                found.push((reference, place.clone()));
                Ok(String::new())
            };
            references::replace_in(&mut value.clone(), &mut collect)
                .map_err(|reason| self.error(&stage.name, &["with", key], reason))?;
        }
        if let Some(file) = &stage.recipe {
            let mut collect = |reference| {
                found.push((reference, vec!["recipe"]));
                Ok(String::new())
            };
            references::replace(&file.text, &mut collect).map_err(|reason| {
                self.error(&stage.name, &["recipe"], format!("{}: {reason}", file.shown.display()))
            })?;
        }
        Ok(found)
    }

    fn index_for(&self, stage: &str, key: &[&str], name: &str) -> Result<usize, PipelineError> {
        let names = self.stages.iter().map(|stage| stage.name.as_str());
        names.clone().position(|known| known == name).ok_or_else(|| {
            let others = names.filter(|known| *known != stage);
            self.error(stage, key, format!("there is no stage `{name}`: {}", hint(name, others)))
        })
    }

    /// The stages, each after those that it needs; otherwise in the order of the recipe.
    fn sorted(&self) -> Result<Vec<usize>, PipelineError> {
        let mut order: Vec<usize> = Vec::new();
        while order.len() < self.stages.len() {
            let is_next = |idx: &usize| {
                let upstream = &self.stages[*idx].upstream;
                !order.contains(idx) && upstream.iter().all(|needed| order.contains(needed))
            };
            match (0..self.stages.len()).find(is_next) {
                Some(next) => order.push(next),
                None => return Err(self.cycle(&order)),
            }
        }
        Ok(order)
    }

    /// The cycle among the stages that are not sorted: each of them needs another one of them.
    fn cycle(&self, sorted: &[usize]) -> PipelineError {
        let is_left = |idx: &usize| !sorted.contains(idx);
        let mut way = vec![(0..self.stages.len()).find(is_left).expect("a stage is left")];
        loop {
            let last = &self.stages[way[way.len() - 1]];
            let next = *last.upstream.iter().find(|idx| is_left(idx)).expect("what it needs is left too");
            let begin = way.iter().position(|&idx| idx == next);
            way.push(next);
            if let Some(begin) = begin {
                let stages: Vec<String> =
                    way[begin..].iter().map(|&idx| self.stages[idx].name.clone()).collect();
                return PipelineError::Cycle { place: self.at(&stages[0]).place_of(&[]), stages };
            }
        }
    }
}

/// Refuses a name of a pipeline that is not the name of a folder.
fn check_name(name: &str, text: &str, path: &Path) -> Result<(), RecipeError> {
    if !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']) {
        return Ok(());
    }
    let place = match line_of_key(text, &["pipeline".to_owned(), "name".to_owned()]) {
        Some(line) => RecipePlace::Line { path: path.to_path_buf(), line },
        None => RecipePlace::File(path.to_path_buf()),
    };
    let reason = format!(
        "the pipeline's name `{name}`: expected the name of a folder, without `/` and without `.` at its beginning"
    );
    Err(RecipeError::Invalid { place, reason })
}

/// The nearest known name, or all of them.
fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest_name(name, known.clone()) {
        Some(nearest) => format!("the nearest name is `{nearest}`"),
        None => {
            let names: Vec<String> = known.map(|name| format!("`{name}`")).collect();
            if names.is_empty() {
                "there are no others".to_owned()
            } else {
                format!("expected {}", names.join(", "))
            }
        }
    }
}
