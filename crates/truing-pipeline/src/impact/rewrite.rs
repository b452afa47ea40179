//! A pipeline without the rows that are to be removed: filtered copies of the files that hold them, and a recipe beside
//! the first one that reads the copies. To apply it is to run everything again that depended on the rows, and nothing
//! else: the store is the same.

use std::collections::BTreeMap;
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
use crate::recipe::PipelineStage;
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
        Ok(text) if text.starts_with(HEADER) => Ok(()),
        Err(problem) if problem.kind() == ErrorKind::NotFound => Ok(()),
        _ => error(format!("{} exists already: expected the name of a new file", path.display())),
    }
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
            let files = lineage.plan.stages.iter().flat_map(|stage| &stage.files);
            for read in files.filter(|read| own.path.starts_with(&read.path)) {
                if read.path == own.path {
                    replacements.paths.insert(read.path.clone(), copy.clone());
                } else {
                    let whole = replacements.paths.entry(read.path.clone());
                    let whole = whole.or_insert_with(|| folder.join("whole")).clone();
                    copy_into(&read.path, &own.path, &copy, &whole)?;
                }
            }
        }
    }
    Ok(FilteredFile { path: own.path.clone(), copy, n_removed, n_changed })
}

/// Puts a filtered file into a copy of the folder that is read. Files that are there stay: others of the folder may
/// have been filtered before.
fn copy_into(from: &Path, file: &Path, copy: &Path, whole: &Path) -> Result<(), PipelineError> {
    fs::create_dir_all(whole).map_err(StoreError::io("create", whole))?;
    for entry in fs::read_dir(from).map_err(StoreError::io("list", from))? {
        let path = entry.map_err(StoreError::io("list", from))?.path();
        let to = whole.join(path.file_name().unwrap_or_default());
        let source = if path == file { copy } else { path.as_path() };
        if path.is_file() && (path == file || !to.exists()) {
            fs::copy(source, &to).map_err(StoreError::io("write", &to))?;
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
            replace_arguments(&mut with, &pipeline.folder, &read.path, copy);
        }
        if with != stage.with {
            table.insert("with".to_owned(), Value::Table(with));
        }
    }
    let text = toml::to_string_pretty(&recipe).expect("a recipe is made of tables, texts and numbers");
    let (removed, original) = (impact.removed.join(", "), pipeline.path().display());
    Ok(format!("{HEADER} from {original}, without rows with {}.\n\n{text}", one_line(&removed)))
}

fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
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

fn value_at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    let [first, rest @ ..] = path else { return Some(value) };
    match value {
        Value::Array(list) => value_at(list.get_mut(first.parse::<usize>().ok()?)?, rest),
        Value::Table(table) => value_at(table.get_mut(*first)?, rest),
        _ => None,
    }
}

/// A command names a file in its arguments as well as in `inputs`.
fn replace_arguments(with: &mut Table, folder: &Path, path: &Path, copy: &Path) {
    let Some(Value::Array(arguments)) = with.get_mut("command") else { return };
    for argument in arguments {
        if argument
            .as_str()
            .is_some_and(|text| !text.is_empty() && in_folder(folder, Path::new(text)) == path)
        {
            *argument = Value::String(copy.to_string_lossy().into_owned());
        }
    }
}
