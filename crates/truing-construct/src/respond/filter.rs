//! Near-duplicates among the responses to one prompt.

use truing_prompts::rouge::{RougeTokenizer, RougeVocabulary, rouge_l};

use super::candidate::{Candidate, Fate};

/// Drops each response whose ROUGE-L F1 with an earlier one that is kept is above `max_rouge_l`, in the order of
/// sampling. The dropped one names the kept one that it is most like. Equal texts have an F1 of 1, those without a word
/// too.
pub(super) fn drop_near_duplicates(candidates: &mut [Candidate], max_rouge_l: f64) {
    if max_rouge_l >= 1.0 {
        return;
    }
    let mut vocabulary = RougeVocabulary::new(RougeTokenizer::Words);
    let tokens: Vec<Vec<u32>> =
        candidates.iter().map(|candidate| vocabulary.tokens(&candidate.content)).collect();
    let mut kept: Vec<usize> = Vec::new();
    for idx in 0..candidates.len() {
        if !candidates[idx].is_usable() {
            continue;
        }
        let f1_with = |&other: &usize| match candidates[other].content == candidates[idx].content {
            true => 1.0,
            false => rouge_l(&tokens[other], &tokens[idx]).f1,
        };
        let mut nearest: Option<(usize, f64)> = None;
        for other in &kept {
            let f1 = f1_with(other);
            if nearest.is_none_or(|(_, most)| f1 > most) {
                nearest = Some((*other, f1));
            }
        }
        match nearest.filter(|(_, f1)| *f1 > max_rouge_l) {
            Some((other, f1)) => {
                let candidate = &mut candidates[idx];
                candidate.fate = Fate::NearDuplicate;
                (candidate.duplicate_of, candidate.rouge_l) = (Some(other), Some(f1));
            }
            None => kept.push(idx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::candidate::usable;

    fn dropped(texts: &[&str], max_rouge_l: f64) -> Vec<Option<(usize, f64)>> {
        let mut candidates: Vec<Candidate> = texts.iter().map(|text| usable(text, None)).collect();
        candidates[0].fate = Fate::Cut;
        drop_near_duplicates(&mut candidates, max_rouge_l);
        let of = |candidate: &Candidate| {
            assert_eq!(candidate.duplicate_of.is_some(), candidate.fate == Fate::NearDuplicate);
            candidate.duplicate_of.zip(candidate.rouge_l)
        };
        candidates.iter().map(of).collect()
    }

    #[test]
    fn the_first_is_kept_and_named_and_what_was_dropped_drops_nothing() {
        let texts = [
            "a b c d",
            "a b c d",
            "A, b: c d!",
            "a b c x",
            "x y z",
            "今天天气好",
            "今天天气很好",
            "🙂",
            "🙂",
            "!!",
        ];
        assert_eq!(
            dropped(&texts, 0.7),
            [
                None,
                None,
                Some((1, 1.0)),
                Some((1, 0.75)),
                None,
                None,
                Some((5, 10.0 / 11.0)),
                None,
                Some((7, 1.0)),
                None,
            ],
            "the one that was cut is not compared"
        );
        assert_eq!(dropped(&texts, 0.8)[3], None, "0.75 is not above it");
        assert_eq!(dropped(&texts, 1.0), [None; 10]);
    }
}
