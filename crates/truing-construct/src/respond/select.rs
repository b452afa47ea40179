//! Which responses are accepted: prompt by prompt, then the share of refusals and the number of all.

use rand_chacha::rand_core::Rng;
use truing_types::Seed;

use super::candidate::{Candidate, Fate, PromptFate, PromptWork};
use super::config::{RespondConfig, Selection};

/// Selects among the responses to one prompt. Where scores are equal, the first in the order of sampling is better.
pub(super) fn select_in_prompt(config: &RespondConfig, work: &mut PromptWork) {
    let is_partial = work.is_partial();
    work.pass_rate = pass_rate(work, config.pass_reward).filter(|_| !is_partial);
    let has_scores = !config.rewards().is_empty();
    let usable: Vec<usize> =
        (0..work.candidates.len()).filter(|&idx| work.candidates[idx].is_usable()).collect();
    if usable.is_empty() {
        let is_left = work.candidates.iter().any(|candidate| candidate.fate != Fate::NotSampled);
        work.fate = if is_left { PromptFate::NoResponse } else { PromptFate::NotSampled };
        return;
    }
    let is_high = |score: f64| config.max_prompt_score.is_some_and(|most| score >= most);
    // With `pass_rate` others have a score too: they are not answers, and do not decide here.
    let mut scores = usable.iter().filter_map(|&idx| work.candidates[idx].score).peekable();
    let is_answered_well = !is_partial && scores.peek().is_some() && scores.all(is_high);
    if is_answered_well {
        work.fate = PromptFate::AnsweredWell;
        usable.iter().for_each(|&idx| work.candidates[idx].fate = Fate::AnsweredWell);
        return;
    }
    if has_scores && config.select != Selection::All {
        let unscored: Vec<usize> =
            usable.iter().copied().filter(|&idx| work.candidates[idx].score.is_none()).collect();
        unscored.iter().for_each(|&idx| work.candidates[idx].fate = Fate::Unscored);
        if unscored.len() == usable.len() {
            work.fate = PromptFate::Unscored;
            return;
        }
    }
    for idx in selected(config, &work.candidates, usable) {
        work.candidates[idx].fate = Fate::Accepted;
        work.fate = PromptFate::Accepted;
    }
}

/// The places of the selected candidates among the usable ones.
fn selected(config: &RespondConfig, candidates: &[Candidate], mut usable: Vec<usize>) -> Vec<usize> {
    usable.retain(|&idx| candidates[idx].is_usable());
    let least = config.min_score.unwrap_or(f64::NEG_INFINITY);
    usable.retain(|&idx| candidates[idx].score.is_none_or(|score| score >= least));
    let n = match config.select {
        Selection::Best => 1,
        Selection::TopN => config.top_n,
        Selection::Threshold | Selection::All => return usable,
    };
    let score = |idx: &usize| candidates[*idx].score.unwrap_or(f64::NEG_INFINITY);
    // Stable: equal scores stay in the order of sampling.
    usable.sort_by(|a, b| score(b).total_cmp(&score(a)));
    usable.truncate(n);
    usable
}

/// The share of the scored responses that pass: the unbiased estimate of the chance that one does (pass@1).
fn pass_rate(work: &PromptWork, pass_reward: f64) -> Option<f64> {
    let n_passed = work.scores().filter(|&score| score >= pass_reward).count();
    let n_scored = work.scores().count();
    (n_scored > 0).then(|| n_passed as f64 / n_scored as f64)
}

/// How many of the accepted responses stay: `(answers, refusals)` of so many, with refusals at most `max_refusal_share`
/// of all that stay, and `accept` in all at most.
fn shares(
    n_answers: usize,
    n_refusals: usize,
    max_refusal_share: f64,
    accept: Option<usize>,
) -> (usize, usize) {
    // A share that was computed from whole numbers gives them again, in spite of rounding.
    let floor = |number: f64| (number + 1e-9).floor() as usize;
    let accept = accept.unwrap_or(usize::MAX);
    let answers = n_answers.min(accept);
    let beside = max_refusal_share / (1.0 - max_refusal_share) * answers as f64;
    let refusals = if beside.is_finite() { n_refusals.min(floor(beside)) } else { n_refusals };
    if answers.saturating_add(refusals) <= accept {
        return (answers, refusals);
    }
    // Where not all fit, refusals have at most the share that they have among all.
    let share = max_refusal_share.min(n_refusals as f64 / (n_answers + n_refusals) as f64);
    let refusals = refusals.min(floor(share * accept as f64));
    (accept - refusals, refusals)
}

