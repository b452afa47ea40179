//! One import: the entries of the file, of which each is taken once, the recipe and the findings.

use std::path::{Path, PathBuf};

use crate::Options;
use crate::answer::{Answer, Copied, shown};
use crate::error::{ImportError, Place};
use crate::keys::{self, Tool};
use crate::recipe::{self, Line, Recipe};
use crate::report::{Finding, Kind};
use crate::tables;
use crate::yaml::{Node, Value, boolean, python_float};

/// A key of the file.
struct Entry<'a> {
    key: String,
    place: Place,
    node: &'a Node,
    is_done: bool,
}

/// An import in progress.
pub(crate) struct Job<'a> {
    pub(crate) tool: Tool,
    pub(crate) path: &'a Path,
    pub(crate) options: &'a Options,
    pub(crate) recipe: Recipe,
    entries: Vec<Entry<'a>>,
    findings: Vec<Finding>,
    /// The keys that the stage has.
    stage_keys: Vec<&'static str>,
}

type Result<T> = std::result::Result<T, ImportError>;

impl<'a> Job<'a> {
    pub(crate) fn new(tool: Tool, path: &'a Path, options: &'a Options, root: &'a Node) -> Self {
        let mut entries = Vec::new();
        let Value::Table(pairs) = &root.value else {
            unreachable!("the caller has checked that it is a table")
        };
        for pair in pairs {
            // Only the blocks whose keys the table of the tool has with dots are opened.
            let is_opened = match tool {
                Tool::Verl => true,
                Tool::Axolotl => matches!(pair.key.as_str(), "trl" | "vllm" | "ebft"),
                Tool::Trl | Tool::LlamaFactory => false,
            };
            flatten(&pair.key, pair.place, &pair.node, is_opened, &mut entries);
        }
        let recipe = Recipe::default();
        Self { tool, path, options, recipe, entries, findings: Vec::new(), stage_keys: Vec::new() }
    }

    /// Says which keys the stage of truing has.
    pub(crate) fn begin_stage(&mut self, keys: &[&[&'static str]]) {
        self.stage_keys = keys.concat();
    }

    pub(crate) fn order(&self) -> &[&'static str] {
        &self.stage_keys
    }

    /// Whether the file has the key, with a value that is not null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.peek(key).is_some()
    }

    /// A value that is left where it is.
    pub(crate) fn peek(&self, key: &str) -> Option<&'a Node> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.node)
            .filter(|node| !node.is_null())
    }

