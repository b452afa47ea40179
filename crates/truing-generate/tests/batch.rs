//! Many completions side by side.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use truing_generate::{
    DecodingLoop, DecodingOptions, Finished, GenerateError, Job, SampleRequest, SampledCompletion,
    SampledIds, excluded_tokens, sample,
};
use truing_model::DecodingWeights;
use truing_text::{SpecialTokens, Tokenizer};
use truing_types::{ExcludedTokens, FinishReason, SamplingOptions, TokenId};

use crate::parrot::{Parrot, one_hot};

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../truing-text/tests/fixtures/tiny"))
        .unwrap()
}

fn request(prompt: &[TokenId], n_samples: usize, row: u64) -> SampleRequest {
    SampleRequest { prompt: prompt.to_vec(), n_samples, seed_indices: vec![row] }
}

/// Logits that depend on everything so far, with token 0 ending about one in eight.
fn babbler() -> Parrot {
    Parrot::new(60, |so_far| {
        let mixed = so_far.iter().fold(7_u32, |sum, &token| sum.wrapping_mul(31).wrapping_add(token));
        let mut logits: Vec<f32> =
            (0..400_u32).map(|token| (mixed.wrapping_mul(token + 3) % 97) as f32 / 40.0).collect();
        logits[0] = 4.5;
        logits
    })
}

fn at_most(max_batch: usize) -> DecodingOptions {
    DecodingOptions { max_batch, weights: DecodingWeights::F32, shares_beginnings: false }
}

fn draw(
    requests: &[SampleRequest],
    max_batch: usize,
    options: &SamplingOptions,
) -> Vec<Vec<SampledCompletion>> {
    let mut order = Vec::new();
    let ids = SampledIds { end: &[0], excluded: &ExcludedTokens::none() };
    let drawn =
        sample(&mut babbler(), &tokenizer(), requests, options, ids, at_most(max_batch), &mut |i, j, _| {
            order.push((i, j));
            ControlFlow::Continue(())
        });
    let drawn = drawn.unwrap().unwrap();
    order.sort_unstable();
    let expected: Vec<(usize, usize)> =
        requests.iter().enumerate().flat_map(|(i, r)| (0..r.n_samples).map(move |j| (i, j))).collect();
    assert_eq!(order, expected, "each is told once");
    drawn
}

#[test]
fn the_same_tokens_whatever_runs_beside() {
    let options =
        SamplingOptions { max_new_tokens: 30, temperature: 1.0, top_p: 0.95, seed: 5, ..Default::default() };
    let requests =
        [request(&[5, 6], 4, 1), request(&[9], 0, 2), request(&[7, 8, 9], 3, 3), request(&[5, 6], 4, 4)];
    let all = draw(&requests, 1, &options);
    for max_batch in [2, 3, 8, 100] {
        assert_eq!(draw(&requests, max_batch, &options), all);
    }
    assert_eq!(draw(&requests[2..3], 2, &options)[0], all[2], "alone as among others");
    assert_eq!(all[1], []);
    let first: Vec<&[TokenId]> = all[0].iter().map(|completion| &completion.tokens[..]).collect();
    assert!(first.iter().enumerate().all(|(i, a)| first[..i].iter().all(|b| a != b)), "a group differs");
    assert_ne!(all[0], all[3], "other indices draw other tokens");
    for completion in all.iter().flatten() {
        assert_eq!(completion.tokens.len(), completion.log_probs.len());
        assert_eq!(completion.tokens.len(), completion.sampling_log_probs.len());
        assert!(completion.sampling_log_probs.iter().zip(&completion.log_probs).all(|(s, l)| s >= l));
        let has_end = completion.tokens.last() == Some(&0);
        assert_eq!(completion.finish_reason == FinishReason::EndOfTurn, has_end);
        assert!(has_end || completion.tokens.len() == 30);
    }
}

#[test]
fn a_prompt_is_read_once_for_its_group() {
    let mut parrot = Parrot::saying(100, 40, vec![11, 12, 0]);
    let requests = [request(&[3; 40], 8, 0)];
    let ids = SampledIds { end: &[0], excluded: &ExcludedTokens::none() };
    let drawn = sample(
        &mut parrot,
        &tokenizer(),
        &requests,
        &SamplingOptions::default(),
        ids,
        at_most(8),
        &mut |_, _, _| ControlFlow::Continue(()),
    );
    assert!(drawn.unwrap().unwrap()[0].iter().all(|completion| completion.tokens == [11, 12, 0]));
    assert_eq!(parrot.n_read, 40 + 8 * 2);
}

