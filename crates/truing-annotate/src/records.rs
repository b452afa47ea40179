//! What the journal comes to: the answers that hold now, by item and person.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use truing_types::counted;

use crate::AnnotateError;
use crate::answer::Answer;
use crate::answer_problem::AnswerProblem;
use crate::config::AnnotateConfig;
use crate::item::{Item, Items};
use crate::journal::{Entry, EntryKind};

/// Items that a warning names.
const MAX_NAMED: usize = 5;

/// An entry with its answers read.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The line of the journal.
    pub entry: Entry,
    /// Its answers by question. Questions of other widgets than an item's, and skipped items, have none.
    pub answers: BTreeMap<String, Answer>,
}

/// The entries about one item that hold.
#[derive(Debug, Clone, Default)]
pub struct ItemRecord {
    /// The last answer or skip of each annotator.
    pub people: BTreeMap<String, Arc<Stored>>,
    /// The last decision of an adjudicator.
    pub adjudication: Option<Arc<Stored>>,
}

/// The entries that hold, of all items.
#[derive(Debug, Clone)]
pub struct Records {
    /// In the order of [`Items::all`].
    pub by_item: Vec<ItemRecord>,
    /// Entries about items that the data no longer has, or has with another text.
    pub n_stray: usize,
    /// These items.
    pub stray: BTreeSet<String>,
    /// Entries in all.
    pub n_entries: usize,
    submissions: HashMap<String, Arc<Stored>>,
}

impl ItemRecord {
    /// The answers, without skips, in the order of the annotators' names.
    pub fn answers(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.people.values().filter(|stored| stored.entry.kind == EntryKind::Answer)
    }

    /// The entry of a person that holds, or of the adjudicators.
    #[must_use]
    pub fn of(&self, person: &str, is_adjudicator: bool) -> Option<&Arc<Stored>> {
        if is_adjudicator { self.adjudication.as_ref() } else { self.people.get(person) }
    }
}

impl Records {
    /// No entry about any of these items.
    #[must_use]
    pub fn new(items: &Items) -> Self {
        let by_item = vec![ItemRecord::default(); items.all.len()];
        Self { by_item, n_stray: 0, stray: BTreeSet::new(), n_entries: 0, submissions: HashMap::new() }
    }

    /// What the entries of a journal come to.
    ///
    /// # Errors
    /// When an answer does not fit its item; the error names the line.
    pub fn replay(
        entries: Vec<Entry>,
        items: &Items,
        config: &AnnotateConfig,
        journal: &Path,
    ) -> Result<Self, AnnotateError> {
        let mut records = Self::new(items);
        for (idx, entry) in entries.into_iter().enumerate() {
            let found =
                items.index_of(&entry.item).filter(|&item| items.all[item].digest == entry.item_digest);
            let Some(item) = found else {
                records.n_stray += 1;
                records.stray.insert(entry.item);
                records.n_entries += 1;
                continue;
            };
            let answers = read_answers(&entry.answers, &items.all[item], config);
            let answers = answers.map_err(|problem| AnnotateError::OtherQuestions {
                path: journal.to_path_buf(),
                line: idx + 1,
                problem,
            })?;
            records.apply(item, Stored { entry, answers });
        }
        Ok(records)
    }

    /// What to say of entries that are not used, where there are some.
    #[must_use]
    pub fn stray_warning(&self) -> Option<String> {
        let named: Vec<&str> = self.stray.iter().take(MAX_NAMED).map(String::as_str).collect();
        let more = self.stray.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let warning = || {
            format!(
                "{} about items that the data does not have, or whose text has changed since: {}{more}; kept, and not \
                 used",
                counted(self.n_stray as u64, "entry is", "entries are"),
                named.join(", ")
            )
        };
        (self.n_stray > 0).then(warning)
    }

    /// Takes an entry that is in the journal.
    pub(crate) fn apply(&mut self, item: usize, stored: Stored) -> Arc<Stored> {
        let stored = Arc::new(stored);
        let record = &mut self.by_item[item];
        if stored.entry.kind == EntryKind::Adjudication {
            record.adjudication = Some(Arc::clone(&stored));
        } else {
            record.people.insert(stored.entry.annotator.clone(), Arc::clone(&stored));
        }
        self.n_entries += 1;
        self.submissions.insert(stored.entry.submission.clone(), Arc::clone(&stored));
        stored
    }

    /// The entry of a submission that was stored before.
    #[must_use]
    pub fn submission(&self, id: &str) -> Option<&Arc<Stored>> {
        self.submissions.get(id)
    }
}

/// The answers to an item by question.
///
/// # Errors
/// When one does not fit, or is of no question about the item.
pub(crate) fn read_answers(
    answers: &BTreeMap<String, Value>,
    item: &Item,
    config: &AnnotateConfig,
) -> Result<BTreeMap<String, Answer>, AnswerProblem> {
    let n_responses = item.responses.len();
    let asked: Vec<_> = config.question.iter().filter(|question| question.applies(n_responses)).collect();
    if let Some((name, value)) =
        answers.iter().find(|(name, _)| asked.iter().all(|known| known.name != **name))
    {
        let names: Vec<&str> = asked.iter().map(|question| question.name.as_str()).collect();
        let expected = format!("an answer to a question about this item: {}", names.join(", "));
        return Err(AnswerProblem::new(name, value, expected));
    }
    let mut read = BTreeMap::new();
    for question in asked {
        if let Some(value) = answers.get(&question.name) {
            read.insert(question.name.clone(), Answer::read(question, &item.responses, value)?);
        }
    }
    Ok(read)
}

/// The first required question about an item that has no answer.
pub(crate) fn missing_answer(
    answers: &BTreeMap<String, Answer>,
    item: &Item,
    config: &AnnotateConfig,
) -> Option<AnswerProblem> {
    let n_responses = item.responses.len();
    let is_missing = |question: &&crate::Question| {
        question.required && question.applies(n_responses) && !answers.contains_key(&question.name)
    };
    let question = config.question.iter().find(is_missing)?;
    Some(AnswerProblem::new(&question.name, &Value::Null, "an answer: the question is required"))
}