    pub(crate) fn place(&self, key: &str) -> Option<Place> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.place)
    }

    /// A value, which is then not reported as left over. Null is no value.
    pub(crate) fn take(&mut self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter_mut().find(|entry| entry.key == key)?;
        entry.is_done = true;
        Some(entry.node).filter(|node| !node.is_null())
    }

    pub(crate) fn number(&mut self, key: &str) -> Result<Option<f64>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        as_number(node).map(Some).ok_or_else(|| self.misfit(key, node, "a number"))
    }

    pub(crate) fn integer(&mut self, key: &str) -> Result<Option<i64>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        as_integer(node).map(Some).ok_or_else(|| self.misfit(key, node, "an integer"))
    }

    /// An integer of at least 1.
    pub(crate) fn count(&mut self, key: &str) -> Result<Option<u64>> {
        let place = self.peek(key);
        match self.integer(key)? {
            None => Ok(None),
            Some(value) if (1..=1_000_000_000).contains(&value) => Ok(Some(value as u64)),
            Some(_) => {
                let node = place.expect("the key has a value");
                Err(self.misfit(key, node, "an integer from 1 to 1000000000"))
            }
        }
    }

    pub(crate) fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        as_flag(node).map(Some).ok_or_else(|| self.misfit(key, node, "true or false"))
    }

    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        as_text(node).map(Some).ok_or_else(|| self.misfit(key, node, "a text"))
    }

    /// A list of texts, or one text in which commas separate them.
    pub(crate) fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        self.texts_of(key, node).map(Some)
    }

    pub(crate) fn texts_of(&self, key: &str, node: &Node) -> Result<Vec<String>> {
        match &node.value {
            Value::List(items) => items
                .iter()
                .map(|item| as_text(item).ok_or_else(|| self.misfit(key, item, "a text")))
                .collect(),
            _ => {
                let text =
                    as_text(node).ok_or_else(|| self.misfit(key, node, "a text or a list of texts"))?;
                Ok(text
                    .split(',')
                    .map(|part| part.trim().to_owned())
                    .filter(|part| !part.is_empty())
                    .collect())
            }
        }
    }

    /// The error for a value that does not fit its key.
    pub(crate) fn misfit(&self, key: &str, node: &Node, expected: &str) -> ImportError {
        ImportError::Value {
            path: self.path.to_path_buf(),
            place: node.place,
            key: key.to_owned(),
            found: describe(node),
            expected: expected.to_owned(),
        }
    }

    /// The error for a file that asks for what truing does not do.
    pub(crate) fn refused(&self, key: &str, reason: impl Into<String>) -> ImportError {
        let place = self.place(key).unwrap_or(Place { line: 1, column: 1 });
        ImportError::Refused { path: self.path.to_path_buf(), place, reason: reason.into() }
    }

    /// Sets a key of the recipe.
    pub(crate) fn set(&mut self, key: &str, value: String, comment: impl Into<String>) {
        debug_assert!(self.stage_keys.contains(&key), "{key} is not a key of the stage");
        self.recipe.set(Line::new(key, value, comment));
    }

    /// Sets a key to the value of a key of the file, and says so.
    pub(crate) fn translated(&mut self, from: &str, key: &str, value: String) {
        let is_same = key.rsplit('.').next() == Some(from);
        let comment = if is_same { "" } else { from };
        self.set(key, value, comment);
        self.note_translated(from, &shown(key));
    }

    pub(crate) fn note_translated(&mut self, from: &str, text: &str) {
        self.finding(Kind::Translated, from, text);
    }

    /// Says that a key has another meaning in the recipe.
    pub(crate) fn changed(&mut self, from: &str, text: impl Into<String>) {
        self.finding(Kind::Changed, from, text);
    }

    /// Says that the recipe lacks what a key asks for.
    pub(crate) fn missing(&mut self, from: &str, text: impl Into<String>) {
        self.finding(Kind::NoCounterpart, from, text);
    }

    pub(crate) fn not_needed(&mut self, from: &str, text: impl Into<String>) {
        self.finding(Kind::NotNeeded, from, text);
    }

    fn finding(&mut self, kind: Kind, from: &str, text: impl Into<String>) {
        let place = self.place(from);
        self.finding_at(kind, from, place, text);
    }

    pub(crate) fn finding_at(
        &mut self,
        kind: Kind,
        from: &str,
        place: Option<Place>,
        text: impl Into<String>,
    ) {
        let finding = Finding { kind, key: from.to_owned(), place, text: text.into() };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Sets a key to a default of the tool, unless the file has set it.
    pub(crate) fn default(&mut self, key: &str, value: String) {
        if !self.recipe.has(key) {
            let comment = format!("default of {}", self.tool);
            self.set(key, value, comment);
        }
    }

    /// Copies a number under another name; nothing if the file does not have it.
    pub(crate) fn copy_number(&mut self, from: &str, key: &str) -> Result<Option<f64>> {
        let value = self.number(from)?;
        if let Some(value) = value {
            self.translated(from, key, recipe::number(value));
        }
        Ok(value)
    }

    /// Copies a count under another name; nothing if the file does not have it.
    pub(crate) fn copy_count(&mut self, from: &str, key: &str) -> Result<Option<u64>> {
        let value = self.count(from)?;
        if let Some(value) = value {
            self.translated(from, key, value.to_string());
        }
        Ok(value)
    }

    /// Says that the keys that nothing has taken yet, and that `applies` to, need nothing.
    pub(crate) fn skip(&mut self, why: &str, applies: impl Fn(&str) -> bool) {
        let skipped: Vec<String> = self
            .entries
            .iter()
            .filter(|entry| !entry.is_done && applies(&entry.key))
            .map(|entry| entry.key.clone())
            .collect();
        for key in skipped {
            if self.take(&key).is_some() {
                self.not_needed(&key, why);
            }
        }
    }

    /// The keys of the file.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    /// Deals with every key that nothing has taken: copies it, or says why it is not in the recipe.
    pub(crate) fn take_the_rest(&mut self) -> Result<()> {
        let rest: Vec<String> =
            self.entries.iter().filter(|entry| !entry.is_done).map(|entry| entry.key.clone()).collect();
        for key in rest {
            let Some(node) = self.take(&key) else {
                // Null is the tool's way of not setting a key, but a slip is one all the same.
                if keys::answer(self.tool, &key).is_none() {
                    self.unknown(&key);
                }
                continue;
            };
            match keys::answer(self.tool, &key) {
                None => self.unknown(&key),
                Some(Answer::NoEffect(why)) => self.not_needed(&key, *why),
                Some(answer @ (Answer::Instead(_) | Answer::NotAvailable(_) | Answer::Becomes(_))) => {
                    if is_off(&key, node) {
                        self.not_needed(&key, "off in the file");
                    } else if is_always_written(&key, node) {
                        self.not_needed(&key, tables::LOGGING);
                    } else {
                        self.missing(&key, answer.to_string());
                    }
                }
                Some(Answer::Key(own, copied)) => self.copy(&key, own, *copied)?,
            }
        }
        self.name_what_was_read_in_silence();
        Ok(())
    }

    /// A value that was read without a word has changed nothing: it is off, or does not apply to what the file does.
    fn name_what_was_read_in_silence(&mut self) {
        let is_named = |key: &str, finding: &Finding| {
            finding.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let silent: Vec<(String, &Node)> = self
            .entries
            .iter()
            .filter(|entry| {
                !entry.node.is_null() && !self.findings.iter().any(|finding| is_named(&entry.key, finding))
            })
            .map(|entry| (entry.key.clone(), entry.node))
            .collect();
        for (key, node) in silent {
            if is_off(&key, node) || as_number(node).is_some_and(|value| value <= 0.0) {
                self.not_needed(&key, "off in the file");
            } else {
                match keys::answer(self.tool, &key) {
                    Some(answer) => self.missing(&key, format!("not used: {answer}")),
                    None => self.unknown(&key),
                }
            }
        }
    }

    fn copy(&mut self, from: &str, own: &str, copied: Copied) -> Result<()> {
        let value = match copied {
            Copied::Number => self.number(from)?.map(recipe::number),
            Copied::Integer => self.integer(from)?.map(|value| value.to_string()),
            Copied::Flag => self.flag(from)?.map(|value| value.to_string()),
        };
        let Some(value) = value else { return Ok(()) };
        if self.stage_keys.contains(&own) {
            self.translated(from, own, value);
        } else {
            self.missing(from, format!("{} is not a key of this stage", shown(own)));
        }
        Ok(())
    }

    fn unknown(&mut self, key: &str) {
        let text = match keys::nearest(self.tool, key) {
            Some(nearest) => format!("unknown {} key; did you mean `{nearest}`?", self.tool),
            None => format!("unknown {} key", self.tool),
        };
        self.finding(Kind::Unknown, key, text);
    }

    /// The findings, those that need attention first, each kind in the order of the file.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings;
        findings.sort_by(|a, b| {
            let place =
                |finding: &Finding| finding.place.map_or((1, 0, 0), |place| (0, place.line, place.column));
            (a.kind, place(a)).cmp(&(b.kind, place(b)))
        });
        findings
    }

    // Paths: the tools read them relative to the folder in which they run, a recipe has them relative to itself.

    /// Where the tool would find a path: in its working folder, or else in the folder of the YAML or one of
    /// the three above it.
    pub(crate) fn find(&self, path: &str) -> Option<PathBuf> {
        let path = self.expanded(path);
        // Not in the root, where `data` is something else.
        let own_folders =
            self.options.yaml_folder.ancestors().take(4).filter(|folder| folder.parent().is_some());
        let mut folders = std::iter::once(self.options.working_folder.as_path()).chain(own_folders);
        folders.find_map(|folder| Some(folder.join(&path)).filter(|path| path.exists()))
    }

    /// A path as the recipe has it; one that is nowhere is taken as relative to the tool's working folder.
    pub(crate) fn recipe_path(&self, path: &str) -> String {
        let found = self.find(path).unwrap_or_else(|| self.options.working_folder.join(self.expanded(path)));
        relative(&found, &self.options.recipe_folder)
    }

    /// A path as the recipe has it, where the folder is known.
    pub(crate) fn path_in(&self, folder: &Path, path: &str) -> String {
        relative(&folder.join(self.expanded(path)), &self.options.recipe_folder)
    }

    /// A path in the tool's working folder as the recipe has it, whether it is there or not.
    pub(crate) fn output_path(&self, path: &str) -> String {
        self.path_in(&self.options.working_folder, path)
    }

    /// `~` is the user's folder.
    fn expanded(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.options.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        }
    }

    /// A model: a path if it is there, else a name, with its revision.
    pub(crate) fn model(&self, name: &str, revision: Option<&str>) -> String {
        if is_path(name) || self.find(name).is_some_and(|path| path.is_dir() || path.extension().is_some()) {
            return self.recipe_path(name);
        }
        match revision {
            Some(revision) if revision != "main" => format!("{name}@{revision}"),
            _ => name.to_owned(),
        }
    }
}

