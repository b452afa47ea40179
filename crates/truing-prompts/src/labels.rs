//! The labels that a prompt can have (report 3.1.1), and how several opinions on one prompt become one.
//!
//! [`LabelSet`] is data: dimensions such as ability or difficulty, each with labels, their synonyms and a hierarchy.
//! [`tally`] adds up votes. The report names six dimensions and examples of their values; synonyms merged, a long tail
//! cut and a hierarchy are how it got there. Every rule of voting is ours.

mod votes;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::{RowOrigin, nearest_name};
use unicode_normalization::UnicodeNormalization;

pub use votes::{Ballot, Decision, Tally, tally};

/// One property of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dimension {
    /// Its name in recipes and files.
    pub name: String,
    /// What it is, for those who label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whether several of its labels may hold together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multiple: bool,
    /// Its labels, in the order in which ties are broken.
    #[serde(rename = "label", default)]
    pub labels: Vec<Label>,
}

/// One value of a dimension.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Its name in files.
    pub name: String,
    /// What it means, for those who label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Other names that mean the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub synonyms: Vec<String>,
    /// The label that it is a kind of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl Label {
    /// Its name and its synonyms.
    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.synonyms).map(String::as_str)
    }
}

/// What is wrong with a label set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelSetError {
    /// Nothing to label by.
    #[error("no dimension, expected at least one `[[dimension]]` with `[[dimension.label]]` tables")]
    NoDimension,
    /// Two dimensions with the same name.
    #[error("dimension `{name}` is there twice: names count without case and punctuation")]
    DimensionTwice {
        /// Its name.
        name: String,
    },
    /// A dimension without a label.
    #[error("dimension `{dimension}` has no label, expected at least one `[[dimension.label]]`")]
    EmptyDimension {
        /// The dimension.
        dimension: String,
    },
    /// A name of which nothing is left without punctuation.
    #[error("dimension `{dimension}`: `{name}` is not a valid name, expected letters or digits")]
    NoName {
        /// The dimension.
        dimension: String,
        /// What is there.
        name: String,
    },
    /// A name or synonym that two labels have.
    #[error("dimension `{dimension}`: `{name}` means both `{first}` and `{second}`")]
    NameTwice {
        /// The dimension.
        dimension: String,
        /// The name or synonym.
        name: String,
        /// The label that has it first.
        first: String,
        /// The label that has it too.
        second: String,
    },
    /// A parent that is no label of the dimension.
    #[error("dimension `{dimension}`: the parent `{parent}` of `{label}` is not one of its labels")]
    UnknownParent {
        /// The dimension.
        dimension: String,
        /// The label.
        label: String,
        /// Its parent.
        parent: String,
    },
    /// A label that is a kind of itself.
    #[error("dimension `{dimension}`: `{label}` is its own ancestor: {}", path.join(" -> "))]
    Cycle {
        /// The dimension.
        dimension: String,
        /// The label.
        label: String,
        /// From it to itself.
        path: Vec<String>,
    },
}

/// A label in the data that the label set does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{origin}: `{column}` is `{found}`, which is not a label of `{dimension}`{}",
    nearest.as_ref().map_or_else(String::new, |nearest| format!("; the nearest is `{nearest}`"))
)]
pub struct UnknownLabelError {
    /// The row.
    pub origin: RowOrigin,
    /// The column.
    pub column: String,
    /// What it holds.
    pub found: String,
    /// The dimension.
    pub dimension: String,
    /// The label that is most like it.
    pub nearest: Option<String>,
}

/// Dimensions whose labels are known by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSet {
    dimensions: Vec<Dimension>,
    /// By dimension: the labels by their names and synonyms as [`plain`] makes them.
    by_name: Vec<FxHashMap<String, usize>>,
    /// By dimension and label: the label's parent.
    parents: Vec<Vec<Option<usize>>>,
}

