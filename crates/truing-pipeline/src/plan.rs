//! What a pipeline would do: the key of each stage, what the store has of it, and why it is not what the lock file
//! names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::{Table, Value};
use truing_run::RecipePlace;
use truing_store::paths::in_folder;
use truing_store::{Digest, StoreError};

use crate::key::{KeyInput, flat_settings};
use crate::recipe::{CommandSettings, GateSettings, Kind, Pipeline, PipelineStage};
use crate::references::{
    Reference, is_key_path, key_path, own_folder, own_key, replace, replace_in, with_real_paths,
};
use crate::settings::{Overrides, Settings, SettleError, at_places};
use crate::store::Found;
use crate::{Change, Digests, Done, Host, KeyParts, LockFile, PipelineError, StageKind, Store};

/// What is to be done about a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Its result is in the store, and the lock file names it.
    UpToDate,
    /// Its result is in the store already, from another pipeline or an earlier recipe. Nothing runs; the lock file
    /// changes.
    InStore,
    /// Its result is in the remote, and is fetched.
    InRemote,
    /// It runs.
    ToRun,
    /// It was started with the same key, and continues where it was stopped.
    ToContinue,
    /// It waits for a file from people.
    Waiting {
        /// The file.
        file: PathBuf,
        /// What they are asked to do.
        message: Option<String>,
    },
    /// It needs a stage that waits.
    Blocked {
        /// That stage.
        by: String,
    },
}

/// A stage with its key.
#[derive(Debug, Clone)]
pub struct PlannedStage {
    /// Its name.
    pub name: String,
    /// Its key; `None` where it depends on a file that is not there yet.
    pub key: Option<Digest>,
    /// What is to be done.
    pub state: State,
    /// Why it is not as the lock file has it, the most direct reason first.
    pub changes: Vec<Change>,
    /// The finished run, where there is one.
    pub done: Option<Done>,
    /// What the remote says of the result that is there, where the store has none.
    pub in_remote: Option<Done>,
    /// Something that people should know.
    pub remark: Option<String>,
    pub(crate) parts: Option<KeyParts>,
    pub(crate) work: PlannedWork,
    /// Files and folders that are read and no other stage makes; known also where the key is not.
    pub(crate) reads: Vec<PathBuf>,
    /// The same with their digests.
    pub(crate) files: Vec<ReadFile>,
    /// Outputs of other stages that are read, with the settings that name them: placeholder paths.
    pub(crate) made: Vec<(String, String)>,
}

impl PlannedStage {
    /// Whether it waits for a file from people and has no run.
    pub(crate) fn is_gate(&self) -> bool {
        matches!(self.work, PlannedWork::Gate(_))
    }

    /// Whether the store has a damaged result of its key.
    pub(crate) fn has_damage(&self) -> bool {
        self.changes.iter().any(|change| matches!(change, Change::Damaged { .. }))
    }

    /// Files and folders that it reads and no other stage makes. That of a gate may not be there yet.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.reads.iter().map(PathBuf::as_path)
    }

    /// Whether an output of another stage is named in the settings.
    pub(crate) fn names_output_of(&self, other: &Self) -> bool {
        let Some(key) = other.key.map(|key| key.to_string()) else { return false };
        let is_in_work = match &self.work {
            PlannedWork::Recipe(recipe) => recipe.to_string().contains(&key),
            PlannedWork::Command(arguments) => arguments.iter().any(|argument| argument.contains(&key)),
            PlannedWork::Gate(_) => false,
        };
        is_in_work || self.made.iter().any(|(_, path)| path.contains(&key))
    }
}

/// What a stage runs. Paths of outputs are those of keys.
#[derive(Debug, Clone)]
pub(crate) enum PlannedWork {
    Recipe(Table),
    Command(Vec<String>),
    Gate(GateSettings),
}

/// A file or folder with the digest that the key is made of.
#[derive(Debug, Clone)]
pub(crate) struct ReadFile {
    /// The setting that names it.
    pub(crate) setting: String,
    pub(crate) path: PathBuf,
    /// Whether every file of a folder counts: another program reads it.
    pub(crate) is_whole: bool,
    pub(crate) blake3: Digest,
}

/// A pipeline with the keys of its stages.
#[derive(Debug, Clone)]
pub struct PipelinePlan {
    /// The stages, by their index in the pipeline.
    pub stages: Vec<PlannedStage>,
}

/// Settings of a stage as they enter its key, before the digests of files.
struct Meant {
    settings: BTreeMap<String, String>,
    inputs: Vec<(String, PathBuf)>,
    work: PlannedWork,
}

