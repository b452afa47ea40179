//! A project at work: who gets which item, and what becomes of a submission.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand_chacha::rand_core::Rng as _;
use serde::Deserialize;
use serde_json::{Value, json};
use truing_client::Clock;
use truing_run::checks::require;
use truing_store::{Digest, InputFile, RunDirectory, RunInputs, StoreError};
use truing_types::{Seed, counted};

use crate::AnnotateError;
use crate::answer_problem::AnswerProblem;
use crate::config::AnnotateConfig;
use crate::item::{Item, ItemKind, Items};
use crate::journal::{Entry, EntryKind, Journal};
use crate::people::{MakeToken, NewLink, People, Person, Role};
use crate::records::{ItemRecord, Records, Stored, missing_answer, read_answers};
use crate::shown_ids::ShownIds;
use crate::state::{Annotator, State, key_of};

/// The journal, in the project's folder. Everything else is made of it.
pub const JOURNAL: &str = "annotations.jsonl";
/// The stage in the inputs of a project's folder.
const STAGE: &str = "annotate";
/// Longest name that a browser may give a submission, in bytes.
const MAX_SUBMISSION: usize = 100;

/// A project that is being served. Its folder is locked.
pub struct Project {
    config: AnnotateConfig,
    items: Items,
    people: People,
    shown_ids: ShownIds,
    guidelines: String,
    clock: Arc<dyn Clock>,
    folder: RunDirectory,
    state: Mutex<State>,
}

/// A project with what the person who starts it should know.
pub struct OpenedProject {
    /// The project.
    pub project: Project,
    /// Links that were made now; [`Project::keep_links`] keeps them.
    pub links: Vec<NewLink>,
    /// What was found in the journal.
    pub warnings: Vec<String>,
}

/// What a browser sends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The browser's own name for it; a second one of the same name is a replay.
    pub submission: String,
    /// The item.
    pub item: String,
    /// Digest of the item as it was shown.
    pub item_digest: Digest,
    /// Version of the answer that was shown, 0 for none.
    pub version: u64,
    /// Leave the item to others.
    #[serde(default)]
    pub skip: bool,
    /// Answers by question.
    #[serde(default)]
    pub answers: BTreeMap<String, Value>,
    /// The order in which the responses were shown.
    pub order: Vec<usize>,
    /// When the item was shown, in milliseconds since 1970.
    pub started_ms: u64,
    /// When it was submitted, in milliseconds since 1970.
    pub finished_ms: u64,
}

/// A request that a person may not make, or a submission that is not stored.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such item, or none that this person may see.
    #[error("there is no item `{0}` for you")]
    UnknownItem(String),
    /// The data has changed.
    #[error("the item is another one than was shown; load it again")]
    OtherItem,
    /// Another tab or adjudicator was first.
    #[error("another answer was stored since this one was begun")]
    Stale(Option<Value>),
    /// An answer that does not fit.
    #[error(transparent)]
    Invalid(#[from] AnswerProblem),
    /// Not what this person is here for.
    #[error("this link does not allow it")]
    NotAllowed,
    /// The disk.
    #[error(transparent)]
    Failed(Box<AnnotateError>),
}

