//! Training data made of the answers: rows of the formats that `truing sft`, `dpo`, `reward train` and `label` read.
//!
//! An item has rows once it is complete and nobody has to decide it any more. Files are replaced whole, so a reader
//! finds the old rows or the new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};
use truing_run::PromptSource;
use truing_store::{StoreError, atomic};
use truing_types::{Message, Role};

use crate::AnnotateError;
use crate::answer::{Answer, EditedResponse};
use crate::config::{AnnotateConfig, AnnotationType, Question};
use crate::consensus::{
    answers_to, deciding, mean_ranks, mean_ratings, mean_scores, ranks_of_scores, voted_labels,
};
use crate::item::{Item, Items};
use crate::records::{ItemRecord, Stored};

/// Pairs: `prompt`, `chosen`, `rejected`, with scores where people rated.
const PREFERENCES: &str = "preferences.jsonl";
/// Groups: `prompt`, `responses`, `ranks`.
const RANKED: &str = "ranked.jsonl";
/// Edited responses as `messages`.
const SFT: &str = "sft.jsonl";
/// Rows with the `labels` that people gave, as `truing label` takes them in `corrections`.
const LABELS: &str = "labels.jsonl";

/// The files that are made of the journal, in the project's folder.
pub const OUTPUTS: [&str; 4] = [PREFERENCES, RANKED, SFT, LABELS];

/// Rows written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct OutputCounts {
    /// Items with rows.
    pub n_items: usize,
    /// Pairs.
    pub n_pairs: usize,
    /// Ranked groups.
    pub n_ranked: usize,
    /// Edited responses.
    pub n_sft: usize,
    /// Rows with labels.
    pub n_labels: usize,
    /// Orders of complete items that cannot be trained on: equal texts in different ranks, or an empty text before
    /// another.
    pub n_unusable: usize,
    /// Pairs whose scores are in another order than the ranks; they have no scores.
    pub n_contradicting: usize,
    /// Complete label questions without a majority.
    pub n_tied_labels: usize,
}

/// Writes the files of the answers that hold; `records` are in the order of the items.
///
/// # Errors
/// When a file cannot be written; the one before stays.
pub fn write_outputs(
    folder: &Path,
    items: &Items,
    records: &[ItemRecord],
    config: &AnnotateConfig,
) -> Result<OutputCounts, AnnotateError> {
    let mut files = Files::new(folder, config)?;
    let mut counts = OutputCounts::default();
    for (item, record) in items.all[..items.n_plain].iter().zip(records) {
        let Some(stored) = deciding(item, record, config) else { continue };
        counts.n_items += 1;
        let rows = ItemRows { item, record, stored: &stored, config };
        rows.preferences(&mut files, &mut counts)?;
        rows.edits(&mut files, &mut counts)?;
        rows.labels(&mut files, &mut counts)?;
    }
    files.commit()?;
    Ok(counts)
}

/// The files in the making; those that no question is for are not written.
struct Files {
    folder: PathBuf,
    writers: Vec<(&'static str, atomic::Writer)>,
}

impl Files {
    fn new(folder: &Path, config: &AnnotateConfig) -> Result<Self, AnnotateError> {
        let has = |kinds: &[AnnotationType]| {
            config.question.iter().any(|question| kinds.contains(&question.annotation_type))
        };
        let orders = [AnnotationType::Ranking, AnnotationType::Pairwise, AnnotationType::Scale];
        let edits = [AnnotationType::Edit];
        let is_wanted = |name: &&str| match *name {
            PREFERENCES => has(&orders) || has(&edits),
            RANKED => has(&orders),
            SFT => has(&edits),
            _ => has(&[AnnotationType::Label]),
        };
        let writers = OUTPUTS.into_iter().filter(is_wanted);
        let writers = writers.map(|name| Ok((name, atomic::Writer::new(&folder.join(name))?)));
        let writers = writers.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Self { folder: folder.to_path_buf(), writers })
    }

    fn write(&mut self, name: &'static str, row: &Value) -> Result<(), AnnotateError> {
        if let Some((_, writer)) = self.writers.iter_mut().find(|(known, _)| *known == name) {
            let failed = |error| StoreError::io("write", self.folder.join(name))(error);
            writeln!(writer, "{row}").map_err(failed)?;
        }
        Ok(())
    }

    fn commit(self) -> Result<(), AnnotateError> {
        Ok(self.writers.into_iter().try_for_each(|(_, writer)| writer.commit())?)
    }
}

/// An item with the entries that decide it.
struct ItemRows<'a> {
    item: &'a Item,
    record: &'a ItemRecord,
    stored: &'a [&'a Arc<Stored>],
    config: &'a AnnotateConfig,
}

/// A question with the mean ratings of each response, by aspect.
type Rated<'a> = (&'a Question, BTreeMap<String, Vec<f64>>);