impl PipelinePlan {
    /// Computes the keys, and looks them up. Nothing is written.
    ///
    /// # Errors
    /// When the settings of a stage are not usable, a file that it reads is missing, or a file cannot be read.
    pub fn new(
        pipeline: &Pipeline,
        store: &Store,
        lock: &LockFile,
        digests: &Digests,
        host: &dyn Host,
    ) -> Result<Self, PipelineError> {
        let mut planned: BTreeMap<usize, PlannedStage> = BTreeMap::new();
        for &idx in &pipeline.order {
            let stage = Planning { pipeline, store, lock, digests, host, planned: &planned }.stage(idx)?;
            planned.insert(idx, stage);
        }
        Ok(Self { stages: planned.into_values().collect() })
    }

    /// The recipe of a stage with real paths, as its run would have it; `None` where it is none of the program's
    /// stages.
    #[must_use]
    pub fn recipe(&self, stage: usize, store: &Store) -> Option<String> {
        let stage = &self.stages[stage];
        let (PlannedWork::Recipe(recipe), Some(key)) = (&stage.work, stage.key) else { return None };
        let own =
            |of: Digest| (of == own_key()).then(|| store.run_folder(key).to_string_lossy().into_owned());
        let mut recipe = Value::Table(recipe.clone());
        with_real_paths(&mut recipe, &|of| own(of).or_else(|| self.folder_of(of, store)));
        Some(toml::to_string_pretty(&recipe).expect("a recipe is made of tables, texts and numbers"))
    }

    /// Where the outputs of a key are.
    pub(crate) fn folder_of(&self, key: Digest, store: &Store) -> Option<String> {
        let planned = self.stages.iter().find(|stage| stage.key == Some(key))?;
        let folder = match &planned.work {
            PlannedWork::Gate(gate) => gate.file.parent()?.to_path_buf(),
            _ => store.run_folder(key),
        };
        Some(folder.to_string_lossy().into_owned())
    }

    /// A text of a stage's settings with real paths in the place of placeholder paths.
    pub(crate) fn with_real_paths(&self, text: &str, store: &Store) -> String {
        let mut value = Value::String(text.to_owned());
        with_real_paths(&mut value, &|key| self.folder_of(key, store));
        value.as_str().unwrap_or(text).to_owned()
    }
}

/// Plans one stage; those before it are planned.
struct Planning<'a> {
    pipeline: &'a Pipeline,
    store: &'a Store,
    lock: &'a LockFile,
    digests: &'a Digests,
    host: &'a dyn Host,
    planned: &'a BTreeMap<usize, PlannedStage>,
}