/// Accepted responses that stay once the share of refusals and `accept` are applied.
pub(super) fn n_accepted(config: &RespondConfig, works: &[PromptWork]) -> usize {
    let accepted = || {
        let candidates = works.iter().flat_map(|work| &work.candidates);
        candidates.filter(|candidate| candidate.fate == Fate::Accepted)
    };
    let n_refusals = accepted().filter(|candidate| candidate.is_refusal).count();
    let (answers, refusals) =
        shares(accepted().count() - n_refusals, n_refusals, config.max_refusal_share, config.accept);
    answers + refusals
}

/// Drops accepted refusals beyond their share, in an order that the seed decides, and what is beyond `accept`, the last
/// ones first.
pub(super) fn limit(config: &RespondConfig, works: &mut [PromptWork]) {
    let mut answers: Vec<(usize, usize)> = Vec::new();
    let mut refusals: Vec<(usize, usize)> = Vec::new();
    for (row, work) in works.iter().enumerate() {
        for (idx, candidate) in work.candidates.iter().enumerate() {
            match (candidate.fate, candidate.is_refusal) {
                (Fate::Accepted, false) => answers.push((row, idx)),
                (Fate::Accepted, true) => refusals.push((row, idx)),
                _ => {}
            }
        }
    }
    let rank = |&(row, idx): &(usize, usize)| {
        Seed(config.seed).generator("refusals", &[row as u64, idx as u64]).next_u64()
    };
    refusals.sort_by_cached_key(rank);
    let (n_answers, n_refusals) =
        shares(answers.len(), refusals.len(), config.max_refusal_share, config.accept);
    for &(row, idx) in &answers[n_answers..] {
        works[row].candidates[idx].fate = Fate::Surplus;
    }
    for &(row, idx) in &refusals[n_refusals..] {
        works[row].candidates[idx].fate = Fate::SurplusRefusal;
    }
    for work in works.iter_mut().filter(|work| work.fate == PromptFate::Accepted) {
        if work.candidates.iter().all(|candidate| candidate.fate != Fate::Accepted) {
            work.fate = PromptFate::NoneSelected;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::candidate::usable;
    use truing_run::Recipe as _;

    fn config(overrides: &[&str]) -> RespondConfig {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let recipe = "stage = \"respond\"\n[[reward]]\nkind = { length = { at_most = 9 } }\n";
        RespondConfig::from_toml(recipe, std::path::Path::new("r.toml"), &overrides).unwrap()
    }

    fn accepted(overrides: &[&str], scores: &[Option<f64>]) -> (Vec<usize>, PromptFate) {
        let mut work = PromptWork::new(scores.iter().map(|&score| usable("x", score)).collect());
        select_in_prompt(&config(overrides), &mut work);
        let places = 0..work.candidates.len();
        (places.filter(|&idx| work.candidates[idx].fate == Fate::Accepted).collect(), work.fate)
    }

    #[test]
    fn the_best_are_selected_and_the_first_of_equal_ones() {
        let scores = [Some(1.0), None, Some(3.0), Some(2.0), Some(3.0)];
        for (overrides, expected) in [
            (["select=best", "top_n=9"], vec![2]),
            (["select=top_n", "top_n=1"], vec![2]),
            (["select=top_n", "top_n=3"], vec![2, 3, 4]),
            (["select=top_n", "top_n=9"], vec![0, 2, 3, 4]),
            (["select=top_n", "min_score=2.5"], vec![2, 4]),
            (["select=threshold", "min_score=2"], vec![2, 3, 4]),
            (["select=all", "top_n=1"], vec![0, 1, 2, 3, 4]),
            (["select=all", "min_score=2"], vec![1, 2, 3, 4]),
        ] {
            assert_eq!(accepted(&overrides, &scores), (expected, PromptFate::Accepted), "{overrides:?}");
        }
        let none = |fate| (Vec::new(), fate);
        assert_eq!(accepted(&["min_score=4"], &scores), none(PromptFate::NoneSelected));
        assert_eq!(accepted(&[], &[None, None]), none(PromptFate::Unscored), "never as if it were 0");
        let of = |fates: &[Fate]| {
            let candidate = |&fate: &Fate| Candidate { fate, ..usable("x", None) };
            let mut work = PromptWork::new(fates.iter().map(candidate).collect());
            select_in_prompt(&config(&[]), &mut work);
            work.fate
        };
        assert_eq!(of(&[Fate::Cut, Fate::NotSampled]), PromptFate::NoResponse);
        assert_eq!(of(&[Fate::NotSampled, Fate::NotSampled]), PromptFate::NotSampled);
        let well = ["max_prompt_score=1"];
        assert_eq!(accepted(&well, &[Some(1.0), None, Some(3.0)]), none(PromptFate::AnsweredWell));
        assert_eq!(accepted(&well, &[Some(0.5), Some(3.0)]).0, [1]);
        assert_eq!(accepted(&well, &[None]), none(PromptFate::Unscored), "nothing is known of it");
    }

    #[test]
    fn a_prompt_with_samples_missing_has_no_pass_rate_and_is_not_answered_well() {
        let missing = || Candidate { fate: Fate::NotSampled, ..usable("", None) };
        let select = |candidates: Vec<Candidate>| {
            let mut work = PromptWork::new(candidates);
            select_in_prompt(&config(&["max_prompt_score=1"]), &mut work);
            (work.is_partial(), work.fate, work.pass_rate)
        };
        let good = || usable("x", Some(1.0));
        assert_eq!(select(vec![good(), good()]), (false, PromptFate::AnsweredWell, Some(1.0)));
        assert_eq!(select(vec![good(), missing()]), (true, PromptFate::Accepted, None));
        let cut = |score| Candidate { fate: Fate::Cut, ..usable("x", Some(score)) };
        assert_eq!(select(vec![good(), cut(0.0)]), (false, PromptFate::AnsweredWell, Some(0.5)));
        let bad = || usable("x", Some(0.5));
        assert_eq!(select(vec![bad(), cut(1.0)]), (false, PromptFate::Accepted, Some(0.5)));
        assert_eq!(select(vec![missing(), missing()]), (false, PromptFate::NotSampled, None));
    }

    #[test]
    fn the_pass_rate_is_over_the_scored_ones() {
        let rate = |scores: &[Option<f64>]| {
            let work = PromptWork::new(scores.iter().map(|&score| usable("x", score)).collect());
            pass_rate(&work, 1.0)
        };
        assert_eq!(rate(&[Some(1.0), None, Some(0.0), Some(2.0), Some(0.99)]), Some(0.5));
        assert_eq!((rate(&[Some(0.0)]), rate(&[None])), (Some(0.0), None));
    }

    #[test]
    fn refusals_are_a_share_of_what_stays() {
        for (n, share, accept, expected) in [
            ((98, 5), 0.02, None, (98, 2)),
            ((97, 5), 0.02, None, (97, 1)),
            ((9, 3), 0.1, None, (9, 1)),
            ((0, 3), 0.5, None, (0, 0)),
            ((4, 9), 0.0, None, (4, 0)),
            ((4, 9), 1.0, None, (4, 9)),
            ((20, 9), 0.1, Some(10), (9, 1)),
            ((20, 0), 0.1, Some(10), (10, 0)),
            ((9, 9), 0.1, Some(10), (9, 1)),
            ((5, 9), 0.1, Some(10), (5, 0)),
            ((20, 20), 1.0, Some(10), (5, 5)),
            ((3, 20), 0.9, Some(10), (2, 8)),
        ] {
            let (answers, refusals) = shares(n.0, n.1, share, accept);
            assert_eq!((answers, refusals), expected, "{n:?} {share} {accept:?}");
            assert!(refusals as f64 <= share * (answers + refusals) as f64 + 1e-9);
        }
    }

    #[test]
    fn surplus_refusals_are_drawn_by_the_seed_and_the_last_answers_go_first() {
        let fates = |seed: u64, overrides: &[&str]| {
            let row = |refuses: bool| {
                PromptWork::new(vec![Candidate { is_refusal: refuses, ..usable("x", Some(1.0)) }])
            };
            let mut works: Vec<PromptWork> = (0..20).map(|i| row(i % 4 == 0)).collect();
            let config = RespondConfig { seed, ..config(overrides) };
            works.iter_mut().for_each(|work| select_in_prompt(&config, work));
            let n = n_accepted(&config, &works);
            limit(&config, &mut works);
            let fates: Vec<Fate> = works.iter().map(|work| work.candidates[0].fate).collect();
            assert_eq!(fates.iter().filter(|&&fate| fate == Fate::Accepted).count(), n);
            let of_prompts = works.iter().filter(|work| work.fate == PromptFate::Accepted).count();
            assert_eq!(of_prompts, n, "a prompt without an accepted response is not accepted");
            fates
        };
        let refusals = |fates: &[Fate]| -> Vec<usize> {
            (0..20).step_by(4).filter(|&i| fates[i] == Fate::Accepted).collect()
        };
        let drawn: Vec<Vec<usize>> =
            (0..12).map(|seed| refusals(&fates(seed, &["max_refusal_share=0.12"]))).collect();
        assert!(drawn.iter().all(|places| places.len() == 2), "{drawn:?}");
        assert!(drawn.iter().any(|places| places != &drawn[0]), "{drawn:?}");
        assert_eq!(fates(3, &["max_refusal_share=0.12"]), fates(3, &["max_refusal_share=0.12"]));
        let cut = fates(0, &["max_refusal_share=0", "accept=4"]);
        let expected = |i: usize| match (i.is_multiple_of(4), i <= 5) {
            (true, _) => Fate::SurplusRefusal,
            (false, true) => Fate::Accepted,
            (false, false) => Fate::Surplus,
        };
        assert_eq!(cut, (0..20).map(expected).collect::<Vec<_>>());
    }
}
