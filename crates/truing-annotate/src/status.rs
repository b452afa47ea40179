//! What the owner sees: progress, people, agreement with its uncertainty, and how the judges compare with people.

use std::collections::BTreeMap;

use serde::Serialize;
use truing_statistics::{
    Bootstrap, BootstrapEstimate, Level, dawid_skene, kendall_w, krippendorff_alpha, quantile, sample_of,
};
use truing_types::Seed;

use crate::answer::Answer;
use crate::config::{AnnotateConfig, AnnotationType, Question};
use crate::consensus::{agree, deciding, f1_of_spans, is_disputed, order_of};
use crate::item::{Item, ItemKind, Items};
use crate::journal::EntryKind;
use crate::judges::{JudgeCalibration, Judged, orders_of_pairs};
use crate::records::{ItemRecord, Stored};

/// Most items that the resamples of an interval are sampled from.
const MAX_RESAMPLED: usize = 1_000;
/// Why an agreement without pairs of answers is undefined.
const NO_TWO_ANSWERS: &str = "no item has two answers to compare";
/// Most items that the competence of annotators is estimated from.
const MAX_MODELLED: usize = 5_000;

/// A project in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// How far the work is.
    pub progress: Progress,
    /// The annotators in the order of the recipe, then those who have answered and are no longer in it.
    pub annotators: Vec<AnnotatorStatus>,
    /// Agreement by question.
    pub agreement: Vec<Measured>,
    /// The judges, where items carry their scores or labels.
    pub judges: Vec<JudgeCalibration>,
    /// Gold items and attention checks that two or more annotators, and most of all, answered otherwise than expected:
    /// what is expected may be wrong.
    pub doubtful_items: Vec<String>,
    /// Width of an interval that is aimed at.
    pub target_interval: f64,
}

/// How far the work is. Gold items and attention checks are no items here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// Items.
    pub n_items: usize,
    /// Items with at least one answer.
    pub n_started: usize,
    /// Items whose rows are written: as many answers as wanted and no dispute that waits, or a decision.
    pub n_complete: usize,
    /// Items that cannot become complete: too many of the annotators have left them to others.
    pub n_need_annotator: usize,
    /// Items that wait for an adjudicator.
    pub n_disputed: usize,
    /// Items that an adjudicator has decided.
    pub n_adjudicated: usize,
    /// Answers of annotators.
    pub n_answers: usize,
    /// Items that an annotator left to others.
    pub n_skips: usize,
}

/// One annotator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnnotatorStatus {
    /// Name.
    pub name: String,
    /// Whether the recipe no longer has them. Their answers count all the same.
    pub has_left: bool,
    /// Items answered, known ones included.
    pub n_answers: usize,
    /// Items left to others.
    pub n_skips: usize,
    /// Gold items answered.
    pub n_gold: usize,
    /// Of these, how many as known.
    pub n_gold_right: usize,
    /// Attention checks answered.
    pub n_attention: usize,
    /// Of these, how many otherwise than known.
    pub n_attention_failed: usize,
    /// Median time of an item, by the browser's clock.
    pub median_secs: Option<f64>,
    /// Probability to give the true answer, by the model of Dawid and Skene (1979), averaged over the questions with
    /// classes (labels, ratings, preferences between two responses).
    pub competence: Option<f64>,
}

/// The agreement of annotators on a question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The question.
    pub question: String,
    /// The aspect of a scale.
    pub aspect: Option<String>,
    /// What is measured.
    pub statistic: &'static str,
    /// Its value with a 95 % bootstrap interval by item; `None` where it is undefined.
    pub estimate: Option<BootstrapEstimate>,
    /// Why it is undefined.
    pub undefined: Option<&'static str>,
    /// Items that the interval is computed from: all of them, or a random sample.
    pub n_resampled: usize,
    /// Items beyond today's that the interval needs to be as narrow as is aimed at.
    pub n_further_items: Option<usize>,
}

