//! The folder of one run. It is complete: the resolved recipe, versions, seeds and digests of all inputs lie beside
//! what was made of them, and a report needs nothing else. One process at a time.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Digest, StoreError, atomic};

const LOCK: &str = ".lock";
const RECIPE: &str = "recipe.resolved.toml";
const INPUTS: &str = "inputs.json";
const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "events";
const CHECKPOINTS: &str = "checkpoints";
const MODEL: &str = "model";
const OUTCOME: &str = "outcome.json";
/// Everything that a run of any stage writes in its folder after its recipe. A folder that holds one of them and no run
/// is refused: it may be the user's data, even the data of this run.
const WOULD_BE_OVERWRITTEN: [&str; 27] = [
    METRICS,
    CHECKPOINTS,
    MODEL,
    "plan.json",
    OUTCOME,
    "skipped.jsonl",
    "report.html",
    "rollouts",
    "diagnostics.jsonl",
    "evaluation.json",
    "evaluations.jsonl",
    // Selection.
    "selected.jsonl",
    "decisions.jsonl",
    "templates.jsonl",
    "triplets.jsonl",
    "encoder_triplets.jsonl",
    "encoder",
    "vectors.npy",
    "task_vectors.npy",
    "map.json",
    "coverage.html",
    "summary.json",
    // Labels and quality scores.
    "labels.jsonl",
    "review.jsonl",
    "unlabelled.jsonl",
    "label_set.toml",
    "scores.jsonl",
];
const FORMAT_VERSION: u32 = 1;

/// A run's folder, locked against other processes while this value lives.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    lock: File,
}

impl Drop for RunDirectory {
    /// A program that another thread is starting has all files of this process until it runs, and the lock with them:
    /// closing the file would not free it then.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

/// Everything that a run was made from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInputs {
    /// The stage that ran; missing in folders of versions that did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Names and versions of the programs and libraries that matter.
    pub versions: BTreeMap<String, String>,
    /// Seeds by purpose.
    pub seeds: BTreeMap<String, u64>,
    /// Files read, in the order they were named.
    pub files: Vec<InputFile>,
}

/// A file that a run was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// What it was for: `model`, `data`, `evaluation`.
    pub role: String,
    /// Path as the user named it.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Digest of the bytes.
    pub blake3: Digest,
}

#[derive(Serialize, Deserialize)]
struct VersionedInputs {
    format_version: u32,
    #[serde(flatten)]
    inputs: RunInputs,
}

impl InputFile {
    /// Reads size and digest of a file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(role: &str, path: &Path) -> Result<Self, StoreError> {
        let size = fs::metadata(path).map_err(StoreError::io("read", path))?.len();
        Ok(Self { role: role.to_owned(), path: path.to_path_buf(), size, blake3: Digest::of_file(path)? })
    }
}

impl RunDirectory {
    /// Creates a run's folder with its recipe and inputs. What a run that was killed before its first file has left of
    /// them is replaced.
    ///
    /// # Errors
    /// When the folder already holds a run or files that a run would overwrite, is in use, or cannot be written.
    pub fn create(path: &Path, resolved_recipe: &str, inputs: &RunInputs) -> Result<Self, StoreError> {
        check_is_folder(path)?;
        fs::create_dir_all(path).map_err(StoreError::io("create", path))?;
        let run = Self::lock(path)?;
        Self::check_free(path)?;
        run.write_inputs(inputs)?;
        // The recipe comes last: a folder that has it is a run.
        atomic::write(&run.recipe_path(), resolved_recipe.as_bytes())?;
        Ok(run)
    }

    /// Checks, and changes nothing, that a run can be created in a folder that may be missing.
    ///
    /// # Errors
    /// When the folder already holds a run or files that a run would overwrite, or is a file.
    pub fn check_free(path: &Path) -> Result<(), StoreError> {
        check_is_folder(path)?;
        if path.join(RECIPE).exists() {
            return Err(match path.join(INPUTS).is_file() {
                true => StoreError::RunExists { path: path.to_path_buf() },
                false => StoreError::NotARun { path: path.to_path_buf(), missing: INPUTS },
            });
        }
        match WOULD_BE_OVERWRITTEN.into_iter().find(|name| path.join(name).exists()) {
            Some(name) => Err(StoreError::Occupied { path: path.to_path_buf(), name: name.to_owned() }),
            None => Ok(()),
        }
    }