impl From<AnnotateError> for Refusal {
    fn from(error: AnnotateError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl Project {
    /// Opens the project of a recipe, or begins it: reads items and journal and locks the folder. `renew` names people
    /// whose links are made again.
    ///
    /// # Errors
    /// When a setting, item or line of the journal is wrong, the folder is in use or of something else, or the disk
    /// fails.
    pub fn open(
        config: AnnotateConfig,
        renew: &[String],
        make_token: MakeToken<'_>,
        clock: Arc<dyn Clock>,
    ) -> Result<OpenedProject, AnnotateError> {
        config.check()?;
        let items = Items::load(&config)?;
        let guidelines = config.guidelines.as_deref().map(read_text).transpose()?.unwrap_or_default();
        let record = inputs(&config, &items)?;
        let recipe = config.to_toml();
        // Everything that can be wrong is found before a file of an earlier start is replaced.
        let begun = RunDirectory::open_begun(&config.output_dir, &[])?;
        if let Some(folder) = &begun {
            require_project(folder)?;
        }
        let (people, links) = People::open(&config, &config.output_dir, renew, make_token)?;
        let is_new = begun.is_none();
        let folder = match begun {
            Some(folder) => folder,
            None => RunDirectory::create(&config.output_dir, &recipe, &record)?,
        };
        let path = folder.path().join(JOURNAL);
        let opened = Journal::open(&path)?;
        let n_cut_bytes = opened.n_cut_bytes;
        let records = Records::replay(opened.entries, &items, &config, &path)?;
        let shown_ids = ShownIds::open(&items, folder.path(), make_token)?;
        if !is_new {
            folder.write_inputs(&record)?;
            folder.write_recipe(&recipe)?;
        }
        let warnings = warnings(n_cut_bytes, &records, &path);
        let state = Mutex::new(State::new(opened.journal, records, &items, &config));
        let project = Self { config, items, people, shown_ids, guidelines, clock, folder, state };
        Ok(OpenedProject { project, links, warnings })
    }

    /// Keeps the links that were made at this start, once they were shown: those that were not are made again.
    ///
    /// # Errors
    /// When their digests cannot be written.
    pub fn keep_links(&self) -> Result<(), AnnotateError> {
        self.people.keep(self.folder.path())
    }

    /// The recipe.
    #[must_use]
    pub fn config(&self) -> &AnnotateConfig {
        &self.config
    }

    /// The items.
    #[must_use]
    pub fn items(&self) -> &Items {
        &self.items
    }

    /// The name of an item in the pages, by its place in [`Items::all`].
    #[must_use]
    pub fn shown_id(&self, idx: usize) -> &str {
        self.shown_ids.name(idx)
    }

    /// The place of an item by its name in the pages, or in the data.
    fn index_of(&self, id: &str) -> Option<usize> {
        self.shown_ids.index_of(id).or_else(|| self.items.index_of(id))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The clock, with the wish to stop.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Whose token it is.
    #[must_use]
    pub fn person(&self, token: &str) -> Option<&Person> {
        self.people.find(token)
    }

    /// The entries that hold, and how many entries there are.
    #[must_use]
    pub fn snapshot(&self) -> (Vec<ItemRecord>, usize) {
        let state = self.lock();
        (state.records.by_item.clone(), state.records.n_entries)
    }

    /// Entries in the journal.
    #[must_use]
    pub fn n_entries(&self) -> usize {
        self.lock().records.n_entries
    }

    /// The state stays whole when a thread panics: it changes only after everything that can fail.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a page shows beside items: who is there, what is asked, the guidelines.
    #[must_use]
    pub fn session(&self, person: &Person) -> Value {
        let mut questions = Vec::new();
        for question in &self.config.question {
            let mut described = serde_json::to_value(question).unwrap_or_default();
            described["labels"] = json!(question.labels());
            questions.push(described);
        }
        // Browsers keep what is not sent by project: another one may be served at the same address later.
        let folder = self.folder.path().to_string_lossy();
        json!({
            "project": Digest::of_bytes(folder.as_bytes()),
            "name": person.name,
            "role": person.role,
            "title": self.config.title,
            "guidelines": self.guidelines,
            "questions": questions,
            "progress": self.progress(&self.lock(), person),
        })
    }

    fn progress(&self, state: &State, person: &Person) -> Value {
        match person.role {
            Role::Annotator => {
                let Annotator { n_answered, n_skipped, .. } = state.annotators[person.idx];
                let mut progress = json!({"answered": n_answered, "skipped": n_skipped});
                // A number that stays as it is would tell that an item was a known one.
                if self.config.gold.is_none() && self.config.attention.is_none() {
                    progress["open"] = json!(state.assignment.n_open(person.idx));
                }
                progress
            }
            Role::Adjudicator | Role::Owner => json!({"open": state.disputed.len()}),
        }
    }

    /// The next item of a person, `item` null where there is none. It is theirs for the time of a lease.
    ///
    /// # Errors
    /// When the person gets no items.
    pub fn next(&self, person: &Person) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let now = self.clock.elapsed();
        let item = match person.role {
            Role::Annotator => state.next_of_annotator(person, now, &self.config),
            Role::Adjudicator => state.next_of_adjudicator(person.idx, now, self.lease_time()),
            Role::Owner => return Err(Refusal::NotAllowed),
        };
        let shown = item.map(|item| self.shown(&state, person, item));
        Ok(json!({"item": shown, "progress": self.progress(&state, person)}))
    }

    /// An item that a person answered before.
    ///
    /// # Errors
    /// When it is none of theirs.
    pub fn item(&self, person: &Person, id: &str) -> Result<Value, Refusal> {
        let state = self.lock();
        let unknown = || Refusal::UnknownItem(id.to_owned());
        let item = self.index_of(id).ok_or_else(unknown)?;
        let record = &state.records.by_item[item];
        let is_own = match person.role {
            Role::Annotator => record.people.contains_key(&person.name),
            Role::Adjudicator => record.adjudication.is_some() || state.disputed.contains(&item),
            Role::Owner => false,
        };
        let shown = is_own.then(|| self.shown(&state, person, item)).ok_or_else(unknown)?;
        Ok(json!({"item": shown, "progress": self.progress(&state, person)}))
    }

    /// Stores a submission. When it returns, the answer is on the disk. A replay returns what was stored.
    ///
    /// # Errors
    /// When it does not fit the item, or another answer was stored since; nothing is stored then.
    pub fn submit(&self, person: &Person, submission: &Submission) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let found = self.index_of(&submission.item);
        if let Some(stored) = state.records.submission(&submission.submission) {
            let is_same_item = found.is_some_and(|idx| self.items.all[idx].id == stored.entry.item);
            if stored.entry.annotator != person.name || !is_same_item {
                let value = json!(submission.submission);
                return Err(
                    AnswerProblem::new("submission", &value, "a name that no other submission has").into()
                );
            }
            return Ok(self.acknowledgement(&state, person, submission, stored));
        }
        let unknown = || Refusal::UnknownItem(submission.item.clone());
        let idx = found.ok_or_else(unknown)?;
        let item = &self.items.all[idx];
        if item.digest != submission.item_digest {
            return Err(Refusal::OtherItem);
        }
        let kind = match person.role {
            Role::Annotator if submission.skip => EntryKind::Skip,
            Role::Annotator => EntryKind::Answer,
            Role::Adjudicator if !submission.skip && item.kind == ItemKind::Plain => EntryKind::Adjudication,
            Role::Adjudicator | Role::Owner => return Err(Refusal::NotAllowed),
        };
        let before = state.records.by_item[idx].of(&person.name, kind == EntryKind::Adjudication).cloned();
        let version = before.as_ref().map_or(0, |stored| stored.entry.version);
        if version != submission.version {
            return Err(Refusal::Stale(before.map(|stored| for_page(submission, &stored))));
        }
        let stored = self.read(person, submission, item, kind, version + 1)?;
        state.journal.append(&stored.entry)?;
        let stored = state.take(person, idx, stored, &self.items, &self.config);
        Ok(self.acknowledgement(&state, person, submission, &stored))
    }

    /// The entry of a submission, everything checked.
    fn read(
        &self,
        person: &Person,
        submission: &Submission,
        item: &Item,
        kind: EntryKind,
        version: u64,
    ) -> Result<Stored, AnswerProblem> {
        let name = &submission.submission;
        if name.is_empty() || name.len() > MAX_SUBMISSION {
            let expected = format!("a name of 1 to {MAX_SUBMISSION} bytes");
            return Err(AnswerProblem::new("submission", &json!(name), expected));
        }
        let mut places = submission.order.clone();
        places.sort_unstable();
        if !places.into_iter().eq(0..item.responses.len()) {
            let expected = "the numbers of all responses, each once";
            return Err(AnswerProblem::new("order", &json!(submission.order), expected));
        }
        if kind == EntryKind::Skip && !submission.answers.is_empty() {
            return Err(AnswerProblem::new("answers", &json!(submission.answers), "nothing beside `skip`"));
        }
        let answers = read_answers(&submission.answers, item, &self.config)?;
        if kind != EntryKind::Skip
            && let Some(problem) = missing_answer(&answers, item, &self.config)
        {
            return Err(problem);
        }
        let entry = Entry {
            submission: name.clone(),
            annotator: person.name.clone(),
            item: item.id.clone(),
            item_digest: item.digest,
            version,
            kind,
            answers: answers.iter().map(|(name, answer)| (name.clone(), answer.to_json())).collect(),
            order: submission.order.clone(),
            started_ms: submission.started_ms,
            finished_ms: submission.finished_ms,
            stored_unix_secs: self.clock.unix_secs(),
        };
        Ok(Stored { entry, answers })
    }

    fn acknowledgement(
        &self,
        state: &State,
        person: &Person,
        submission: &Submission,
        stored: &Stored,
    ) -> Value {
        json!({"stored": for_page(submission, stored), "progress": self.progress(state, person)})
    }

    fn lease_time(&self) -> Duration {
        Duration::from_secs(self.config.lease_secs)
    }

    /// An item as a page shows it. It does not say whether its answers are known.
    fn shown(&self, state: &State, person: &Person, idx: usize) -> Value {
        let (item, record) = (&self.items.all[idx], &state.records.by_item[idx]);
        let is_adjudicator = person.role == Role::Adjudicator;
        let stored = record.of(&person.name, is_adjudicator);
        let order = self.order(item, person);
        let response = |&index: &usize| {
            let response = &item.responses[index];
            json!({"index": index, "text": response.text, "digest": response.digest})
        };
        let n_responses = item.responses.len();
        let asked = self.config.question.iter().filter(|question| question.applies(n_responses));
        // Without names, and in an order that says nothing about them.
        let mut others: Vec<&Arc<Stored>> =
            if is_adjudicator { record.answers().collect() } else { Vec::new() };
        others.sort_by_key(|stored| key_of(&stored.entry.submission));
        json!({
            "item": self.shown_id(idx),
            "item_digest": item.digest,
            "version": stored.map_or(0, |stored| stored.entry.version),
            "prompt": item.prompt.messages,
            "tools": item.prompt.tools,
            "responses": order.iter().map(response).collect::<Vec<_>>(),
            "labels": item.columns.get("labels"),
            "review": item.columns.get("review"),
            "questions": asked.map(|question| question.name.as_str()).collect::<Vec<_>>(),
            "answers": stored.map(|stored| &stored.entry.answers),
            "others": others.iter().map(|stored| &stored.entry.answers).collect::<Vec<_>>(),
        })
    }

    /// The order in which a person sees the responses: always the same for one person and item.
    fn order(&self, item: &Item, person: &Person) -> Vec<usize> {
        let mut order: Vec<usize> = (0..item.responses.len()).collect();
        if self.config.shuffle_responses {
            let keys = [key_of(&item.id), key_of(&person.name)];
            let mut generator = Seed(self.config.seed).generator("order of responses", &keys);
            order.sort_by_cached_key(|_| generator.next_u64());
        }
        order
    }
}

/// An entry as it is sent to a page: the item has its public id.
fn for_page(submission: &Submission, stored: &Stored) -> Value {
    let mut entry = json!(stored.entry);
    entry["item"] = json!(submission.item);
    entry
}

/// What whoever starts the project should know of its journal.
fn warnings(n_cut_bytes: u64, records: &Records, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    if n_cut_bytes > 0 {
        warnings.push(format!(
            "{}: {} after the last whole line were cut off: an answer that was not acknowledged; its browser sends it \
             again",
            path.display(),
            counted(n_cut_bytes, "byte", "bytes")
        ));
    }
    warnings.extend(records.stray_warning());
    warnings
}

pub(crate) fn read_text(path: &Path) -> Result<String, AnnotateError> {
    Ok(fs::read_to_string(path).map_err(StoreError::io("read", path))?)
}

/// Refuses the folder of a run of another stage.
fn require_project(folder: &RunDirectory) -> Result<(), AnnotateError> {
    let stage = folder.inputs()?.stage;
    require(stage.as_deref() == Some(STAGE), || {
        let stage = stage.as_deref().unwrap_or("unknown");
        let found = format!("{}, a run of stage `{stage}`", folder.path().display());
        ("output_dir", found, "a new folder, or that of an annotation project")
    })?;
    Ok(())
}

/// Versions, seed and digests of the files of a project.
fn inputs(config: &AnnotateConfig, items: &Items) -> Result<RunInputs, AnnotateError> {
    let mut files = items.files()?;
    if let Some(path) = &config.guidelines {
        files.push(InputFile::of("guidelines", path)?);
    }
    Ok(RunInputs {
        stage: Some(STAGE.to_owned()),
        versions: [("truing".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
        seeds: [("run".to_owned(), config.seed)].into(),
        files,
    })
}
