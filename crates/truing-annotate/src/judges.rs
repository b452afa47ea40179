//! How the judges of the data compare with people: where items carry scores of judges or models, or labels.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use truing_statistics::{Agreement, Bootstrap, BootstrapEstimate, agreement, spearman};

use crate::config::{AnnotationType, Question};
use crate::consensus::{mean_ranks, mean_scores, voted_labels};
use crate::item::Item;
use crate::records::Stored;

/// An item with what people said of it.
pub(crate) type Judged<'a> = (&'a Item, Vec<&'a Arc<Stored>>);

/// How the judges of the data compare with people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeCalibration {
    /// The question that people answered.
    pub question: String,
    /// Which of two responses is better, or which label holds: judge against people, with Cohen's kappa.
    pub agreement: Option<Agreement>,
    /// Spearman's correlation of the judges' scores with the mean ratings of people.
    pub rank_correlation: Option<BootstrapEstimate>,
}

impl JudgeCalibration {
    /// The judges' scores or labels of the data against a question; `None` where there are none. Of more than `n_most`
    /// items a sample is resampled.
    pub(crate) fn of(
        question: &Question,
        judged: &[Judged<'_>],
        bootstrap: Bootstrap,
        n_most: usize,
    ) -> Option<Self> {
        let mut found = Self { question: question.name.clone(), agreement: None, rank_correlation: None };
        match question.annotation_type {
            AnnotationType::Ranking | AnnotationType::Pairwise => {
                let pairs = judged.iter().flat_map(|(item, stored)| judged_pairs(item, stored, question));
                found.agreement = agreement(pairs);
            }
            AnnotationType::Label => {
                let pairs = judged.iter().filter_map(|(item, stored)| judged_label(item, stored, question));
                found.agreement = agreement(pairs);
            }
            AnnotationType::Scale => {
                let rated = judged.iter().filter_map(|(item, stored)| judged_ratings(item, stored, question));
                let rated: Vec<Vec<(f64, f64)>> = rated.collect();
                found.rank_correlation = bootstrap.estimate_of_many(rated.len(), n_most, |drawn| {
                    let (judge, people): (Vec<f64>, Vec<f64>) =
                        drawn.iter().flat_map(|&item| rated[item].iter().copied()).unzip();
                    spearman(&judge, &people)
                });
            }
            AnnotationType::Spans | AnnotationType::Edit => {}
        }
        (found.agreement.is_some() || found.rank_correlation.is_some()).then_some(found)
    }
}

/// For each pair of responses: 0 if the first is better, 1 for a tie, 2 if the second is.
pub(crate) fn orders_of_pairs<Rank: PartialOrd>(ranks: &[Rank]) -> Vec<usize> {
    let mut orders = Vec::new();
    for (idx, one) in ranks.iter().enumerate() {
        for other in &ranks[idx + 1..] {
            orders.push(if one < other { 0 } else { 1 + usize::from(one > other) });
        }
    }
    orders
}

/// What judge and people say of each pair of responses of an item. Nothing where a response has no score.
fn judged_pairs(item: &Item, stored: &[&Arc<Stored>], question: &Question) -> Vec<(usize, usize)> {
    let scores: Option<Vec<f64>> =
        item.responses.iter().map(|response| response.score.map(|score| -score)).collect();
    match (scores, mean_ranks(stored, question)) {
        (Some(scores), Some(ranks)) => {
            orders_of_pairs(&scores).into_iter().zip(orders_of_pairs(&ranks)).collect()
        }
        _ => Vec::new(),
    }
}

/// The judges' label of an item, and that of people.
fn judged_label(
    item: &Item,
    stored: &[&Arc<Stored>],
    question: &Question,
) -> Option<(Vec<String>, Vec<String>)> {
    let labels = match item.columns.get("labels")?.get(&question.name)? {
        Value::String(label) => vec![label.clone()],
        Value::Array(labels) => labels.iter().filter_map(|label| label.as_str().map(str::to_owned)).collect(),
        _ => return None,
    };
    let mut voted = voted_labels(stored, question)?;
    let mut labels: Vec<String> = labels;
    labels.sort();
    voted.sort();
    Some((labels, voted))
}

/// The judges' score and the mean rating over aspects of each response that has a score.
fn judged_ratings(item: &Item, stored: &[&Arc<Stored>], question: &Question) -> Option<Vec<(f64, f64)>> {
    let means = mean_scores(stored, question)?;
    let scored =
        item.responses.iter().zip(means).filter_map(|(response, mean)| Some((response.score?, mean)));
    let scored: Vec<(f64, f64)> = scored.collect();
    (!scored.is_empty()).then_some(scored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_responses_are_in_order_tied_or_reversed() {
        assert_eq!(orders_of_pairs(&[1_u32, 2, 2]), [0, 0, 1]);
        assert_eq!(orders_of_pairs(&[2.5, 1.0, -1.0]), [2, 2, 2]);
        assert!(orders_of_pairs(&[1_u32]).is_empty());
    }
}