/// Whether a name can only be a path: models and data sets of a hub are `name` or `org/name`.
pub(crate) fn is_path(name: &str) -> bool {
    name.starts_with(['/', '.', '~'])
        || name.matches('/').count() > 1
        || name.contains('\\')
        || name.ends_with('/')
}

/// A path as seen from a folder, both absolute; a path of another drive stays as it is.
fn relative(path: &Path, from: &Path) -> String {
    use std::path::Component;
    let normal = |path: &Path| {
        let mut parts: Vec<Component<'_>> = Vec::new();
        for part in path.components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir if matches!(parts.last(), Some(Component::Normal(_))) => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        parts.iter().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>()
    };
    let (to, base) = (normal(path), normal(from));
    let shared = to.iter().zip(&base).take_while(|(a, b)| a == b).count();
    // Nothing but the root in common: another place altogether, which stays absolute.
    let is_near = path.is_relative() || shared > 1 || base.len() <= 1;
    if !is_near || path.is_absolute() != from.is_absolute() {
        return slashes(path);
    }
    let mut relative = PathBuf::new();
    relative.extend(base[shared..].iter().map(|_| ".."));
    relative.extend(&to[shared..]);
    if relative.as_os_str().is_empty() { ".".to_owned() } else { slashes(&relative) }
}