impl Status {
    /// Measures a project; `records` are in the order of the items.
    #[must_use]
    pub fn of(items: &Items, records: &[ItemRecord], config: &AnnotateConfig) -> Self {
        let measuring = Measuring::new(items, records, config);
        let mut measured = Vec::new();
        let mut judges = Vec::new();
        let judged = measuring.judged();
        for question in &config.question {
            measured.extend(measuring.agreement(question));
            judges.extend(JudgeCalibration::of(question, &judged, measuring.bootstrap(), MAX_RESAMPLED));
        }
        Self {
            progress: progress(items, records, config),
            annotators: measuring.annotators(),
            agreement: measured,
            judges,
            doubtful_items: measuring.doubtful_items(),
            target_interval: config.target_interval,
        }
    }
}

fn progress(items: &Items, records: &[ItemRecord], config: &AnnotateConfig) -> Progress {
    let mut progress = Progress { n_items: items.n_plain, ..Progress::default() };
    for (item, record) in items.all[..items.n_plain].iter().zip(records) {
        let n_answers = record.answers().count();
        let is_decided = record.adjudication.is_some();
        progress.n_answers += n_answers;
        progress.n_skips += record.people.len() - n_answers;
        progress.n_started += usize::from(n_answers > 0);
        progress.n_adjudicated += usize::from(is_decided);
        progress.n_complete += usize::from(deciding(item, record, config).is_some());
        let is_seen = |name: &str| record.people.contains_key(name);
        let n_unseen = config.annotator.iter().filter(|person| !is_seen(&person.name)).count();
        progress.n_need_annotator += usize::from(!is_decided && n_answers + n_unseen < config.overlap);
        let waits = !config.adjudicator.is_empty() && is_disputed(item, record, config);
        progress.n_disputed += usize::from(waits);
    }
    progress
}

/// The answers to be measured.
struct Measuring<'a> {
    items: &'a Items,
    records: &'a [ItemRecord],
    config: &'a AnnotateConfig,
    /// Numbers of all who answered: those of the recipe in its order, then others.
    raters: BTreeMap<&'a str, usize>,
}

