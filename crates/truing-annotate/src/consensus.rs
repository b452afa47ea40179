//! What the answers of several people to one item come to: whether they disagree, and their joint answer.
//!
//! The decision of an adjudicator is final. Without one, ranks and ratings are averaged, and labels need more votes
//! than any other; edits stand side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use truing_statistics::{Span, SpanOverlap, ranks, span_overlap};

use crate::answer::{Answer, MarkedSpan};
use crate::config::{Adjudication, AnnotateConfig, Question};
use crate::item::Item;
use crate::records::{ItemRecord, Stored};

/// The entries that an item's outputs are made of: the decision of the adjudicators, or else all answers where there
/// are as many as the recipe wants. `None` where the item is not complete, or waits for an adjudicator.
#[must_use]
pub fn deciding<'a>(
    item: &Item,
    record: &'a ItemRecord,
    config: &AnnotateConfig,
) -> Option<Vec<&'a Arc<Stored>>> {
    if let Some(decision) = &record.adjudication {
        return Some(vec![decision]);
    }
    let answers: Vec<_> = record.answers().collect();
    let is_complete = answers.len() >= config.overlap;
    let waits = !config.adjudicator.is_empty() && disagrees(item, &answers, config);
    (is_complete && !waits).then_some(answers)
}

/// Whether an adjudicator has to decide.
#[must_use]
pub fn is_disputed(item: &Item, record: &ItemRecord, config: &AnnotateConfig) -> bool {
    let answers: Vec<_> = record.answers().collect();
    record.adjudication.is_none() && answers.len() >= config.overlap && disagrees(item, &answers, config)
}

fn disagrees(item: &Item, answers: &[&Arc<Stored>], config: &AnnotateConfig) -> bool {
    config.question.iter().any(|question| {
        let of_question: Vec<&Answer> = answers_to(answers, question).collect();
        let differs = |(idx, one): (usize, &&Answer)| {
            of_question[idx + 1..].iter().any(|other| !agree(item, one, other, &config.adjudication))
        };
        of_question.iter().enumerate().any(differs)
    })
}

/// The answers to one question.
pub(crate) fn answers_to<'a>(
    stored: &'a [&'a Arc<Stored>],
    question: &Question,
) -> impl Iterator<Item = &'a Answer> + use<'a> {
    let name = question.name.clone();
    stored.iter().filter_map(move |stored| stored.answers.get(&name))
}

/// Whether two answers to a question are the same, but for differences that are no disagreement. Edits never disagree.
#[must_use]
pub fn agree(item: &Item, one: &Answer, other: &Answer, limits: &Adjudication) -> bool {
    match (one, other) {
        (Answer::Ranking(one), Answer::Ranking(other)) => order_of(one) == order_of(other),
        (Answer::Scale(one), Answer::Scale(other)) => one.iter().all(|(aspect, points)| {
            let others = other.get(aspect).map_or(&[][..], Vec::as_slice);
            points.iter().zip(others).all(|(a, b)| (a - b).abs() <= limits.max_scale_difference)
        }),
        (Answer::Spans(one), Answer::Spans(other)) => f1_of_spans(item, one, other) >= limits.min_span_f1,
        (Answer::Label(one), Answer::Label(other)) => one == other,
        _ => true,
    }
}

/// What a ranking says of the order alone: mid-ranks from 0.
pub(crate) fn order_of(given: &[u32]) -> Vec<f64> {
    ranks(&given.iter().map(|&rank| f64::from(rank)).collect::<Vec<_>>())
}

/// The F1 of the marked characters of two annotators, over all responses of an item.
pub(crate) fn f1_of_spans(item: &Item, one: &[MarkedSpan], other: &[MarkedSpan]) -> f64 {
    let mut kinds: Vec<&str> = one.iter().chain(other).map(|span| span.label.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let of_response = |spans: &[MarkedSpan], idx: usize| {
        let text = &item.responses[idx].text;
        let n_characters = |byte: usize| text[..byte].chars().count();
        let in_characters = |span: &MarkedSpan| Span {
            start: n_characters(span.start),
            end: n_characters(span.end),
            label: kinds.iter().position(|kind| *kind == span.label).unwrap_or(0) as u32,
        };
        spans.iter().filter(|span| span.response == idx).map(in_characters).collect::<Vec<_>>()
    };
    let overlaps =
        (0..item.responses.len()).map(|idx| span_overlap(&of_response(one, idx), &of_response(other, idx)));
    overlaps.sum::<SpanOverlap>().f1()
}

/// The mean rank of each response, 1 the best; ties of an annotator share their mean rank. `None` without a ranking.
#[must_use]
pub fn mean_ranks(stored: &[&Arc<Stored>], question: &Question) -> Option<Vec<f64>> {
    let orders = answers_to(stored, question).filter_map(|answer| match answer {
        Answer::Ranking(given) => Some(order_of(given)),
        _ => None,
    });
    Some(mean_of(orders)?.into_iter().map(|rank| rank + 1.0).collect())
}

/// The mean rating of each response, by aspect. Empty without a rating.
#[must_use]
pub fn mean_ratings(stored: &[&Arc<Stored>], question: &Question) -> BTreeMap<String, Vec<f64>> {
    let mut means = BTreeMap::new();
    for aspect in question.labels() {
        let ratings = answers_to(stored, question).filter_map(|answer| match answer {
            Answer::Scale(ratings) => Some(ratings.get(&aspect)?.iter().map(|&point| point as f64).collect()),
            _ => None,
        });
        if let Some(mean) = mean_of(ratings) {
            means.insert(aspect, mean);
        }
    }
    means
}

/// The labels that more people gave than any others; `None` without one, or where several have as many votes.
#[must_use]
pub fn voted_labels(stored: &[&Arc<Stored>], question: &Question) -> Option<Vec<String>> {
    let mut votes: BTreeMap<&Vec<String>, usize> = BTreeMap::new();
    for answer in answers_to(stored, question) {
        if let Answer::Label(labels) = answer {
            *votes.entry(labels).or_default() += 1;
        }
    }
    let most = votes.values().copied().max()?;
    let mut winners = votes.into_iter().filter(|&(_, n)| n == most);
    let (labels, _) = winners.next()?;
    winners.next().is_none().then(|| labels.clone())
}

/// The mean of lists of one length, place by place.
fn mean_of(lists: impl Iterator<Item = Vec<f64>>) -> Option<Vec<f64>> {
    let mut n = 0_usize;
    let mut sums: Option<Vec<f64>> = None;
    for list in lists {
        n += 1;
        match &mut sums {
            None => sums = Some(list),
            Some(sums) => sums.iter_mut().zip(list).for_each(|(sum, value)| *sum += value),
        }
    }
    Some(sums?.into_iter().map(|sum| sum / n as f64).collect())
}