fn slashes(path: &Path) -> String {
    let text = path.to_string_lossy();
    if cfg!(windows) { text.replace('\\', "/") } else { text.into_owned() }
}

fn flatten<'a>(key: &str, place: Place, node: &'a Node, is_opened: bool, entries: &mut Vec<Entry<'a>>) {
    match &node.value {
        Value::Table(pairs) if is_opened && !pairs.is_empty() => {
            for pair in pairs {
                flatten(&format!("{key}.{}", pair.key), pair.place, &pair.node, true, entries);
            }
        }
        _ => entries.push(Entry { key: key.to_owned(), place, node, is_done: false }),
    }
}

/// Whether a value turns its key off, so that nothing is missing without it.
fn is_off(key: &str, node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) => true,
        Value::Int(1) => key.ends_with("repetition_penalty"),
        Value::Float(value) => *value == 0.0 || (*value == 1.0 && key.ends_with("repetition_penalty")),
        Value::Int(0) => true,
        Value::Text(text) => matches!(text.to_lowercase().as_str(), "" | "none" | "no" | "null" | "false"),
        Value::List(items) => items.is_empty(),
        Value::Table(pairs) => pairs.is_empty(),
        _ => false,
    }
}

/// Whether metrics go nowhere but to where every run writes them.
fn is_always_written(key: &str, node: &Node) -> bool {
    let is_own = |node: &Node| match &node.value {
        Value::Text(text) => matches!(text.to_lowercase().as_str(), "tensorboard" | "console" | "none"),
        _ => false,
    };
    let is_tracker = matches!(key, "report_to" | "trainer.logger");
    is_tracker
        && match &node.value {
            Value::List(items) => items.iter().all(is_own),
            _ => is_own(node),
        }
}

pub(crate) fn as_number(node: &Node) -> Option<f64> {
    match &node.value {
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::Text(text) => python_float(text),
        _ => None,
    }
    .filter(|value| value.is_finite())
}

pub(crate) fn as_integer(node: &Node) -> Option<i64> {
    match &node.value {
        Value::Int(value) => Some(*value),
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Some(*value as i64),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub(crate) fn as_flag(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Bool(value) => Some(*value),
        Value::Int(0) => Some(false),
        Value::Int(1) => Some(true),
        Value::Text(text) => boolean(text.trim()),
        _ => None,
    }
}

/// A text; numbers and booleans as Python writes them.
pub(crate) fn as_text(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(format!("{value:?}")),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

fn describe(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::List(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_recipe() {
        let check = |path: &str, from: &str, expected: &str| {
            assert_eq!(relative(Path::new(path), Path::new(from)), expected, "{path} from {from}");
        };
        check("/home/me/a/data", "/home/me/a", "data");
        check("/home/me/a/./data/../b", "/home/me/a/recipes", "../b");
        check("/home/me/a", "/home/me/a", ".");
        check("/data/sets", "/home/me/a", "/data/sets");
        check("/home/me/data", "/home/me/a/b", "../../data");
    }
}