/// An item with the answers to one question, by rater.
type Answered<'a> = (&'a Item, Vec<(usize, &'a Answer)>);
/// The ratings of the units of an item: `[unit][rater]`.
type Ratings = Vec<Vec<Option<f64>>>;

impl<'a> Measuring<'a> {
    fn new(items: &'a Items, records: &'a [ItemRecord], config: &'a AnnotateConfig) -> Self {
        let mut raters: BTreeMap<&str, usize> =
            config.annotator.iter().enumerate().map(|(idx, person)| (person.name.as_str(), idx)).collect();
        for name in records.iter().flat_map(|record| record.people.keys()) {
            let next = raters.len();
            raters.entry(name).or_insert(next);
        }
        Self { items, records, config, raters }
    }

    /// Items to be annotated with at least `n_least` answers to a question.
    fn answered(&self, question: &Question, n_least: usize) -> Vec<Answered<'a>> {
        let mut found = Vec::new();
        for (item, record) in self.items.all[..self.items.n_plain].iter().zip(self.records) {
            let of_question = record.answers().filter_map(|stored| {
                let answer = stored.answers.get(&question.name)?;
                Some((self.raters[stored.entry.annotator.as_str()], answer))
            });
            let answers: Vec<_> = of_question.collect();
            if answers.len() >= n_least {
                found.push((item, answers));
            }
        }
        found
    }

    fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            n_resamples: self.config.n_resamples,
            seed: Seed(self.config.seed),
            ..Bootstrap::default()
        }
    }

    fn measured(
        &self,
        question: &Question,
        statistic: &'static str,
        n_measured: usize,
        estimate: Option<BootstrapEstimate>,
        why_undefined: &'static str,
    ) -> Measured {
        // The target is the width, labels_needed asks for its half.
        let n_further_items =
            estimate.and_then(|found| found.labels_needed(self.config.target_interval / 2.0));
        Measured {
            question: question.name.clone(),
            aspect: None,
            statistic,
            estimate,
            undefined: estimate.is_none().then_some(why_undefined),
            n_resampled: n_measured.min(MAX_RESAMPLED),
            n_further_items,
        }
    }

    /// The statistics of agreement that a question has.
    fn agreement(&self, question: &Question) -> Vec<Measured> {
        let answered = self.answered(question, 2);
        match question.annotation_type {
            AnnotationType::Ranking | AnnotationType::Pairwise => {
                let ranks = |answer: &Answer| match answer {
                    // Mid-ranks: 1, 1, 3 and 1, 1, 2 say the same.
                    Answer::Ranking(ranks) => order_of(ranks),
                    _ => Vec::new(),
                };
                vec![self.alpha(question, &answered, &ranks), self.concordance(question, &answered, &ranks)]
            }
            AnnotationType::Scale => {
                let of_aspect = |aspect: String| {
                    let points = |answer: &Answer| match answer {
                        Answer::Scale(ratings) => {
                            let points = ratings.get(&aspect).map_or(&[][..], Vec::as_slice);
                            points.iter().map(|&point| point as f64).collect::<Vec<_>>()
                        }
                        _ => Vec::new(),
                    };
                    let found = self.alpha(question, &answered, &points);
                    Measured { aspect: Some(aspect), ..found }
                };
                question.labels().into_iter().map(of_aspect).collect()
            }
            AnnotationType::Label => {
                let classes = classes_of_labels(&answered);
                let class = |answer: &Answer| match answer {
                    Answer::Label(labels) => vec![classes[labels] as f64],
                    _ => Vec::new(),
                };
                vec![self.alpha(question, &answered, &class)]
            }
            AnnotationType::Spans => vec![self.span_f1(question, &answered)],
            AnnotationType::Edit => Vec::new(),
        }
    }

    /// Krippendorff's alpha of the numbers of each answer; the bootstrap samples whole items.
    fn alpha(
        &self,
        question: &Question,
        answered: &[Answered<'_>],
        numbers: &dyn Fn(&Answer) -> Vec<f64>,
    ) -> Measured {
        let n_raters = self.raters.len();
        let of_item = |(_, answers): &Answered<'_>| {
            let rated: Vec<(usize, Vec<f64>)> =
                answers.iter().map(|(rater, answer)| (*rater, numbers(answer))).collect();
            let n_units = rated.iter().map(|(_, numbers)| numbers.len()).max().unwrap_or(0);
            let mut units: Ratings = vec![vec![None; n_raters]; n_units];
            for (rater, numbers) in rated {
                numbers.into_iter().zip(&mut units).for_each(|(number, unit)| unit[rater] = Some(number));
            }
            units
        };
        let ratings: Vec<Ratings> = answered.iter().map(of_item).collect();
        let level = question.level();
        let estimate = self.bootstrap().estimate_of_many(ratings.len(), MAX_RESAMPLED, |drawn| {
            let units: Vec<&Vec<Option<f64>>> = drawn.iter().flat_map(|&item| &ratings[item]).collect();
            krippendorff_alpha(&units, level)
        });
        let statistic = match level {
            Level::Nominal => "Krippendorff's alpha, nominal",
            Level::Ordinal => "Krippendorff's alpha, ordinal",
            Level::Interval => "Krippendorff's alpha, interval",
        };
        let why = if ratings.is_empty() { NO_TWO_ANSWERS } else { "all answers are equal" };
        self.measured(question, statistic, ratings.len(), estimate, why)
    }

    /// The mean over items of Kendall's W.
    fn concordance(
        &self,
        question: &Question,
        answered: &[Answered<'_>],
        ranks: &dyn Fn(&Answer) -> Vec<f64>,
    ) -> Measured {
        let of_item = |(_, answers): &Answered<'_>| {
            let by_rater: Vec<Vec<f64>> = answers.iter().map(|(_, answer)| ranks(answer)).collect();
            kendall_w(&by_rater)
        };
        let values: Vec<f64> = answered.iter().filter_map(of_item).collect();
        // An item where nobody prefers any response to another has no W.
        let why = if answered.is_empty() { NO_TWO_ANSWERS } else { "every ranking ties all responses" };
        self.mean(question, "Kendall's W, mean over items", &values, why)
    }

    /// The mean over items of the F1 of marked characters, averaged over pairs of annotators.
    fn span_f1(&self, question: &Question, answered: &[Answered<'_>]) -> Measured {
        let of_item = |(item, answers): &Answered<'_>| {
            let mut scores = Vec::new();
            for (idx, (_, one)) in answers.iter().enumerate() {
                for (_, other) in &answers[idx + 1..] {
                    if let (Answer::Spans(one), Answer::Spans(other)) = (one, other) {
                        scores.push(f1_of_spans(item, one, other));
                    }
                }
            }
            scores.iter().sum::<f64>() / scores.len() as f64
        };
        let values: Vec<f64> = answered.iter().map(of_item).collect();
        self.mean(question, "F1 of marked characters", &values, NO_TWO_ANSWERS)
    }

    fn mean(
        &self,
        question: &Question,
        statistic: &'static str,
        values: &[f64],
        why_undefined: &'static str,
    ) -> Measured {
        let of_drawn = |drawn: &[usize]| mean(values, drawn);
        let estimate = self.bootstrap().estimate_of_many(values.len(), MAX_RESAMPLED, of_drawn);
        self.measured(question, statistic, values.len(), estimate, why_undefined)
    }

    /// Votes on classes by unit, of a question that has classes, and how many classes there are. Of many items a
    /// sample.
    fn votes(&self, question: &Question) -> (Vec<Vec<(usize, usize)>>, usize) {
        let answered = self.answered(question, 2);
        let classes = classes_of_labels(&answered);
        let mut votes = Vec::new();
        for idx in sample_of(Seed(self.config.seed), answered.len(), MAX_MODELLED) {
            let answers = &answered[idx].1;
            let of_answer = |answer: &Answer| match answer {
                Answer::Label(labels) => vec![classes[labels]],
                Answer::Ranking(ranks) => orders_of_pairs(ranks),
                Answer::Scale(ratings) => {
                    ratings.values().flatten().map(|&point| (point - question.min) as usize).collect()
                }
                Answer::Spans(_) | Answer::Edit(_) => Vec::new(),
            };
            let by_rater: Vec<(usize, Vec<usize>)> =
                answers.iter().map(|(rater, answer)| (*rater, of_answer(answer))).collect();
            let n_units = by_rater.iter().map(|(_, classes)| classes.len()).min().unwrap_or(0);
            for unit in 0..n_units {
                votes.push(by_rater.iter().map(|(rater, classes)| (*rater, classes[unit])).collect());
            }
        }
        let n_classes = match question.annotation_type {
            AnnotationType::Ranking | AnnotationType::Pairwise => 3,
            AnnotationType::Scale => (question.max - question.min + 1) as usize,
            _ => classes.len(),
        };
        (votes, n_classes)
    }

    /// The competence of each rater, averaged over the questions on which they have votes beside others.
    fn competence(&self) -> Vec<Option<f64>> {
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); self.raters.len()];
        for question in &self.config.question {
            let (votes, n_classes) = self.votes(question);
            if votes.is_empty() || n_classes < 2 {
                continue;
            }
            let model = dawid_skene(&votes, self.raters.len(), n_classes);
            for (rater, of_rater) in found.iter_mut().enumerate() {
                if votes.iter().flatten().any(|&(voter, _)| voter == rater) {
                    of_rater.push(model.competence(rater));
                }
            }
        }
        let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        found.iter().map(|values| (!values.is_empty()).then(|| mean(values))).collect()
    }

    fn annotators(&self) -> Vec<AnnotatorStatus> {
        let competence = self.competence();
        let mut all = Vec::new();
        let mut named: Vec<(&str, usize)> = self.raters.iter().map(|(name, idx)| (*name, *idx)).collect();
        named.sort_by_key(|(_, idx)| *idx);
        for (name, idx) in named {
            let mut status = AnnotatorStatus {
                name: name.to_owned(),
                has_left: idx >= self.config.annotator.len(),
                n_answers: 0,
                n_skips: 0,
                n_gold: 0,
                n_gold_right: 0,
                n_attention: 0,
                n_attention_failed: 0,
                median_secs: None,
                competence: competence[idx],
            };
            let mut secs = Vec::new();
            for (item, record) in self.items.all.iter().zip(self.records) {
                if let Some(stored) = record.people.get(name) {
                    status.count(item, stored, self.config, &mut secs);
                }
            }
            secs.sort_by(f64::total_cmp);
            status.median_secs = quantile(&secs, 0.5);
            all.push(status);
        }
        all
    }

    fn doubtful_items(&self) -> Vec<String> {
        let is_doubtful = |(item, record): &(&Item, &ItemRecord)| {
            let n_wrong =
                record.answers().filter(|stored| !is_as_expected(item, stored, self.config)).count();
            n_wrong >= 2 && 2 * n_wrong > record.answers().count()
        };
        let known = self.items.all.iter().zip(self.records).skip(self.items.n_plain);
        known.filter(is_doubtful).map(|(item, _)| item.id.clone()).collect()
    }

    /// The answers to the items to be annotated, or the decisions about them.
    fn judged(&self) -> Vec<Judged<'a>> {
        let mut judged = Vec::new();
        for (item, record) in self.items.all[..self.items.n_plain].iter().zip(self.records) {
            let stored: Vec<_> = match &record.adjudication {
                Some(decision) => vec![decision],
                None => record.answers().collect(),
            };
            judged.push((item, stored));
        }
        judged
    }
}

