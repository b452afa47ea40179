//! Data sets: the entries of `[[data]]` and `[[eval_data]]`.

use crate::answer::Answer;
use crate::error::Place;
use crate::job::{Job, is_path};
use crate::keys;
use crate::recipe::{Line, mapping, number, string};
use crate::report::Kind;
use crate::yaml::{Node, Value};

/// One data set.
#[derive(Debug, Default)]
pub(crate) struct DataSet {
    pub(crate) path: String,
    /// Where the path comes from.
    pub(crate) comment: String,
    pub(crate) format: Option<&'static str>,
    /// Columns of the format with their names in the file.
    pub(crate) columns: Vec<(String, String)>,
    pub(crate) prompt_template: Option<String>,
    pub(crate) system: Option<String>,
    pub(crate) weight: Option<f64>,
    pub(crate) max_samples: Option<u64>,
}

impl DataSet {
    /// Names a column of the format, unless the file has the same name.
    pub(crate) fn column(&mut self, own: &str, name: &str) {
        if own != name {
            self.columns.push((own.to_owned(), name.to_owned()));
        }
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = vec![Line::new("path", string(&self.path), self.comment.clone())];
        let mut push = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                lines.push(Line::new(key, value, ""));
            }
        };
        push("format", self.format.map(string));
        push("columns", (!self.columns.is_empty()).then(|| mapping(&self.columns)));
        push("prompt_template", self.prompt_template.as_deref().map(string));
        push("system", self.system.as_deref().map(string));
        push("weight", self.weight.map(number));
        push("max_samples", self.max_samples.map(|n| n.to_string()));
        lines
    }
}

/// Appends data sets to the recipe.
pub(crate) fn push(job: &mut Job<'_>, list: &'static str, sets: &[DataSet]) {
    for set in sets {
        job.recipe.push(list, set.lines());
    }
}

/// A data set as the tools name it.
pub(crate) struct Named<'a> {
    pub(crate) name: &'a str,
    pub(crate) split: Option<&'a str>,
    pub(crate) revision: Option<&'a str>,
    /// A part of a data set of the hub.
    pub(crate) subset: Option<&'a str>,
    /// The key that names it, with its place.
    pub(crate) key: &'a str,
    pub(crate) place: Option<Place>,
}

/// The path of a data set: a file or folder if it is there or can be nothing else, otherwise a data set of the hub.
pub(crate) fn locate(job: &mut Job<'_>, named: &Named<'_>) -> DataSet {
    let mut set = DataSet { comment: named.key.to_owned(), ..DataSet::default() };
    let split = named.split.map(|split| part_of_split(job, split, named, &mut set));
    let has_ending = [".json", ".jsonl", ".parquet", ".txt", ".gz", ".zst", ".csv", ".arrow"]
        .iter()
        .any(|ending| named.name.ends_with(ending));
    if is_path(named.name) || has_ending || job.find(named.name).is_some() {
        set.path = job.recipe_path(named.name);
        if [".csv", ".arrow"].iter().any(|ending| named.name.ends_with(ending)) {
            let text = format!(
                "`{}` is not read; expected JSON Lines, a JSON list, Parquet or plain text",
                named.name
            );
            job.finding_at(Kind::NoCounterpart, named.key, named.place, text);
        }
        if let Some(split) = split.filter(|split| *split != "train") {
            let text = format!("the split `{split}` of `{}`: name its file as `path`", named.name);
            job.finding_at(Kind::NoCounterpart, named.key, named.place, text);
        }
        return set;
    }
    set.path = named.name.to_owned();
    if let Some(subset) = named.subset {
        set.path.push_str(&format!("/{subset}"));
    }
    if let Some(split) = split.filter(|split| *split != "train") {
        set.path.push_str(&format!(":{split}"));
    }
    if let Some(revision) = named.revision.filter(|revision| *revision != "main") {
        set.path.push_str(&format!("@{revision}"));
    }
    let text = format!(
        "`{}` is not a local file, so it is a data set of the hub, `{}`: its splits are found by the names \
         of its files, not by the settings of its card",
        named.name, set.path
    );
    job.finding_at(Kind::Changed, named.key, named.place, text);
    set
}

/// The name of a split; of `train[:500]` the part becomes `max_samples`.
fn part_of_split<'s>(job: &mut Job<'_>, split: &'s str, named: &Named<'_>, set: &mut DataSet) -> &'s str {
    let Some((name, part)) = split.split_once('[') else { return split };
    match part.strip_suffix(']').and_then(|part| part.strip_prefix(':')?.parse().ok()) {
        Some(n) if (1..=1_000_000_000_000).contains(&n) => set.max_samples = Some(n),
        _ => {
            let text = format!("the part `[{part}` of a split; `max_samples` takes rows from the beginning");
            job.finding_at(Kind::NoCounterpart, named.key, named.place, text);
        }
    }
    name
}

/// Reports the keys of a data set that nothing has read. `read` are those that were.
pub(crate) fn take_the_rest(job: &mut Job<'_>, at: &str, node: &Node, read: &[&str]) {
    let Value::Table(pairs) = &node.value else { return };
    for pair in pairs.iter().filter(|pair| !read.contains(&pair.key.as_str())) {
        let key = format!("{at}.{}", pair.key);
        let place = Some(pair.place);
        match keys::data_answer(job.tool, &pair.key) {
            _ if pair.node.is_null() => {}
            None => {
                let text = format!("unknown {} data set key", job.tool);
                job.finding_at(Kind::Unknown, &key, place, text);
            }
            Some(Answer::NoEffect(why)) => job.finding_at(Kind::NotNeeded, &key, place, *why),
            Some(answer) => job.finding_at(Kind::NoCounterpart, &key, place, answer.to_string()),
        }
    }
}
