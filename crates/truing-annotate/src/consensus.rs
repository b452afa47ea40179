//! What the answers of several people to one item come to: whether they disagree, and their joint answer.
//!
//! The decision of an adjudicator is final; where it has no edit, the edits of the annotators stand. Without one, ranks
//! and ratings are averaged, and labels need more votes than any other; edits stand side by side.

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
pub(crate) fn deciding<'a>(
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
pub(crate) fn is_disputed(item: &Item, record: &ItemRecord, config: &AnnotateConfig) -> bool {
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
pub(crate) fn agree(item: &Item, one: &Answer, other: &Answer, limits: &Adjudication) -> bool {
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
pub(crate) fn mean_ranks(stored: &[&Arc<Stored>], question: &Question) -> Option<Vec<f64>> {
    let orders = answers_to(stored, question).filter_map(|answer| match answer {
        Answer::Ranking(given) => Some(order_of(given)),
        _ => None,
    });
    Some(mean_of(orders)?.into_iter().map(|rank| rank + 1.0).collect())
}

/// The mean rating of each response, by aspect. Empty without a rating.
#[must_use]
pub(crate) fn mean_ratings(stored: &[&Arc<Stored>], question: &Question) -> BTreeMap<String, Vec<f64>> {
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

/// The mean rating of each response over annotators and aspects. `None` without a rating.
///
/// The points are whole numbers and are summed before the one division, so that equal sums have equal means.
#[must_use]
pub(crate) fn mean_scores(stored: &[&Arc<Stored>], question: &Question) -> Option<Vec<f64>> {
    let mut lists: Vec<Vec<f64>> = Vec::new();
    for answer in answers_to(stored, question) {
        if let Answer::Scale(ratings) = answer {
            for points in ratings.values() {
                lists.push(points.iter().map(|&point| point as f64).collect());
            }
        }
    }
    mean_of(lists.into_iter())
}

/// The rank of each score, 1 the highest; equal scores share their mean rank.
#[must_use]
pub(crate) fn ranks_of_scores(scores: &[f64]) -> Vec<f64> {
    let negated: Vec<f64> = scores.iter().map(|score| -score).collect();
    ranks(&negated).into_iter().map(|rank| rank + 1.0).collect()
}

/// The labels that more people gave than any others; `None` without one, or where several have as many votes.
#[must_use]
pub(crate) fn voted_labels(stored: &[&Arc<Stored>], question: &Question) -> Option<Vec<String>> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use truing_store::Digest;
    use truing_types::{Conversation, Message, PromptRow, Role, RowOrigin};

    use super::*;
    use crate::config::PersonConfig;
    use crate::item::ItemKind;
    use crate::journal::{Entry, EntryKind};
    use crate::records::read_answers;

    /// A project with one question, an item with three responses, and what two or more people said of it.
    struct Said {
        config: AnnotateConfig,
        item: Item,
        record: ItemRecord,
    }

    fn said(question: serde_json::Value, answers: &[serde_json::Value]) -> Said {
        let question: Question = serde_json::from_value(question).unwrap();
        let person = |name: &str| PersonConfig { name: name.into(), token: None };
        let adjudicator = vec![person("eve")];
        let config = AnnotateConfig { question: vec![question], adjudicator, ..AnnotateConfig::default() };
        let row = json!({"responses": ["abcdef", "桥很长", "x"]});
        let prompt = Conversation { messages: vec![Message::new(Role::User, "?")], tools: Vec::new() };
        let row = PromptRow { prompt, columns: row.as_object().unwrap().clone() };
        let origin = RowOrigin { source: "items.jsonl".into(), line: 1 };
        let item = Item::of_row(row, origin, ItemKind::Plain, &config).unwrap();
        let mut record = ItemRecord::default();
        for (idx, answer) in answers.iter().enumerate() {
            let entry = Entry {
                submission: idx.to_string(),
                annotator: idx.to_string(),
                item: item.id.clone(),
                item_digest: Digest::of_bytes(b""),
                version: 1,
                kind: EntryKind::Answer,
                answers: [("q".to_owned(), answer.clone())].into(),
                order: vec![0, 1, 2],
                started_ms: 0,
                finished_ms: 0,
                stored_unix_secs: 0.0,
            };
            let answers = read_answers(&entry.answers, &item, &config).unwrap();
            record.people.insert(entry.annotator.clone(), Arc::new(Stored { entry, answers }));
        }
        Said { config, item, record }
    }

    impl Said {
        fn is_disputed(&self) -> bool {
            is_disputed(&self.item, &self.record, &self.config)
        }

        fn answers(&self) -> Vec<&Arc<Stored>> {
            self.record.answers().collect()
        }

        fn question(&self) -> &Question {
            &self.config.question[0]
        }
    }

    #[test]
    fn rankings_agree_by_order_and_are_averaged() {
        let question = || json!({"name": "q", "annotation_type": "ranking"});
        let ranks = |ranks: [u32; 3]| json!({ "ranks": ranks });
        assert!(!said(question(), &[ranks([1, 2, 2]), ranks([1, 3, 3])]).is_disputed());
        let found = said(question(), &[ranks([1, 2, 3]), ranks([1, 2, 2])]);
        assert!(found.is_disputed());
        // 1, 2 and 3 beside 1, 2.5 and 2.5.
        assert_eq!(mean_ranks(&found.answers(), found.question()), Some(vec![1.0, 2.25, 2.75]));
        // One answer of two is not complete, and two that differ wait for the adjudicator.
        let one = said(question(), &[ranks([1, 2, 3])]);
        assert!(!one.is_disputed() && deciding(&one.item, &one.record, &one.config).is_none());
        assert!(deciding(&found.item, &found.record, &found.config).is_none());
        let mut without = said(question(), &[ranks([1, 2, 3]), ranks([1, 2, 2])]);
        without.config.adjudicator.clear();
        let deciding = deciding(&without.item, &without.record, &without.config);
        assert_eq!(deciding.map(|stored| stored.len()), Some(2));
    }

    #[test]
    fn ratings_may_differ_by_the_limit() {
        let question = || json!({"name": "q", "annotation_type": "scale", "labels": ["x"]});
        let rate = |points: [i64; 3]| json!({"ratings": {"x": points}});
        let found = said(question(), &[rate([1, 3, 5]), rate([2, 2, 5])]);
        assert!(!found.is_disputed());
        assert_eq!(mean_ratings(&found.answers(), found.question())["x"], [1.5, 2.5, 5.0]);
        assert!(said(question(), &[rate([1, 3, 5]), rate([3, 3, 5])]).is_disputed());
    }

    #[test]
    fn equal_sums_of_ratings_are_equal_means_and_share_their_rank() {
        let question = json!({"name": "q", "annotation_type": "scale", "labels": ["x", "y", "z"]});
        let rate = |x: [i64; 3], y: [i64; 3], z: [i64; 3]| json!({"ratings": {"x": x, "y": y, "z": z}});
        // Sums by aspect: (3, 4, 7) of the first response, (3, 7, 4) of the second, (3, 3, 3) of the third.
        let one = || rate([1, 1, 1], [1, 2, 1], [2, 1, 1]);
        let last = rate([1, 1, 1], [2, 3, 1], [3, 2, 1]);
        let found = said(question, &[one(), one(), last]);
        let scores = mean_scores(&found.answers(), found.question()).unwrap();
        assert_eq!(scores, [14.0 / 9.0, 14.0 / 9.0, 1.0]);
        assert_eq!(ranks_of_scores(&scores), [1.5, 1.5, 3.0]);
        // Means of the means by aspect differ in the last bit.
        let by_aspect = mean_ratings(&found.answers(), found.question());
        let mean = |idx: usize| by_aspect.values().map(|of| of[idx]).sum::<f64>() / 3.0;
        assert_ne!(mean(0), mean(1));
        assert_eq!(mean_scores(&[], found.question()), None);
    }

    #[test]
    fn the_f1_of_spans_counts_characters_of_one_response_and_kind() {
        let question = || json!({"name": "q", "annotation_type": "spans"});
        let span = |response: usize, start: usize, end: usize, label: &str, text: &str| {
            let answer =
                json!({"response": response, "start": start, "end": end, "label": label, "text": text});
            json!({"spans": [answer]})
        };
        let f1 = |answers: [serde_json::Value; 2]| {
            let found = said(question(), &answers);
            let spans = found.answers();
            let of = |idx: usize| match &spans[idx].answers["q"] {
                Answer::Spans(spans) => spans.clone(),
                other => panic!("{other:?}"),
            };
            f1_of_spans(&found.item, &of(0), &of(1))
        };
        // Four and two of six letters, two of them in both.
        let four = || span(0, 0, 4, "factual", "abcd");
        assert!((f1([four(), span(0, 2, 4, "factual", "cd")]) - 2.0 / 3.0).abs() < 1e-12);
        assert!(f1([four(), span(0, 0, 4, "logical", "abcd")]).abs() < 1e-12);
        // The same offsets in another response are other characters; three bytes are one of them.
        let bridge = || span(1, 0, 3, "factual", "桥");
        assert!(f1([bridge(), span(0, 0, 3, "factual", "abc")]).abs() < 1e-12);
        assert!((f1([bridge(), span(1, 0, 6, "factual", "桥很")]) - 2.0 / 3.0).abs() < 1e-12);
        assert!((f1([json!({"spans": []}), json!({"spans": []})]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn labels_need_more_votes_than_any_other() {
        let question = || json!({"name": "q", "annotation_type": "label", "labels": ["x", "y"]});
        let voted = |labels: &[&str]| {
            let answers: Vec<_> = labels.iter().map(|label| json!({"labels": [label]})).collect();
            let found = said(question(), &answers);
            voted_labels(&found.answers(), found.question())
        };
        assert_eq!(voted(&["x", "y", "x"]), Some(vec!["x".to_owned()]));
        assert_eq!(voted(&["x", "y"]), None);
        assert_eq!(voted(&[]), None);
    }
}