impl AnnotatorStatus {
    /// Counts an entry of the annotator.
    fn count(&mut self, item: &Item, stored: &Stored, config: &AnnotateConfig, secs: &mut Vec<f64>) {
        if stored.entry.kind != EntryKind::Answer {
            self.n_skips += 1;
            return;
        }
        self.n_answers += 1;
        let milliseconds = stored.entry.finished_ms.saturating_sub(stored.entry.started_ms);
        secs.push(milliseconds as f64 / 1e3);
        let is_right = is_as_expected(item, stored, config);
        match item.kind {
            ItemKind::Plain => {}
            ItemKind::Gold => {
                self.n_gold += 1;
                self.n_gold_right += usize::from(is_right);
            }
            ItemKind::Attention => {
                self.n_attention += 1;
                self.n_attention_failed += usize::from(!is_right);
            }
        }
    }
}

/// Whether the answers to a known item are those that are expected.
fn is_as_expected(item: &Item, stored: &Stored, config: &AnnotateConfig) -> bool {
    item.expected.iter().all(|(question, expected)| {
        let said = stored.answers.get(question);
        said.is_some_and(|said| agree(item, said, expected, &config.adjudication))
    })
}

fn mean(values: &[f64], drawn: &[usize]) -> Option<f64> {
    (!drawn.is_empty()).then(|| drawn.iter().map(|&idx| values[idx]).sum::<f64>() / drawn.len() as f64)
}

/// A number for each set of labels that was given.
fn classes_of_labels<'a>(answered: &[Answered<'a>]) -> BTreeMap<&'a Vec<String>, usize> {
    let mut classes = BTreeMap::new();
    for (_, answer) in answered.iter().flat_map(|(_, answers)| answers) {
        if let Answer::Label(labels) = answer {
            let next = classes.len();
            classes.entry(labels).or_insert(next);
        }
    }
    classes
}