/// A name without case, width and punctuation. `+` and `#` stay, for the sake of programming languages.
fn plain(name: &str) -> String {
    let kept = |c: char| if c.is_alphanumeric() || matches!(c, '+' | '#') { c } else { ' ' };
    let text: String = name.nfkc().flat_map(char::to_lowercase).map(kept).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl LabelSet {
    /// Checks names, synonyms and hierarchy.
    ///
    /// # Errors
    /// When there is no dimension, a dimension is empty or there twice, a name or synonym means two labels, or a parent
    /// is unknown or a label's own descendant.
    pub fn new(dimensions: Vec<Dimension>) -> Result<Self, LabelSetError> {
        if dimensions.is_empty() {
            return Err(LabelSetError::NoDimension);
        }
        let mut names = BTreeMap::new();
        for dimension in &dimensions {
            let name = dimension.name.clone();
            if plain(&name).is_empty() {
                return Err(LabelSetError::NoName { dimension: name.clone(), name });
            }
            if names.insert(plain(&name), ()).is_some() {
                return Err(LabelSetError::DimensionTwice { name });
            }
        }
        let by_name = dimensions.iter().map(labels_by_name).collect::<Result<Vec<_>, _>>()?;
        let parents = dimensions
            .iter()
            .zip(&by_name)
            .map(|(dimension, by_name)| parents(dimension, by_name))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { dimensions, by_name, parents })
    }

    /// Its dimensions in their order.
    #[must_use]
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// The place of a dimension, by its name, ignoring case and punctuation.
    #[must_use]
    pub fn dimension_idx(&self, name: &str) -> Option<usize> {
        let name = plain(name);
        self.dimensions.iter().position(|dimension| plain(&dimension.name) == name)
    }

    /// The label that a text means in a dimension: its name or a synonym, ignoring case and punctuation.
    ///
    /// # Panics
    /// When there is no such dimension.
    #[must_use]
    pub fn resolve(&self, dimension_idx: usize, text: &str) -> Option<usize> {
        self.by_name[dimension_idx].get(&plain(text)).copied()
    }

    /// The labels whose name or synonym is in a text as whole words, in the order of the set. What is inside a longer
    /// name of the text is none: "prose poem" is no "poem".
    ///
    /// # Panics
    /// When there is no such dimension.
    #[must_use]
    pub fn mentioned(&self, dimension_idx: usize, text: &str) -> Vec<usize> {
        let text = format!(" {} ", plain(text));
        let mut names: Vec<(&String, usize)> =
            self.by_name[dimension_idx].iter().map(|(name, &label)| (name, label)).collect();
        names.sort_unstable_by_key(|(name, _)| (std::cmp::Reverse(name.len()), *name));
        let (mut left, mut found) = (text, Vec::new());
        for (name, label) in names {
            let words = format!(" {name} ");
            if left.contains(&words) {
                left = left.replace(&words, "  ");
                found.push(label);
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// A label's name.
    ///
    /// # Panics
    /// When there is no such label.
    #[must_use]
    pub fn name(&self, dimension_idx: usize, label: usize) -> &str {
        &self.dimensions[dimension_idx].labels[label].name
    }

    /// What a label is a kind of, nearest first; itself is not among them.
    ///
    /// # Panics
    /// When there is no such label.
    pub fn ancestors(&self, dimension_idx: usize, label: usize) -> impl Iterator<Item = usize> + '_ {
        let parents = &self.parents[dimension_idx];
        std::iter::successors(parents[label], |&label| parents[label])
    }

    /// Whether `label` is `ancestor` or a kind of it.
    #[must_use]
    pub fn is_kind_of(&self, dimension_idx: usize, label: usize, ancestor: usize) -> bool {
        label == ancestor || self.ancestors(dimension_idx, label).any(|found| found == ancestor)
    }

    /// The nearest label that all of `labels` are, or are a kind of.
    #[must_use]
    pub fn common_ancestor(&self, dimension_idx: usize, labels: &[usize]) -> Option<usize> {
        let first = *labels.first()?;
        let mut candidates = std::iter::once(first).chain(self.ancestors(dimension_idx, first));
        candidates
            .find(|&candidate| labels.iter().all(|&label| self.is_kind_of(dimension_idx, label, candidate)))
    }

    /// The label that a text is most like by its name or a synonym, if any is near.
    ///
    /// # Panics
    /// When there is no such dimension.
    #[must_use]
    pub fn nearest(&self, dimension_idx: usize, text: &str) -> Option<&str> {
        let labels = &self.dimensions[dimension_idx].labels;
        let nearest = nearest_name(text, labels.iter().flat_map(Label::names))?;
        labels.iter().find(|label| label.names().any(|name| name == nearest)).map(|label| label.name.as_str())
    }

    /// The error about a label in the data that this set does not have.
    ///
    /// # Panics
    /// When there is no such dimension.
    #[must_use]
    pub fn unknown(
        &self,
        dimension_idx: usize,
        origin: &RowOrigin,
        column: &str,
        found: String,
    ) -> UnknownLabelError {
        UnknownLabelError {
            origin: origin.clone(),
            column: column.to_owned(),
            nearest: self.nearest(dimension_idx, &found).map(str::to_owned),
            found,
            dimension: self.dimensions[dimension_idx].name.clone(),
        }
    }

    /// Adds a label without synonyms or parent, or hands back the one that the name means already.
    ///
    /// # Errors
    /// When the name holds neither letter nor digit.
    ///
    /// # Panics
    /// When there is no such dimension.
    pub fn add(&mut self, dimension_idx: usize, name: &str) -> Result<usize, LabelSetError> {
        if let Some(known) = self.resolve(dimension_idx, name) {
            return Ok(known);
        }
        let dimension = &mut self.dimensions[dimension_idx];
        if plain(name).is_empty() {
            return Err(LabelSetError::NoName { dimension: dimension.name.clone(), name: name.to_owned() });
        }
        let label = dimension.labels.len();
        dimension.labels.push(Label { name: name.trim().to_owned(), ..Label::default() });
        self.by_name[dimension_idx].insert(plain(name), label);
        self.parents[dimension_idx].push(None);
        Ok(label)
    }
}

fn labels_by_name(dimension: &Dimension) -> Result<FxHashMap<String, usize>, LabelSetError> {
    if dimension.labels.is_empty() {
        return Err(LabelSetError::EmptyDimension { dimension: dimension.name.clone() });
    }
    let mut by_name: FxHashMap<String, usize> = FxHashMap::default();
    for (idx, label) in dimension.labels.iter().enumerate() {
        for name in std::iter::once(&label.name).chain(&label.synonyms) {
            let key = plain(name);
            if key.is_empty() {
                return Err(LabelSetError::NoName { dimension: dimension.name.clone(), name: name.clone() });
            }
            if let Some(first) = by_name.insert(key, idx) {
                return Err(LabelSetError::NameTwice {
                    dimension: dimension.name.clone(),
                    name: name.clone(),
                    first: dimension.labels[first].name.clone(),
                    second: label.name.clone(),
                });
            }
        }
    }
    Ok(by_name)
}

/// A parent is named by its name or a synonym of it.
fn parents(
    dimension: &Dimension,
    by_name: &FxHashMap<String, usize>,
) -> Result<Vec<Option<usize>>, LabelSetError> {
    let parent_of = |label: &Label| {
        let Some(parent) = &label.parent else { return Ok(None) };
        let found = by_name.get(&plain(parent)).copied();
        found.map(Some).ok_or_else(|| LabelSetError::UnknownParent {
            dimension: dimension.name.clone(),
            label: label.name.clone(),
            parent: parent.clone(),
        })
    };
    let parents = dimension.labels.iter().map(parent_of).collect::<Result<Vec<_>, _>>()?;
    let name = |idx: usize| dimension.labels[idx].name.clone();
    for start in 0..parents.len() {
        let mut path = vec![name(start)];
        let mut at = parents[start];
        while let Some(label) = at {
            path.push(name(label));
            if label == start {
                return Err(LabelSetError::Cycle {
                    dimension: dimension.name.clone(),
                    label: name(start),
                    path,
                });
            }
            // A cycle that does not come back to `start` is found from one of its own labels.
            at = if path.len() > parents.len() { None } else { parents[label] };
        }
    }
    Ok(parents)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A label as `name`, `name=synonym,synonym`, either with `<parent`.
    fn label(text: &str) -> Label {
        let (text, parent) =
            text.split_once('<').map_or((text, None), |(text, p)| (text, Some(p.to_owned())));
        let (name, synonyms) = text.split_once('=').unwrap_or((text, ""));
        let synonyms = synonyms.split(',').filter(|synonym| !synonym.is_empty()).map(str::to_owned);
        Label { name: name.into(), synonyms: synonyms.collect(), parent, ..Label::default() }
    }

    fn dimension(name: &str, labels: &[&str]) -> Dimension {
        let labels = labels.iter().map(|text| label(text)).collect();
        Dimension { name: name.into(), description: String::new(), multiple: false, labels }
    }

    fn set(labels: &[&str]) -> Result<LabelSet, String> {
        LabelSet::new(vec![dimension("kind", labels)]).map_err(|error| error.to_string())
    }

    #[test]
    fn names_count_without_case_width_and_punctuation() {
        let set = set(&["knowledge Q&A=question answering,常识", "C", "C++=cpp", "C#"]).unwrap();
        for (text, expected) in [
            ("Knowledge q & a.", Some(0)),
            ("\"QUESTION-ANSWERING\"", Some(0)),
            ("常识", Some(0)),
            ("Ｃ＋＋", Some(2)),
            ("c", Some(1)),
            ("C#", Some(3)),
            ("c+", None),
            ("", None),
            ("question", None),
        ] {
            assert_eq!(set.resolve(0, text), expected, "{text}");
        }
        assert_eq!((set.dimension_idx("KIND"), set.dimension_idx("king")), (Some(0), None));
    }

    #[test]
    fn mentions_are_whole_words_and_the_longest() {
        let set = set(&["poem", "prose poem", "code=programming"]).unwrap();
        for (text, expected) in [
            ("It is a prose poem!", vec![1]),
            ("a poem, no Prose Poem", vec![0, 1]),
            ("poems", vec![]),
            ("Programming. (code)", vec![2]),
        ] {
            assert_eq!(set.mentioned(0, text), expected, "{text}");
        }
    }

    #[test]
    fn the_hierarchy_is_walked_upwards() {
        let set =
            set(&["reasoning", "mathematics<reasoning", "algebra<Mathematics", "logic<reasoning", "code"])
                .unwrap();
        assert_eq!(set.ancestors(0, 2).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(set.ancestors(0, 0).count(), 0);
        for (labels, expected) in [
            (&[2, 3][..], Some(0)),
            (&[2, 1], Some(1)),
            (&[1, 2], Some(1)),
            (&[2], Some(2)),
            (&[2, 4], None),
            (&[], None),
        ] {
            assert_eq!(set.common_ancestor(0, labels), expected, "{labels:?}");
        }
        assert!(set.is_kind_of(0, 2, 0) && set.is_kind_of(0, 2, 2) && !set.is_kind_of(0, 0, 2));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_dimension_and_label() {
        for (labels, expected) in [
            (&["a", "b=x", "c=X!"][..], "dimension `kind`: `X!` means both `b` and `c`"),
            (&["a=a"], "dimension `kind`: `a` means both `a` and `a`"),
            (&["a", "A"], "dimension `kind`: `A` means both `a` and `A`"),
            (&["a<b"], "dimension `kind`: the parent `b` of `a` is not one of its labels"),
            (&["a<a"], "dimension `kind`: `a` is its own ancestor: a -> a"),
            (&["x<a", "a<b", "b<a"], "dimension `kind`: `a` is its own ancestor: a -> b -> a"),
            (&["a", "..."], "dimension `kind`: `...` is not a valid name, expected letters or digits"),
            (&[], "dimension `kind` has no label, expected at least one `[[dimension.label]]`"),
        ] {
            assert_eq!(set(labels).unwrap_err(), expected);
        }
        assert_eq!(LabelSet::new(Vec::new()), Err(LabelSetError::NoDimension));
        let twice = LabelSet::new(vec![dimension("one", &["a"]), dimension("One", &["a"])]);
        assert_eq!(twice, Err(LabelSetError::DimensionTwice { name: "One".into() }));
    }

    #[test]
    fn a_set_grows_by_names_that_it_does_not_know() {
        let mut set = set(&["a=x"]).unwrap();
        assert_eq!((set.add(0, " new one "), set.add(0, "X"), set.add(0, "New One")), (Ok(1), Ok(0), Ok(1)));
        assert_eq!(
            (set.resolve(0, "new one"), set.name(0, 1), set.ancestors(0, 1).count()),
            (Some(1), "new one", 0)
        );
        assert!(set.add(0, "?!").is_err());
    }
}