#[test]
fn stop_texts_cut_the_text_and_leave_the_tokens() {
    let tokenizer = tokenizer();
    let answer = tokenizer.encode("one two STOP three", SpecialTokens::Parse).unwrap();
    let n = answer.len();
    let mut parrot = Parrot::saying(100, 1, answer.clone());
    let options = SamplingOptions { stop: vec!["STOP".into()], ..Default::default() };
    let ids = SampledIds { end: &[0], excluded: &ExcludedTokens::none() };
    let drawn =
        sample(&mut parrot, &tokenizer, &[request(&[3], 1, 0)], &options, ids, at_most(4), &mut |_, _, _| {
            ControlFlow::Continue(())
        });
    let completion = drawn.unwrap().unwrap().remove(0).remove(0);
    assert_eq!((completion.text.as_str(), completion.finish_reason), ("one two ", FinishReason::StopText));
    assert!(completion.tokens.len() < n && answer.starts_with(&completion.tokens));
}

#[test]
fn prompts_without_room_are_refused_and_breaking_off_gives_nothing() {
    let tokenizer = tokenizer();
    let run = |prompt: &[TokenId], flow: ControlFlow<()>| {
        let mut parrot = Parrot::new(10, |_| one_hot(4));
        let options = SamplingOptions { max_new_tokens: 3, ..Default::default() };
        let ids = SampledIds { end: &[0], excluded: &ExcludedTokens::none() };
        sample(
            &mut parrot,
            &tokenizer,
            &[request(prompt, 2, 0)],
            &options,
            ids,
            at_most(4),
            &mut |_, _, _| flow,
        )
    };
    assert!(matches!(run(&[], ControlFlow::Continue(())), Err(GenerateError::EmptyPrompt)));
    let full = run(&[1; 10], ControlFlow::Continue(()));
    assert!(matches!(full, Err(GenerateError::ContextOverflow { n_prompt_tokens: 10, context_length: 10 })));
    assert_eq!(run(&[1], ControlFlow::Break(())).unwrap(), None);
    // The end of the context ends a completion as a limit does.
    let at_end = run(&[1; 9], ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!((at_end[0][0].tokens.len(), at_end[0][0].finish_reason), (1, FinishReason::Length));
}

/// A head with more rows than the tokenizer has tokens, as Qwen's: the rows past them are the most likely ones.
fn padded_babbler(n_rows: usize) -> Parrot {
    Parrot::new(60, move |so_far| {
        let mixed = so_far.iter().fold(7_u32, |sum, &token| sum.wrapping_mul(31).wrapping_add(token));
        let mut logits: Vec<f32> =
            (0..400_u32).map(|token| (mixed.wrapping_mul(token + 3) % 97) as f32 / 40.0).collect();
        logits[0] = 4.5;
        logits.resize(n_rows, 9.0);
        logits
    })
    .with_rows(n_rows)
}

#[test]
fn rows_without_a_token_are_sampled_as_if_the_head_did_not_have_them() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocab_size(), 400);
    let excluded = excluded_tokens(&tokenizer, 437, &[0]);
    assert_eq!(excluded.ranges(), std::slice::from_ref(&(400..437)));
    let requests = [request(&[5, 6], 6, 1), request(&[7, 8, 9], 6, 3)];
    let plain = SamplingOptions { max_new_tokens: 30, temperature: 1.0, seed: 5, ..Default::default() };
    for options in [
        plain.clone(),
        SamplingOptions { temperature: 0.0, ..plain.clone() },
        SamplingOptions { temperature: 0.0, repetition_penalty: 1.5, ..plain.clone() },
        SamplingOptions { temperature: 1.4, top_k: 7, ..plain.clone() },
        SamplingOptions { top_k: 420, ..plain.clone() },
        SamplingOptions { top_p: 0.8, min_p: 0.01, repetition_penalty: 1.2, ..plain },
    ] {
        let go_on = &mut |_, _, _: &_| ControlFlow::Continue(());
        let ids = SampledIds { end: &[0], excluded: &excluded };
        let drawn = sample(&mut padded_babbler(437), &tokenizer, &requests, &options, ids, at_most(3), go_on);
        let drawn = drawn.unwrap().unwrap();
        assert!(drawn.iter().flatten().all(|one| one.tokens.iter().all(|&token| token < 400)));
        assert_eq!(drawn, draw(&requests, 3, &options), "{options:?}");
    }
}