/// An order of the responses by one question, and the scores that are beside it.
struct Order<'a> {
    question: &'a Question,
    /// 1 the best; means may lie between.
    ranks: Vec<f64>,
    scores: Option<Vec<f64>>,
}

impl<'a> ItemRows<'a> {
    fn questions(&self, kinds: &'static [AnnotationType]) -> impl Iterator<Item = &'a Question> + use<'a> {
        let n_responses = self.item.responses.len();
        let asked = self.config.question.iter();
        asked.filter(move |question| {
            kinds.contains(&question.annotation_type) && question.applies(n_responses)
        })
    }

    /// The mean ratings of each question with ratings, by aspect.
    fn ratings(&self) -> Vec<Rated<'a>> {
        let rated = self.questions(&[AnnotationType::Scale]);
        let rated = rated.map(|question| (question, mean_ratings(self.stored, question)));
        rated.filter(|(_, ratings)| !ratings.is_empty()).collect()
    }

    /// The orders by each ranking, else by the ratings of each question. The scores beside a ranking are those of the
    /// first question with ratings.
    fn orders(&self, ratings: &[Rated<'a>]) -> Vec<Order<'a>> {
        let scores = ratings.first().and_then(|(question, _)| mean_scores(self.stored, question));
        let by_rank = |question: &'a Question| {
            let ranks = mean_ranks(self.stored, question)?;
            Some(Order { question, ranks, scores: scores.clone() })
        };
        let rankings = self.questions(&[AnnotationType::Ranking, AnnotationType::Pairwise]);
        let ranked: Vec<Order<'a>> = rankings.filter_map(by_rank).collect();
        if !ranked.is_empty() {
            return ranked;
        }
        let by_score = |&(question, _): &Rated<'a>| {
            let scores = mean_scores(self.stored, question)?;
            Some(Order { question, ranks: ranks_of_scores(&scores), scores: Some(scores) })
        };
        ratings.iter().filter_map(by_score).collect()
    }

    /// The groups and their pairs.
    fn preferences(&self, files: &mut Files, counts: &mut OutputCounts) -> Result<(), AnnotateError> {
        if self.item.responses.len() < 2 {
            return Ok(());
        }
        let ratings = self.ratings();
        for order in self.orders(&ratings) {
            if !self.can_be_learnt(&order.ranks) {
                counts.n_unusable += 1;
                continue;
            }
            files.write(RANKED, &self.group(&order, &ratings))?;
            counts.n_ranked += 1;
            self.pairs(&order, files, counts)?;
        }
        Ok(())
    }

    /// All responses with rank, scores and models. An aspect that two questions have is named with its question.
    fn group(&self, order: &Order<'_>, ratings: &[Rated<'_>]) -> Value {
        let n_with = |aspect: &String| ratings.iter().filter(|(_, of)| of.contains_key(aspect)).count();
        let mut responses = Vec::new();
        for (idx, response) in self.item.responses.iter().enumerate() {
            let mut row = json!({"content": response.text, "rank": order.ranks[idx]});
            add(&mut row, "model", response.model.as_ref());
            add(&mut row, "judge_score", response.score);
            add(&mut row, "score", order.scores.as_ref().map(|scores| scores[idx]));
            let mut by_aspect = Map::new();
            for (question, of) in ratings {
                for (aspect, points) in of {
                    let is_shared = n_with(aspect) > 1;
                    let name = if is_shared { format!("{}.{aspect}", question.name) } else { aspect.clone() };
                    by_aspect.insert(name, json!(points[idx]));
                }
            }
            add(&mut row, "scores", (!by_aspect.is_empty()).then_some(by_aspect));
            responses.push(row);
        }
        self.row(order.question, json!({"responses": responses}))
    }

    /// A pair of every two responses of different ranks.
    fn pairs(
        &self,
        order: &Order<'_>,
        files: &mut Files,
        counts: &mut OutputCounts,
    ) -> Result<(), AnnotateError> {
        for (better, chosen) in self.item.responses.iter().enumerate() {
            for (worse, rejected) in self.item.responses.iter().enumerate() {
                if order.ranks[better] >= order.ranks[worse] {
                    continue;
                }
                let mut row = self.pair(order.question, "ranking", &chosen.text, &rejected.text);
                add(&mut row, "chosen_model", chosen.model.as_ref());
                add(&mut row, "rejected_model", rejected.model.as_ref());
                let scores = order.scores.as_ref().map(|scores| (scores[better], scores[worse]));
                let contradicts = scores.is_some_and(|(chosen, rejected)| chosen < rejected);
                counts.n_contradicting += usize::from(contradicts);
                let scores = scores.filter(|_| !contradicts);
                add(&mut row, "chosen_score", scores.map(|(chosen, _)| chosen));
                add(&mut row, "rejected_score", scores.map(|(_, rejected)| rejected));
                files.write(PREFERENCES, &row)?;
                counts.n_pairs += 1;
            }
        }
        Ok(())
    }

    /// Whether no text is better than itself, and no empty text better than another.
    fn can_be_learnt(&self, ranks: &[f64]) -> bool {
        let responses = || self.item.responses.iter().zip(ranks);
        responses().all(|(one, rank)| {
            responses().all(|(other, worse)| {
                rank >= worse || (one.text != other.text && !one.text.trim().is_empty())
            })
        })
    }

    /// Each edit as a row for SFT and, where something was changed, as a pair with what it was made of.
    fn edits(&self, files: &mut Files, counts: &mut OutputCounts) -> Result<(), AnnotateError> {
        for question in self.questions(&[AnnotationType::Edit]) {
            // A decision without an edit leaves those of the annotators.
            let of_all: Vec<&Arc<Stored>> = self.record.answers().collect();
            let is_edited = answers_to(self.stored, question).next().is_some();
            let stored = if is_edited { self.stored } else { &of_all[..] };
            for one in stored {
                for answer in answers_to(std::slice::from_ref(one), question) {
                    if let Answer::Edit(edit) = answer {
                        self.edit(question, edit, &one.entry.annotator, files, counts)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn edit(
        &self,
        question: &Question,
        EditedResponse { response, text }: &EditedResponse,
        annotator: &str,
        files: &mut Files,
        counts: &mut OutputCounts,
    ) -> Result<(), AnnotateError> {
        let mut messages = self.item.prompt.messages.clone();
        // Only the edited answer is trained on.
        let of_model = messages.iter_mut().filter(|message| message.role == Role::Assistant);
        of_model.for_each(|message| message.weight = Some(0.0));
        messages.push(Message::new(Role::Assistant, text.as_str()));
        let mut row = json!({
            "id": self.item.id, "messages": messages, "question": question.name, "annotators": [annotator],
            "origin": self.origin(),
        });
        let tools = &self.item.prompt.tools;
        add(&mut row, "tools", (!tools.is_empty()).then_some(tools));
        files.write(SFT, &row)?;
        counts.n_sft += 1;
        let original = &self.item.responses[*response].text;
        if original != text {
            let mut pair = self.pair(question, "edit", text, original);
            pair["annotators"] = json!([annotator]);
            files.write(PREFERENCES, &pair)?;
            counts.n_pairs += 1;
        }
        Ok(())
    }

    /// The row with the labels that people gave; labels that they were not asked for are not in it.
    fn labels(&self, files: &mut Files, counts: &mut OutputCounts) -> Result<(), AnnotateError> {
        let mut labels = Map::new();
        let asked =
            self.config.question.iter().filter(|question| question.annotation_type == AnnotationType::Label);
        for question in asked {
            let voted = voted_labels(self.stored, question);
            let has_answers = answers_to(self.stored, question).next().is_some();
            counts.n_tied_labels += usize::from(voted.is_none() && has_answers);
            let Some(voted) = voted else { continue };
            let value = if question.multiple { json!(voted) } else { json!(voted.first()) };
            labels.insert(question.name.clone(), value);
        }
        if labels.is_empty() {
            return Ok(());
        }
        let mut row = self.item.columns.clone();
        row.remove("review");
        row.insert("labels".to_owned(), Value::Object(labels));
        files.write(LABELS, &Value::Object(row))?;
        counts.n_labels += 1;
        Ok(())
    }

    fn pair(&self, question: &Question, source: &str, chosen: &str, rejected: &str) -> Value {
        let [chosen, rejected] =
            [chosen, rejected].map(|text| json!([{"role": "assistant", "content": text}]));
        self.row(question, json!({"chosen": chosen, "rejected": rejected, "source": source}))
    }

    /// A row about the item, made of the answers to a question.
    fn row(&self, question: &Question, fields: Value) -> Value {
        let mut row =
            json!({"id": self.item.id, "prompt": self.item.prompt.messages, "question": question.name});
        let tools = &self.item.prompt.tools;
        add(&mut row, "tools", (!tools.is_empty()).then_some(tools));
        if let (Some(row), Value::Object(fields)) = (row.as_object_mut(), fields) {
            row.extend(fields);
        }
        row["n_annotators"] = json!(self.stored.len());
        row["annotators"] = json!(self.annotators());
        row["origin"] = json!(self.origin());
        row
    }

    /// The people whose answers decide the item, by the names of the recipe.
    fn annotators(&self) -> BTreeSet<&'a str> {
        self.stored.iter().map(|stored| stored.entry.annotator.as_str()).collect()
    }

    /// File and line of the item.
    fn origin(&self) -> PromptSource {
        PromptSource::of(&self.item.origin)
    }
}

/// Adds a field that there is.
fn add(row: &mut Value, key: &str, value: Option<impl Serialize>) {
    if let Some(value) = value {
        row[key] = json!(value);
    }
}