impl Planning<'_> {
    fn stage(&self, idx: usize) -> Result<PlannedStage, PipelineError> {
        let stage = &self.pipeline.stages[idx];
        let Meant { settings, inputs, work } = self.meant(stage)?;
        let mut planned = PlannedStage {
            name: stage.name.clone(),
            key: None,
            state: State::ToRun,
            changes: Vec::new(),
            done: None,
            in_remote: None,
            remark: None,
            parts: None,
            work,
            reads: inputs.iter().map(|(_, path)| path).filter(|path| !is_key_path(path)).cloned().collect(),
            files: Vec::new(),
            made: Vec::new(),
        };
        let without_key = stage.upstream.iter().find(|needed| self.planned[needed].key.is_none());
        if let Some(needed) = without_key {
            planned.state = State::Blocked { by: self.pipeline.stages[*needed].name.clone() };
            return Ok(planned);
        }
        if let PlannedWork::Gate(GateSettings { file, message }) = &planned.work
            && !file.exists()
        {
            planned.state = State::Waiting { file: file.clone(), message: message.clone() };
            return Ok(planned);
        }
        let mut parts = KeyParts {
            uses: stage.uses.clone(),
            program: self.host.program().to_owned(),
            settings,
            inputs: BTreeMap::new(),
            needs: BTreeMap::new(),
        };
        if !matches!(stage.kind, Kind::Stage(_)) {
            // What another program or people make does not depend on this program.
            parts.program = String::new();
        }
        for (setting, path) in inputs {
            let (blake3, name) = match self.reference_of(&path) {
                Some(name) => {
                    let path = path.to_string_lossy().into_owned();
                    let blake3 = Digest::of_bytes(path.as_bytes());
                    planned.made.push((setting.clone(), path));
                    (blake3, name)
                }
                None => {
                    let is_whole = matches!(stage.kind, Kind::Command);
                    let blake3 = self.digest(stage, &setting, &path, is_whole)?;
                    let file = ReadFile { setting: setting.clone(), path: path.clone(), is_whole, blake3 };
                    planned.files.push(file);
                    (blake3, path.file_name().unwrap_or_default().to_string_lossy().into_owned())
                }
            };
            parts.inputs.insert(setting, KeyInput { blake3, name });
        }
        for needed in &stage.needs {
            let needed = &self.planned[needed];
            parts.needs.extend(needed.key.map(|key| (needed.name.clone(), key)));
        }
        self.look_up(stage, &mut planned, parts)?;
        Ok(planned)
    }

    /// Looks the key up in the store and the lock file, and sets what is to be done.
    fn look_up(
        &self,
        stage: &PipelineStage,
        planned: &mut PlannedStage,
        parts: KeyParts,
    ) -> Result<(), PipelineError> {
        let key = parts.key();
        let locked = self.lock.stage(&self.pipeline.name, &stage.name);
        let is_locked = locked.is_some_and(|locked| locked.key == key);
        planned.changes = match locked {
            None => vec![Change::New],
            // Names of stages and files may have changed, which decide nothing.
            Some(_) if is_locked => Vec::new(),
            Some(locked) => parts.changes(&locked.parts),
        };
        let as_stored = if is_locked { State::UpToDate } else { State::InStore };
        if planned.is_gate() {
            planned.state = as_stored;
            planned.remark = same_file_again(&planned.changes);
        } else {
            match self.store.find(key, self.digests, self.host)? {
                Found::Done(done) => (planned.state, planned.done) = (as_stored, Some(done)),
                Found::Begun => planned.state = State::ToContinue,
                Found::Damaged(reason) => planned.changes.push(Change::Damaged { reason }),
                Found::Nothing if is_locked => planned.changes.push(Change::NotStored),
                Found::Nothing => {}
            }
            self.look_up_in_remote(planned, key)?;
        }
        (planned.key, planned.parts) = (Some(key), Some(parts));
        Ok(())
    }

    /// Where the store has no result: whether the remote has one.
    fn look_up_in_remote(&self, planned: &mut PlannedStage, key: Digest) -> Result<(), PipelineError> {
        let Some(remote) = self.store.remote().filter(|_| planned.done.is_none()) else { return Ok(()) };
        if let Some(result) = remote.look_up(key)? {
            planned.state = State::InRemote;
            planned.changes.retain(|change| *change != Change::NotStored);
            planned.in_remote = Some(result.done);
        }
        Ok(())
    }

    /// The settings of a stage with the keys of others in them.
    fn meant(&self, stage: &PipelineStage) -> Result<Meant, PipelineError> {
        let mut with = Value::Table(stage.with.clone());
        let mut resolve = |reference: Reference| {
            let from = self.planned.iter().find(|(_, other)| other.name == reference.stage);
            let (idx, from) = from.expect("stages are planned after those that they need");
            let mut outputs = self.pipeline.stages[*idx].outputs.iter();
            let path =
                outputs.find(|(name, _)| *name == reference.output).map_or("", |(_, path)| path.as_str());
            // Where the key is not known the settings are checked all the same.
            Ok(key_path(from.key.unwrap_or_else(|| Digest::of_bytes(b"")), path))
        };
        let checked = |reason: String| self.pipeline.error(&stage.name, &["with"], reason);
        replace_in(&mut with, &mut resolve).map_err(checked)?;
        match (&stage.kind, with) {
            (Kind::Stage(kind), Value::Table(with)) => {
                let text = match &stage.recipe {
                    Some(file) => replace(&file.text, &mut resolve).map_err(checked)?,
                    None => format!("stage = \"{}\"\n", kind.name),
                };
                self.settled(stage, kind, &with, &text)
            }
            (Kind::Command, with) => {
                let command = with.try_into::<CommandSettings>();
                let command = command.map_err(|error| checked(error.message().to_owned()))?;
                Ok(self.command(command))
            }
            (Kind::Gate(gate), _) => Ok(Meant {
                // Its file is found by the key: two gates whose files are alike but for the name have two.
                settings: BTreeMap::from([("name".to_owned(), stage.outputs[0].1.clone())]),
                inputs: vec![("file".to_owned(), gate.file.clone())],
                work: PlannedWork::Gate(gate.clone()),
            }),
            (Kind::Stage(_), _) => Err(checked("expected a table".to_owned())),
        }
    }

    fn settled(
        &self,
        stage: &PipelineStage,
        kind: &StageKind,
        with: &Table,
        text: &str,
    ) -> Result<Meant, PipelineError> {
        let own_path = self.pipeline.folder.join(self.pipeline.path().file_name().unwrap_or_default());
        // A text that is no TOML is refused where it is read.
        let file: Option<Table> = stage.recipe.as_ref().and_then(|_| toml::from_str(text).ok());
        let overrides = Overrides::of(with, file.as_ref());
        let mut typed = overrides.typed.clone();
        typed.push(format!("output_dir=\"{}\"", own_folder()));
        let settings = Settings {
            text,
            path: stage.recipe.as_ref().map_or(&own_path, |file| &file.path),
            overrides: &typed,
            folder: &self.pipeline.folder,
        };
        let at = self.pipeline.at(&stage.name);
        let settled = (kind.settle)(&settings, self.host).map_err(|error| match error {
            SettleError::Recipe(source) => {
                let source = at_places(source, &|place, key| match (place, &stage.recipe) {
                    (RecipePlace::Override(typed), _) => overrides.place(&typed, key, &at),
                    (RecipePlace::Line { line, .. }, Some(file)) => {
                        RecipePlace::Line { path: file.shown.clone(), line }
                    }
                    (_, Some(file)) => RecipePlace::File(file.shown.clone()),
                    _ => at.place_of(&[]),
                });
                PipelineError::Settings { stage: stage.name.clone(), source: Box::new(source) }
            }
            SettleError::Value { key, source } => {
                let keys: Vec<String> =
                    key.into_iter().flat_map(|key| key.split('.')).map(str::to_owned).collect();
                let place = self.pipeline.place_of_setting(&stage.name, &keys);
                PipelineError::Input { place, stage: stage.name.clone(), source }
            }
            SettleError::Input(source) => {
                PipelineError::Input { place: at.place_of(&[]), stage: stage.name.clone(), source }
            }
        })?;
        // A recipe type may serve several stages.
        if let Some(found) = settled.recipe.get("stage").and_then(Value::as_str)
            && found != kind.name
        {
            let reason = format!("`uses` says \"{}\", and this is a recipe of stage \"{found}\"", kind.name);
            let key: &[&str] =
                if stage.with.contains_key("stage") { &["with", "stage"] } else { &["recipe"] };
            return Err(self.pipeline.error(&stage.name, key, reason));
        }
        Ok(Meant {
            settings: flat_settings(&settled.decisive),
            inputs: settled.inputs.into_iter().map(|input| (input.setting, input.path)).collect(),
            work: PlannedWork::Recipe(settled.recipe),
        })
    }

    fn command(&self, command: CommandSettings) -> Meant {
        let CommandSettings { command, inputs, outputs } = command;
        let mut settings: BTreeMap<String, String> =
            command.iter().enumerate().map(|(idx, text)| (format!("command.{idx}"), text.clone())).collect();
        settings.extend(outputs.into_iter().map(|(name, path)| (format!("outputs.{name}"), path)));
        let inputs = inputs
            .iter()
            .enumerate()
            .map(|(idx, path)| (format!("inputs.{idx}"), in_folder(&self.pipeline.folder, Path::new(path))));
        Meant { settings, inputs: inputs.collect(), work: PlannedWork::Command(command) }
    }

    /// How the recipe writes an output, given its placeholder path.
    fn reference_of(&self, path: &Path) -> Option<String> {
        if !is_key_path(path) {
            return None;
        }
        let outputs = self.planned.iter().flat_map(|(idx, planned)| {
            let outputs = &self.pipeline.stages[*idx].outputs;
            outputs.iter().filter_map(move |(name, path)| Some((planned, name, key_path(planned.key?, path))))
        });
        let mut named = outputs.filter(|(_, _, output)| path.starts_with(output));
        let named = named.next().map(|(planned, name, _)| format!("stages.{}.{name}", planned.name));
        Some(named.unwrap_or_else(|| path.display().to_string()))
    }

    fn digest(
        &self,
        stage: &PipelineStage,
        setting: &str,
        path: &Path,
        is_whole: bool,
    ) -> Result<Digest, PipelineError> {
        let at = self.pipeline.at(&stage.name);
        let measured = self.digests.of_input(path, is_whole, self.host.now()).map_err(|error| {
            let missing = match &error {
                StoreError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
                _ => false,
            };
            let source = match missing {
                true => format!("`{setting}`: there is no file or folder {}", path.display()).into(),
                false => error.into(),
            };
            PipelineError::Input { place: at.place_of_setting(setting), stage: stage.name.clone(), source }
        })?;
        Ok(measured.blake3)
    }
}

/// The remark on a gate whose file is unchanged although a stage that it needs has changed.
fn same_file_again(changes: &[Change]) -> Option<String> {
    let others: Vec<&str> = changes
        .iter()
        .map(|change| match change {
            Change::Needs { stage } => Some(stage.as_str()),
            _ => None,
        })
        .collect::<Option<_>>()?;
    (!others.is_empty()).then(|| format!("{} changed, and the file is unchanged", others.join(" and ")))
}
