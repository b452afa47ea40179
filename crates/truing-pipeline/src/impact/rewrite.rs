//! A pipeline without the rows that are to be removed: filtered copies of the files that hold them, and a recipe beside
//! the first one that reads the copies. To apply it is to run everything again that depended on the rows, and nothing
//! else: the store is the same.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::{Table, Value};
use truing_run::rows::write_lines;
use truing_store::paths::in_folder;
use truing_store::{StoreError, atomic};

use super::{Impact, Matches, without_responses};
use crate::lineage::files::is_lines;
use crate::lineage::index::object;
use crate::plan::ReadFile;
use crate::recipe::{Kind, PipelineStage};
use crate::references::{Reference, replace_in};
use crate::{Lineage, PipelineError};

/// The first words of every recipe that is written here.
const HEADER: &str = "# Written by `truing pipeline impact`";
/// The list of removed rows, in the folder of the filtered files.
const REMOVED: &str = "removed.jsonl";

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The recipe without the rows.
    pub recipe: PathBuf,
    /// Every row that falls, as [`RemovedRow`](crate::RemovedRow), one a line.
    pub removed: PathBuf,
    /// The filtered copies.
    pub filtered: Vec<FilteredFile>,
}

/// A filtered copy of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilteredFile {
    /// The file.
    pub path: PathBuf,
    /// The copy.
    pub copy: PathBuf,
    /// Rows that are not in the copy.
    pub n_removed: u64,
    /// Rows of the copy that have fewer responses.
    pub n_changed: u64,
}

/// What is read instead of what.
#[derive(Default)]
struct Replacements {
    /// Files and folders from outside.
    paths: BTreeMap<PathBuf, PathBuf>,
    /// Outputs, by the names of stage and output.
    outputs: BTreeMap<(String, String), PathBuf>,
}

/// Writes the recipe `path` (absolute), and the filtered files to the folder of the same name with the ending `.rows`.
///
/// # Errors
/// When nothing that a stage reads matches, a file cannot be filtered, the recipe is not beside that of the pipeline or
/// would replace another file, or the disk fails.
pub fn write_without(lineage: &Lineage<'_>, impact: &Impact, path: &Path) -> Result<Written, PipelineError> {
    check_place(lineage, path)?;
    if impact.cuts.is_empty() {
        let reason = "no row that a stage reads matches: there is nothing to write".to_owned();
        return Err(PipelineError::Lineage { reason });
    }
    let folder = path.with_extension("rows");
    fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
    let mut replacements = Replacements::default();
    let mut filtered = Vec::new();
    for (number, &cut) in impact.cuts.iter().enumerate() {
        filtered.push(copy_of(lineage, impact, cut, &folder.join(number.to_string()), &mut replacements)?);
    }
    let text = recipe_without(lineage, impact, &replacements, path)?;
    let removed = folder.join(REMOVED);
    write_lines(&removed, &impact.rows)
        .map_err(|error| PipelineError::Lineage { reason: error.to_string() })?;
    // The recipe is last: with it everything that it names is there.
    atomic::write(path, text.as_bytes())?;
    Ok(Written { recipe: path.to_path_buf(), removed, filtered })
}