#[test]
fn an_end_token_that_the_tokenizer_lacks_still_ends_a_completion() {
    let tokenizer = tokenizer();
    let excluded = excluded_tokens(&tokenizer, 437, &[410]);
    assert_eq!(excluded.ranges(), [400..410, 411..437]);
    let mut parrot = Parrot::new(60, |_| {
        let mut logits = vec![0.0; 437];
        logits[410] = 30.0;
        logits
    })
    .with_rows(437);
    let go_on = &mut |_, _, _: &_| ControlFlow::Continue(());
    let ids = SampledIds { end: &[410], excluded: &excluded };
    let drawn = sample(
        &mut parrot,
        &tokenizer,
        &[request(&[3], 1, 0)],
        &SamplingOptions::default(),
        ids,
        at_most(1),
        go_on,
    );
    let one = drawn.unwrap().unwrap().remove(0).remove(0);
    assert_eq!((one.tokens, one.finish_reason), (vec![410], FinishReason::EndOfTurn));
    assert_eq!(one.text_error, None);
}

/// The guard behind the mask: a token without text costs its completion the text, and no other completion anything.
#[test]
fn a_token_without_text_ends_its_completion_and_not_the_others() {
    let go_on = &mut |_, _, _: &_| ControlFlow::Continue(());
    let ids = SampledIds { end: &[0], excluded: &ExcludedTokens::none() };
    let mut parrot = Parrot::new(60, |so_far| {
        let mut logits = vec![0.0; 437];
        // The second request runs into a row that has no token.
        logits[if so_far.starts_with(&[9]) && so_far.len() == 3 { 410 } else { 50 }] = 30.0;
        logits
    })
    .with_rows(437);
    let options = SamplingOptions { max_new_tokens: 5, ..Default::default() };
    let requests = [request(&[5], 2, 1), request(&[9], 2, 2)];
    let drawn =
        sample(&mut parrot, &tokenizer(), &requests, &options, ids, at_most(3), go_on).unwrap().unwrap();
    for one in &drawn[0] {
        assert_eq!((one.tokens.len(), &one.text_error), (5, &None));
    }
    for one in &drawn[1] {
        assert_eq!((&one.tokens[..], one.finish_reason), (&[50, 50, 410][..], FinishReason::Cancelled));
        assert_eq!(one.log_probs.len(), 3);
        assert_eq!(one.text_error.as_deref(), Some("token 410 is outside the vocabulary of 400"));
    }
}

/// Jobs that arrive while others run get what they get alone, and a job that is cancelled leaves nothing behind.
#[test]
fn jobs_can_be_admitted_and_cancelled_while_others_run() {
    let options = SamplingOptions { max_new_tokens: 12, temperature: 1.0, seed: 5, ..Default::default() };
    let requests: Vec<_> = (0..6_u32).map(|i| request(&[3, 7 + i], 2, u64::from(i))).collect();
    let alone = draw(&requests, 1, &options);
    let (tokenizer, excluded) = (tokenizer(), ExcludedTokens::none());
    let ids = SampledIds { end: &[0], excluded: &excluded };
    let mut engine = babbler();
    let mut decoding = DecodingLoop::new(&tokenizer, ids, at_most(3));
    assert!(decoding.is_idle());
    let options = Arc::new(options);
    let job = |request: &SampleRequest| Job {
        prompt: request.prompt.clone(),
        n_samples: request.n_samples,
        options: Arc::clone(&options),
        seed_indices: Some(request.seed_indices.clone()),
    };
    let (mut found, mut next) = (Vec::new(), 0);
    while next < requests.len() || !decoding.is_idle() {
        if next < requests.len() {
            assert_eq!(decoding.admit(job(&requests[next])), next);
            next += 1;
            if next == 3 {
                decoding.cancel(1);
            }
        }
        found.extend(decoding.step(&mut engine).unwrap());
    }
    found.sort_by_key(|finished| (finished.job_idx, finished.sample_idx));
    let expected: Vec<_> = (0..6).filter(|job| *job != 1).flat_map(|job| [(job, 0), (job, 1)]).collect();
    let indices: Vec<_> = found.iter().map(|one| (one.job_idx, one.sample_idx)).collect();
    assert_eq!(indices, expected, "all but the cancelled job");
    for Finished { job_idx, sample_idx, result } in found {
        assert_eq!(result.unwrap(), alone[job_idx][sample_idx], "job {job_idx}, completion {sample_idx}");
    }
}