    /// Checks that a folder without a run holds nothing but what a run writes before its recipe. It may be missing.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`], or when the folder cannot be listed.
    pub fn check_empty(path: &Path) -> Result<(), StoreError> {
        match foreign_file(path, &[])? {
            Some(name) => Err(StoreError::NotEmpty { path: path.to_path_buf(), name }),
            None => Ok(()),
        }
    }

    /// The file that says how a finished run ended.
    #[must_use]
    pub fn outcome_path(path: &Path) -> PathBuf {
        path.join(OUTCOME)
    }

    /// Opens the folder of a run that was created before.
    ///
    /// # Errors
    /// When it holds no run or is in use.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        check_is_folder(path)?;
        for missing in [RECIPE, INPUTS] {
            if !path.join(missing).is_file() {
                return Err(StoreError::NotARun { path: path.to_path_buf(), missing });
            }
        }
        Self::lock(path)
    }

    /// Opens the folder of a run, or creates it where the run was killed before it was a run: where the folder does not
    /// exist, is empty, or holds nothing but what a run writes before its recipe. Files named `beside` may lie there
    /// too. Also says whether the run was created.
    ///
    /// # Errors
    /// When the folder holds other files and no run, is in use, or cannot be written.
    pub fn open_or_create(
        path: &Path,
        resolved_recipe: &str,
        inputs: &RunInputs,
        beside: &[&str],
    ) -> Result<(Self, bool), StoreError> {
        match Self::open_begun(path, beside)? {
            Some(run) => Ok((run, false)),
            None => Ok((Self::create(path, resolved_recipe, inputs)?, true)),
        }
    }

    /// Opens the folder of a run. `None` where [`RunDirectory::open_or_create`] would create it; nothing is written
    /// then.
    ///
    /// # Errors
    /// As [`RunDirectory::open_or_create`].
    pub fn open_begun(path: &Path, beside: &[&str]) -> Result<Option<Self>, StoreError> {
        check_is_folder(path)?;
        if path.join(RECIPE).is_file() {
            return Self::open(path).map(Some);
        }
        // Files that a run would overwrite come first: they are in the way of a new run as well.
        let in_the_way = WOULD_BE_OVERWRITTEN.into_iter().find(|name| path.join(name).exists());
        if let Some(name) = in_the_way {
            return Err(StoreError::Occupied { path: path.to_path_buf(), name: name.to_owned() });
        }
        match foreign_file(path, beside)? {
            Some(name) => Err(StoreError::Foreign { path: path.to_path_buf(), name }),
            None => Ok(None),
        }
    }

    /// The lock goes with the process, so a killed run never blocks its resume.
    fn lock(path: &Path) -> Result<Self, StoreError> {
        let lock_path = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            .map_err(StoreError::io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let pid = lock.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse().ok());
                return Err(StoreError::Locked { path: path.to_path_buf(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &lock_path)(source)),
        }
        let write_pid = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write_pid(&mut lock).map_err(StoreError::io("write", &lock_path))?;
        atomic::remove_leftovers(path)?;
        Ok(Self { path: path.to_path_buf(), lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `recipe.resolved.toml`: every setting with its default filled in.
    #[must_use]
    pub fn recipe_path(&self) -> PathBuf {
        self.path.join(RECIPE)
    }

    /// `metrics.jsonl`, see [`MetricsLog`](crate::MetricsLog).
    #[must_use]
    pub fn metrics_path(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// `events/`: TensorBoard's event files.
    #[must_use]
    pub fn events_path(&self) -> PathBuf {
        self.path.join(EVENTS)
    }

    /// `checkpoints/`: committed directories, see [`latest_valid`](crate::latest_valid).
    #[must_use]
    pub fn checkpoints_path(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// `model/`: the model of a finished run.
    #[must_use]
    pub fn model_path(&self) -> PathBuf {
        self.path.join(MODEL)
    }

    /// The recipe the run was created with.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn recipe(&self) -> Result<String, StoreError> {
        let path = self.recipe_path();
        fs::read_to_string(&path).map_err(StoreError::io("read", &path))
    }

    /// Records the recipe again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_recipe(&self, resolved_recipe: &str) -> Result<(), StoreError> {
        atomic::write(&self.recipe_path(), resolved_recipe.as_bytes())
    }

    /// Records the inputs again.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_inputs(&self, inputs: &RunInputs) -> Result<(), StoreError> {
        let path = self.path.join(INPUTS);
        let versioned = VersionedInputs { format_version: FORMAT_VERSION, inputs: inputs.clone() };
        let json = serde_json::to_vec_pretty(&versioned)
            .map_err(|source| StoreError::Json { path: path.clone(), source })?;
        atomic::write(&path, &json)
    }

    /// The inputs as recorded.
    ///
    /// # Errors
    /// When the record is missing, damaged or of another version.
    pub fn inputs(&self) -> Result<RunInputs, StoreError> {
        let path = self.path.join(INPUTS);
        let json = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let versioned: VersionedInputs = serde_json::from_slice(&json)
            .map_err(|e| StoreError::BadManifest { path: path.clone(), reason: e.to_string() })?;
        if versioned.format_version != FORMAT_VERSION {
            let found = versioned.format_version;
            return Err(StoreError::UnknownFormatVersion { path, found, supported: FORMAT_VERSION });
        }
        Ok(versioned.inputs)
    }
}

fn check_is_folder(path: &Path) -> Result<(), StoreError> {
    match path.exists() && !path.is_dir() {
        true => Err(StoreError::NotADirectory { path: path.to_path_buf() }),
        false => Ok(()),
    }
}

/// The first file of a folder, in name order, that no run writes before its recipe.
fn foreign_file(path: &Path, beside: &[&str]) -> Result<Option<String>, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        // What lies below a file is not there either; that no folder can be made there is said where it is made.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(StoreError::io("list", path)(e)),
    };
    let mut foreign = Vec::new();
    for entry in entries {
        let name = entry.map_err(StoreError::io("list", path))?.file_name().to_string_lossy().into_owned();
        let is_own = [LOCK, INPUTS, EVENTS].contains(&name.as_str()) || atomic::is_leftover(&name);
        if !is_own && !beside.contains(&name.as_str()) {
            foreign.push(name);
        }
    }
    Ok(foreign.into_iter().min())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_below_a_file_holds_no_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("rows.jsonl"), "").unwrap();
        RunDirectory::check_empty(&folder.path().join("rows.jsonl/run")).unwrap();
    }

    #[test]
    fn a_lock_ends_with_its_run_although_a_program_being_started_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::lock(folder.path()).unwrap();
        assert!(matches!(RunDirectory::lock(folder.path()), Err(StoreError::Locked { .. })));
        let of_program = run.lock.try_clone().unwrap();
        drop(run);
        assert!(RunDirectory::lock(folder.path()).is_ok());
        drop(of_program);
    }

    fn inputs() -> RunInputs {
        RunInputs {
            stage: Some("sft".into()),
            versions: [("truing".to_owned(), "0.1.0".to_owned())].into(),
            seeds: [("run".to_owned(), 7)].into(),
            files: vec![InputFile {
                role: "data".into(),
                path: "rows.jsonl".into(),
                size: 3,
                blake3: Digest::of_bytes(b"abc"),
            }],
        }
    }

    #[test]
    fn a_run_is_created_once_and_opened_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("runs/one");
        assert!(matches!(RunDirectory::open(&path), Err(StoreError::NotARun { .. })));
        let run = RunDirectory::create(&path, "seed = 7\n", &inputs()).unwrap();
        drop(run);
        let again = RunDirectory::create(&path, "", &inputs());
        assert!(matches!(again, Err(StoreError::RunExists { .. })), "{again:?}");
        drop(again);
        let run = RunDirectory::open(&path).unwrap();
        assert_eq!(run.recipe().unwrap(), "seed = 7\n");
        assert_eq!(run.inputs().unwrap(), inputs());
    }

    #[test]
    fn a_second_holder_is_refused_with_the_pid_of_the_first() {
        let parent = tempfile::tempdir().unwrap();
        let first = RunDirectory::create(parent.path(), "", &inputs()).unwrap();
        let error = RunDirectory::open(parent.path()).unwrap_err();
        let ours = std::process::id();
        assert!(matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == ours), "{error}");
        drop(first);
        RunDirectory::open(parent.path()).unwrap();
    }

    /// Every moment of a creation at which a process may be killed: after it the folder holds these files.
    #[test]
    fn a_run_killed_at_any_file_of_its_creation_is_begun_again() {
        let whole = tempfile::tempdir().unwrap();
        drop(RunDirectory::create(whole.path(), "seed = 7\n", &inputs()).unwrap());
        let names = |path: &Path| {
            let entries = fs::read_dir(path).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(whole.path()), [LOCK, INPUTS, RECIPE], "the moments below are all");
        let half_inputs = (".inputs.json.Ab12.tmp", "{\"format_ver");
        let json = fs::read_to_string(whole.path().join(INPUTS)).unwrap();
        let (pid, json) = ((LOCK, "7\n"), (INPUTS, json.as_str()));
        let moments: [&[(&str, &str)]; 7] = [
            &[],
            &[(LOCK, "")],
            &[pid],
            &[pid, (".inputs.json.Ab12.tmp", "")],
            &[pid, half_inputs],
            &[pid, json],
            &[pid, json, (".recipe.resolved.toml.Cd34.tmp", "seed")],
        ];
        for files in moments {
            let parent = tempfile::tempdir().unwrap();
            for (name, content) in files {
                fs::write(parent.path().join(name), content).unwrap();
            }
            fs::create_dir(parent.path().join(EVENTS)).unwrap();
            assert!(matches!(RunDirectory::open(parent.path()), Err(StoreError::NotARun { .. })));
            let (run, is_new) =
                RunDirectory::open_or_create(parent.path(), "seed = 8\n", &inputs(), &[]).unwrap();
            assert!(is_new, "{files:?}");
            assert_eq!(run.recipe().unwrap(), "seed = 8\n");
            assert_eq!(run.inputs().unwrap(), inputs());
            drop(run);
            assert_eq!(names(parent.path()), [LOCK, EVENTS, INPUTS, RECIPE], "{files:?}");
            let (_, is_new) = RunDirectory::open_or_create(parent.path(), "", &inputs(), &[]).unwrap();
            assert!(!is_new);
        }
        let missing = whole.path().join("not/there");
        assert!(RunDirectory::open_or_create(&missing, "", &inputs(), &[]).unwrap().1);
    }

    #[test]
    fn a_folder_with_other_files_and_no_run_is_not_begun_by_a_resume() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("notes.txt"), "mine").unwrap();
        fs::write(parent.path().join("replies.sqlite"), "").unwrap();
        let open = |beside: &[&str]| RunDirectory::open_or_create(parent.path(), "", &inputs(), beside);
        let error = open(&["replies.sqlite"]).unwrap_err();
        assert!(matches!(&error, StoreError::Foreign { name, .. } if name == "notes.txt"), "{error}");
        assert!(!parent.path().join(LOCK).exists(), "nothing was written");
        let error = RunDirectory::check_empty(parent.path()).unwrap_err();
        assert!(matches!(&error, StoreError::NotEmpty { name, .. } if name == "notes.txt"), "{error}");
        fs::remove_file(parent.path().join("notes.txt")).unwrap();
        assert!(matches!(open(&[]), Err(StoreError::Foreign { .. })));
        assert!(open(&["replies.sqlite"]).unwrap().1);
    }

    #[test]
    fn a_recipe_alone_and_a_file_are_no_run() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join(RECIPE), "seed = 7\n").unwrap();
        let file = parent.path().join(RECIPE);
        let attempts = |path: &Path| {
            [
                RunDirectory::create(path, "", &inputs()).unwrap_err(),
                RunDirectory::open_or_create(path, "", &inputs(), &[]).unwrap_err(),
                RunDirectory::open(path).unwrap_err(),
                RunDirectory::check_free(path).unwrap_err(),
            ]
        };
        for error in attempts(parent.path()) {
            assert!(matches!(error, StoreError::NotARun { missing: INPUTS, .. }), "{error}");
        }
        for error in attempts(&file) {
            assert!(matches!(error, StoreError::NotADirectory { .. }), "{error}");
        }
        let missing = parent.path().join("not/there");
        RunDirectory::check_free(&missing).unwrap();
        RunDirectory::check_empty(&missing).unwrap();
        assert!(RunDirectory::open_begun(&missing, &[]).unwrap().is_none());
        assert!(!parent.path().join("not").exists(), "looking makes nothing");
    }

    #[test]
    fn a_run_is_not_created_over_what_it_would_overwrite() {
        for name in [METRICS, CHECKPOINTS, MODEL] {
            let parent = tempfile::tempdir().unwrap();
            fs::create_dir(parent.path().join(name)).unwrap();
            let error = RunDirectory::create(parent.path(), "", &inputs()).unwrap_err();
            assert!(matches!(&error, StoreError::Occupied { name: found, .. } if found == name), "{error}");
            // A resume has no run to continue, and a new run would overwrite files.
            fs::remove_file(parent.path().join(LOCK)).unwrap();
            let error = RunDirectory::open_or_create(parent.path(), "", &inputs(), &[]).unwrap_err();
            assert!(matches!(&error, StoreError::Occupied { name: found, .. } if found == name), "{error}");
            assert!(!parent.path().join(LOCK).exists(), "nothing was written");
        }
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("recipe.toml"), "").unwrap();
        RunDirectory::create(parent.path(), "", &inputs()).unwrap();
    }
}