/// Refuses a place from which relative paths mean other files, and to replace what was not written here.
fn check_place(lineage: &Lineage<'_>, path: &Path) -> Result<(), PipelineError> {
    let error = |reason: String| Err(PipelineError::Lineage { reason });
    let folder = &lineage.pipeline.folder;
    if path.extension().is_none_or(|ending| ending != "toml") {
        return error(format!("{}: expected the name of a new recipe, `NAME.toml`", path.display()));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if real(parent) != real(folder) {
        let folder = folder.display();
        return error(format!(
            "{}: expected a file in {folder}, because paths of the recipe are relative to it",
            path.display()
        ));
    }
    match fs::read_to_string(path) {
        Ok(text) if text.starts_with(HEADER) => {}
        Err(problem) if problem.kind() == ErrorKind::NotFound => {}
        _ => return error(format!("{} exists already: expected the name of a new file", path.display())),
    }
    // What was written for this recipe earlier is replaced: the pipeline must not read it.
    let rows = path.with_extension("rows");
    let files = &lineage.files.all;
    let is_read = [real(&rows), rows].iter().any(|rows| files.iter().any(|file| file.path.starts_with(rows)));
    let own = folder.join(lineage.pipeline.path().file_name().unwrap_or_default());
    if is_read || real(path) == real(&own) {
        return error(format!(
            "{}: the pipeline itself, or files that it reads, would be replaced: expected another name",
            path.display()
        ));
    }
    Ok(())
}

/// Copies a file without the rows that match, and notes what is read instead of it.
fn copy_of(
    lineage: &Lineage<'_>,
    impact: &Impact,
    cut: usize,
    folder: &Path,
    replacements: &mut Replacements,
) -> Result<FilteredFile, PipelineError> {
    let own = &lineage.files.all[cut];
    fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
    // Rows are named after their file: the copy has its name.
    let copy = folder.join(own.path.file_name().unwrap_or_default());
    let (n_removed, n_changed) = filter(&own.path, &copy, impact.matches.get(&cut))?;
    match own.owner {
        Some(owner) => {
            let stage = lineage.pipeline.stages[owner].name.clone();
            replacements.outputs.insert((stage, own.name.clone()), copy.clone());
        }
        None => {
            let files = || lineage.plan.stages.iter().flat_map(|stage| &stage.files);
            for read in files().filter(|read| own.path.starts_with(&read.path)) {
                if read.path == own.path {
                    replacements.paths.insert(read.path.clone(), copy.clone());
                } else {
                    let into = folder.join(format!("whole-{}", replacements.paths.len()));
                    let is_whole = files().any(|other| other.path == read.path && other.is_whole);
                    let whole = match replacements.paths.entry(read.path.clone()) {
                        Entry::Occupied(known) => known.get().clone(),
                        Entry::Vacant(free) => {
                            free.insert(copy_of_folder(&read.path, &into, is_whole)?).clone()
                        }
                    };
                    let to = whole.join(own.path.strip_prefix(&read.path).unwrap_or(&own.path));
                    fs::copy(&copy, &to).map_err(StoreError::io("write", &to))?;
                }
            }
        }
    }
    Ok(FilteredFile { path: own.path.clone(), copy, n_removed, n_changed })
}

/// Copies a folder that is read, under its own name, into `into`, which holds nothing else: what an earlier run left
/// there goes. `is_whole`: with its subfolders, which another program may read.
fn copy_of_folder(from: &Path, into: &Path, is_whole: bool) -> Result<PathBuf, PipelineError> {
    if is_whole && into.starts_with(from) {
        let reason = format!("{} would be copied into itself: name what is read in it", from.display());
        return Err(PipelineError::Lineage { reason });
    }
    if into.exists() {
        fs::remove_dir_all(into).map_err(StoreError::io("remove", into))?;
    }
    let to = into.join(from.file_name().unwrap_or_default());
    copy_entries(from, &to, is_whole)?;
    Ok(to)
}

fn copy_entries(from: &Path, to: &Path, is_whole: bool) -> Result<(), PipelineError> {
    fs::create_dir_all(to).map_err(StoreError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(StoreError::io("list", from))? {
        let path = entry.map_err(StoreError::io("list", from))?.path();
        let to = to.join(path.file_name().unwrap_or_default());
        if path.is_file() {
            fs::copy(&path, &to).map_err(StoreError::io("write", &to))?;
        } else if is_whole && path.is_dir() {
            if path.is_symlink() {
                let reason = format!("{} is a link to a folder, which is not copied", path.display());
                return Err(PipelineError::Lineage { reason });
            }
            copy_entries(&path, &to, is_whole)?;
        }
    }
    Ok(())
}

/// Copies the lines of a file without those that are to go; returns how many are removed and changed.
fn filter(from: &Path, to: &Path, matches: Option<&Matches>) -> Result<(u64, u64), PipelineError> {
    if !is_lines(from)? {
        let reason = format!("{} cannot be filtered: expected plain JSON Lines (`.jsonl`)", from.display());
        return Err(PipelineError::Lineage { reason });
    }
    let mut reader = BufReader::new(File::open(from).map_err(StoreError::io("open", from))?);
    let mut writer = atomic::Writer::new(to)?;
    let (mut bytes, mut line, mut n_removed, mut n_changed) = (Vec::new(), 0_u64, 0, 0);
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(StoreError::io("read", from))? == 0 {
            break;
        }
        line += 1;
        match matches.and_then(|matches| matches.get(&line)) {
            None => writer.write_all(&bytes).map_err(StoreError::io("write", to))?,
            Some(None) => n_removed += 1,
            Some(Some(places)) => {
                n_changed += 1;
                let mut row = object(&bytes).unwrap_or_default();
                without_responses(&mut row, places);
                let text = serde_json::Value::Object(row);
                writeln!(writer, "{text}").map_err(StoreError::io("write", to))?;
            }
        }
    }
    writer.commit()?;
    Ok((n_removed, n_changed))
}

/// The recipe with the filtered files in place of the others.
fn recipe_without(
    lineage: &Lineage<'_>,
    impact: &Impact,
    replacements: &Replacements,
    path: &Path,
) -> Result<String, PipelineError> {
    let pipeline = lineage.pipeline;
    let unreadable = |error: toml::de::Error| PipelineError::Lineage { reason: error.message().to_owned() };
    let mut recipe: Table = toml::from_str(pipeline.text()).map_err(unreadable)?;
    if let Some(own) = recipe.get_mut("pipeline").and_then(|own| own.get_mut("name")) {
        *own = Value::String(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
    }
    for (idx, stage) in pipeline.stages.iter().enumerate() {
        let Some(table) = recipe.get_mut("stages").and_then(|all| all.get_mut(&stage.name)) else { continue };
        let Some(table) = table.as_table_mut() else { continue };
        let file: Table = match &stage.recipe {
            Some(file) => toml::from_str(&file.text).map_err(unreadable)?,
            None => Table::new(),
        };
        let mut with = stage.with.clone();
        replace_outputs(&mut with, &file, replacements);
        for read in &lineage.plan.stages[idx].files {
            let Some(copy) = replacements.paths.get(&read.path) else { continue };
            if !set_path(&mut with, &file, &read.setting, copy) {
                return Err(cannot_change(stage, &read.setting, copy));
            }
            let is_named = replace_arguments(&mut with, &pipeline.folder, &read.path, copy);
            if matches!(stage.kind, Kind::Command) && !is_named {
                let (name, read, copy) = (&stage.name, read.path.display(), copy.display());
                let reason = format!(
                    "stage `{name}` reads {read}, and no argument of its `command` names it: expected the path as an \
                     argument, or as `--OPTION=PATH`, so that {copy} can take its place"
                );
                return Err(PipelineError::Lineage { reason });
            }
        }
        keep_places(&mut with, stage, &pipeline.folder, &lineage.plan.stages[idx].files);
        if with != stage.with {
            table.insert("with".to_owned(), Value::Table(with));
        }
    }
    let text = toml::to_string_pretty(&recipe).expect("a recipe is made of tables, texts and numbers");
    let (removed, original) = (impact.removed.join(", "), pipeline.path().display());
    // A comment is one line, whatever is in names.
    let comment = format!("{HEADER} from {original}, without rows with {removed}.");
    Ok(format!("{}\n\n{text}", comment.replace(char::is_control, " ")))
}

fn cannot_change(stage: &PipelineStage, setting: &str, copy: &Path) -> PipelineError {
    let (stage, copy) = (&stage.name, copy.display());
    let reason = format!(
        "stage `{stage}`: `{setting}` cannot be changed here: set it to {copy} in a copy of the recipe"
    );
    PipelineError::Lineage { reason }
}

/// Replaces the references to filtered outputs. What a recipe's file says is changed by settings on top of it.
fn replace_outputs(with: &mut Table, file: &Table, replacements: &Replacements) {
    let changed = |value: &Value| {
        let mut new = value.clone();
        let mut resolve = |reference: Reference| {
            let text = format!("${{{reference}}}");
            let copy = replacements.outputs.get(&(reference.stage, reference.output));
            Ok(copy.map_or(text, |copy| copy.to_string_lossy().into_owned()))
        };
        // What is no reference was refused when the recipe was read.
        replace_in(&mut new, &mut resolve).ok()?;
        (new != *value).then_some(new)
    };
    for (_, value) in with.iter_mut() {
        if let Some(new) = changed(value) {
            *value = new;
        }
    }
    lay_over(with, file, &changed);
}

/// Adds the settings of a recipe's file that change, where there is none on top of them already.
fn lay_over(with: &mut Table, file: &Table, changed: &dyn Fn(&Value) -> Option<Value>) {
    for (key, value) in file {
        match (with.get_mut(key), value) {
            (Some(Value::Table(over)), Value::Table(inner)) => lay_over(over, inner, changed),
            (Some(_), _) => {}
            (None, Value::Table(inner)) => {
                let mut over = Table::new();
                lay_over(&mut over, inner, changed);
                if !over.is_empty() {
                    with.insert(key.clone(), Value::Table(over));
                }
            }
            (None, value) => {
                if let Some(new) = changed(value) {
                    with.insert(key.clone(), new);
                }
            }
        }
    }
}

/// Sets a setting, given its keys joined by dots, to a path; says whether there is one.
fn set_path(with: &mut Table, file: &Table, setting: &str, copy: &Path) -> bool {
    let mut parts = setting.split('.');
    let Some(first) = parts.next() else { return false };
    let rest: Vec<&str> = parts.collect();
    if !with.contains_key(first) {
        let Some(value) = file.get(first) else { return false };
        with.insert(first.to_owned(), value.clone());
    }
    match with.get_mut(first).and_then(|value| value_at(value, &rest)) {
        Some(value) if value.is_str() => {
            *value = Value::String(copy.to_string_lossy().into_owned());
            true
        }
        _ => false,
    }
}

/// Makes paths absolute that were in the stage's own file and are in the pipeline's recipe now, which may be in another
/// folder.
fn keep_places(with: &mut Table, stage: &PipelineStage, folder: &Path, files: &[ReadFile]) {
    let Some(own) = stage.recipe.as_ref().and_then(|file| file.path.parent()).filter(|own| *own != folder)
    else {
        return;
    };
    for read in files {
        let parts: Vec<&str> = read.setting.split('.').collect();
        let [first, rest @ ..] = parts.as_slice() else { continue };
        let mut before = stage.with.get(*first).cloned();
        if before.as_mut().and_then(|value| value_at(value, rest)).is_some() {
            continue;
        }
        if let Some(Value::String(text)) = with.get_mut(*first).and_then(|value| value_at(value, rest))
            && in_folder(own, Path::new(text.as_str())) == read.path
        {
            *text = read.path.to_string_lossy().into_owned();
        }
    }
}

fn value_at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    let [first, rest @ ..] = path else { return Some(value) };
    match value {
        Value::Array(list) => value_at(list.get_mut(first.parse::<usize>().ok()?)?, rest),
        Value::Table(table) => value_at(table.get_mut(*first)?, rest),
        _ => None,
    }
}

/// A command names a file in its arguments as well as in `inputs`. Says whether one of them does: `PATH`, or
/// `--OPTION=PATH`.
fn replace_arguments(with: &mut Table, folder: &Path, path: &Path, copy: &Path) -> bool {
    let Some(Value::Array(arguments)) = with.get_mut("command") else { return false };
    let is_it = |text: &str| !text.is_empty() && in_folder(folder, Path::new(text)) == path;
    let mut is_named = false;
    for argument in arguments {
        let Some(text) = argument.as_str() else { continue };
        let option = text.split_once('=').filter(|(name, path)| name.starts_with('-') && is_it(path));
        let replaced = match option {
            Some((name, _)) => format!("{name}={}", copy.display()),
            None if is_it(text) => copy.to_string_lossy().into_owned(),
            None => continue,
        };
        *argument = Value::String(replaced);
        is_named = true;
    }
    is_named
}

#[cfg(test)]
mod tests {
    use truing_store::Digest;

    use super::*;
    use crate::recipe::RecipeFile;

    #[test]
    fn paths_of_a_recipe_in_another_folder_stay_where_they_were() {
        let text = "task = [{ path = \"a.jsonl\" }, { path = \"b.jsonl\" }, { path = \"/c.jsonl\" }]\n";
        let path = PathBuf::from("/recipes/stages/stage.toml");
        let stage = PipelineStage {
            name: "measure".into(),
            uses: "evaluate".into(),
            upstream: Vec::new(),
            kind: Kind::Command,
            with: Table::new(),
            recipe: Some(RecipeFile { shown: path.clone(), path, text: text.into() }),
            needs: Vec::new(),
            outputs: Vec::new(),
        };
        let read = |idx: usize, path: &str| ReadFile {
            setting: format!("task.{idx}.path"),
            path: path.into(),
            is_whole: false,
            blake3: Digest::of_bytes(b""),
        };
        let files =
            [read(0, "/recipes/stages/a.jsonl"), read(1, "/recipes/stages/b.jsonl"), read(2, "/c.jsonl")];
        let mut with = Table::new();
        let file: Table = toml::from_str(text).unwrap();
        assert!(set_path(&mut with, &file, "task.0.path", Path::new("/recipes/new.rows/0/a.jsonl")));
        keep_places(&mut with, &stage, Path::new("/recipes"), &files);
        let paths: Vec<&str> =
            with["task"].as_array().unwrap().iter().map(|task| task["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/recipes/new.rows/0/a.jsonl", "/recipes/stages/b.jsonl", "/c.jsonl"]);
    }

    #[test]
    fn a_folder_is_copied_with_its_subfolders_where_a_program_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let (data, into) = (folder.path().join("data"), folder.path().join("copy"));
        fs::create_dir_all(data.join("below")).unwrap();
        fs::write(data.join("a.jsonl"), "{}\n").unwrap();
        fs::write(data.join("below/b.jsonl"), "{}\n").unwrap();
        let copy = copy_of_folder(&data, &into, true).unwrap();
        assert_eq!(copy, into.join("data"));
        assert!(copy.join("a.jsonl").is_file() && copy.join("below/b.jsonl").is_file());
        let copy = copy_of_folder(&data, &into, false).unwrap();
        assert!(copy.join("a.jsonl").is_file() && !copy.join("below").exists(), "the earlier copy is gone");
        let error = copy_of_folder(&data, &data.join("copy"), true).unwrap_err().to_string();
        assert!(error.contains("would be copied into itself"), "{error}");
    }
}
