//! Many completions side by side.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use truing_generate::{
    DecodingLoop, DecodingOptions, Finished, GenerateError, GrammarSource, Grammars, Job, PROMPT_PIECE,
    PromptReading, SampleRequest, SampledCompletion, SampledIds, TokenSampled, excluded_tokens, sample,
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
    DecodingOptions {
        max_batch,
        weights: DecodingWeights::F32,
        prompts: PromptReading::Whole,
        prompt_lookup_num_tokens: 0,
    }
}

fn draw(
    requests: &[SampleRequest],
    max_batch: usize,
    options: &SamplingOptions,
) -> Vec<Vec<SampledCompletion>> {
    let mut order = Vec::new();
    let ids = SampledIds { end: [0].into(), excluded: ExcludedTokens::none() };
    let drawn =
        sample(&mut babbler(), &tokenizer(), requests, options, &ids, at_most(max_batch), &mut |i, j, _| {
            order.push((i, j));
            ControlFlow::Continue(())
        });
    let drawn = drawn.unwrap().unwrap();
    order.sort_unstable();
    let expected: Vec<(usize, usize)> =
        requests.iter().enumerate().flat_map(|(i, r)| (0..r.n_samples).map(move |j| (i, j))).collect();
    assert_eq!(order, expected, "one event per completion");
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
    let ids = SampledIds { end: [0].into(), excluded: ExcludedTokens::none() };
    let drawn = sample(
        &mut parrot,
        &tokenizer(),
        &requests,
        &SamplingOptions::default(),
        &ids,
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
    let ids = SampledIds { end: [0].into(), excluded: ExcludedTokens::none() };
    let drawn = sample(
        &mut parrot,
        &tokenizer,
        &[request(&[3], 1, 0)],
        &options,
        &ids,
        at_most(4),
        &mut |_, _, _| ControlFlow::Continue(()),
    );
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
        let ids = SampledIds { end: [0].into(), excluded: ExcludedTokens::none() };
        sample(
            &mut parrot,
            &tokenizer,
            &[request(prompt, 2, 0)],
            &options,
            &ids,
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
        let ids = SampledIds { end: [0].into(), excluded: excluded.clone() };
        let drawn =
            sample(&mut padded_babbler(437), &tokenizer, &requests, &options, &ids, at_most(3), go_on);
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
    let ids = SampledIds { end: [410].into(), excluded: excluded.clone() };
    let drawn = sample(
        &mut parrot,
        &tokenizer,
        &[request(&[3], 1, 0)],
        &SamplingOptions::default(),
        &ids,
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
    let ids = SampledIds { end: [0].into(), excluded: ExcludedTokens::none() };
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
        sample(&mut parrot, &tokenizer(), &requests, &options, &ids, at_most(3), go_on).unwrap().unwrap();
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
    let ids = SampledIds { end: [0].into(), excluded: excluded.clone() };
    let mut engine = babbler();
    let mut decoding = DecodingLoop::new(&tokenizer, ids.clone(), at_most(3));
    assert!(decoding.is_idle());
    let options = Arc::new(options);
    let job = |request: &SampleRequest| Job {
        prompt: request.prompt.clone(),
        n_samples: request.n_samples,
        options: Arc::clone(&options),
        seed_indices: Some(request.seed_indices.clone()),
        ..Job::default()
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
    for Finished { job_idx, sample_idx, result, .. } in found {
        assert_eq!(result.unwrap(), alone[job_idx][sample_idx], "job {job_idx}, completion {sample_idx}");
    }
}

fn in_pieces(max_batch: usize, max_cached_tokens: usize) -> DecodingOptions {
    DecodingOptions { prompts: PromptReading::InPieces { max_cached_tokens }, ..at_most(max_batch) }
}

fn ending_at_0() -> SampledIds {
    SampledIds { end: [0].into(), excluded: ExcludedTokens::none() }
}

/// A prompt of `n` tokens; prompts of one `kind` begin the same.
fn long_prompt(kind: u32, n: usize) -> Vec<TokenId> {
    (0..n as u32).map(|i| 1 + (i * i + 7 * kind) % 390).collect()
}

#[test]
fn whole_pieces_of_beginnings_are_read_once() {
    let mut parrot = Parrot::new(1000, |_| one_hot(0));
    let mut decoding = DecodingLoop::new(&tokenizer(), ending_at_0(), in_pieces(2, 4 * PROMPT_PIECE));
    let mut ask = |prompt: Vec<TokenId>, n_read: usize, n_reused: usize| {
        let before = parrot.n_read;
        decoding.admit(Job { prompt, n_samples: 2, ..Job::default() });
        let mut reused = Vec::new();
        while !decoding.is_idle() {
            reused.extend(decoding.step(&mut parrot).unwrap().iter().map(|one| one.n_reused_tokens));
        }
        assert_eq!((parrot.n_read - before, reused), (n_read, vec![n_reused; 2]));
    };
    let piece = PROMPT_PIECE;
    ask(long_prompt(1, 200), 200, 0);
    ask(long_prompt(1, 200), 200 - 3 * piece, 3 * piece);
    // The last token is read in any case.
    ask(long_prompt(1, 3 * piece), piece, 2 * piece);
    ask([long_prompt(1, 2 * piece + 1), vec![9; 20]].concat(), 21, 2 * piece);
    // Other prompts take the place of what was not used for longest, the end of a beginning before its start.
    ask(long_prompt(2, 2 * piece), 2 * piece, 0);
    ask(long_prompt(1, 200), 200 - 2 * piece, 2 * piece);
    ask(long_prompt(3, 5), 5, 0);
}

/// What is sampled does not depend on what is cached, on how prompts are read, or on what runs beside.
#[test]
fn cached_beginnings_change_no_token() {
    let options =
        Arc::new(SamplingOptions { max_new_tokens: 6, temperature: 1.0, seed: 5, ..Default::default() });
    let prompts: Vec<Vec<TokenId>> = [(1, 150), (1, 70), (2, 64), (1, 200), (2, 65), (1, 150), (3, 3)]
        .map(|(kind, n)| long_prompt(kind, n))
        .to_vec();
    let run = |decoding: DecodingOptions, order: &[usize]| {
        let mut decoding = DecodingLoop::new(&tokenizer(), ending_at_0(), decoding);
        let mut engine = Parrot::new(300, |so_far| {
            let mixed = so_far.iter().fold(7_u32, |sum, &token| sum.wrapping_mul(31).wrapping_add(token));
            (0..400_u32).map(|token| (mixed.wrapping_mul(token + 3) % 97) as f32 / 40.0).collect()
        });
        for &idx in order {
            decoding.admit(Job {
                prompt: prompts[idx].clone(),
                n_samples: 2,
                options: Arc::clone(&options),
                seed_indices: Some(vec![idx as u64]),
                ..Job::default()
            });
        }
        let mut found = vec![None; 2 * prompts.len()];
        while !decoding.is_idle() {
            for one in decoding.step(&mut engine).unwrap() {
                found[2 * order[one.job_idx] + one.sample_idx] = Some(one.result.unwrap());
            }
        }
        found
    };
    let in_order: Vec<usize> = (0..prompts.len()).collect();
    let expected = run(at_most(1), &in_order);
    assert!(expected.iter().all(Option::is_some));
    for decoding in [in_pieces(1, 0), in_pieces(3, 1000), in_pieces(8, 128), in_pieces(32, 100_000)] {
        for order in [&in_order[..], &[6, 5, 4, 3, 2, 1, 0], &[3, 0, 6, 2, 5, 1, 4]] {
            assert_eq!(run(decoding, order), expected, "{decoding:?}, {order:?}");
        }
    }
}

#[test]
fn a_long_prompt_does_not_hold_up_what_runs() {
    let mut parrot = Parrot::new(2000, |_| one_hot(5));
    let mut decoding = DecodingLoop::new(&tokenizer(), ending_at_0(), in_pieces(4, 0));
    let options = Arc::new(SamplingOptions { max_new_tokens: 40, ..Default::default() });
    decoding.admit(Job { prompt: vec![3], n_samples: 1, options: options.clone(), ..Job::default() });
    decoding.step(&mut parrot).unwrap();
    decoding.admit(Job { prompt: long_prompt(1, 1000), n_samples: 1, options, ..Job::default() });
    for _ in 0..10 {
        let (before, mut n_tokens) = (parrot.n_read, 0);
        decoding.step_watched(&mut parrot, &mut |_| n_tokens += 1).unwrap();
        assert_eq!((n_tokens, parrot.n_read - before), (1, PROMPT_PIECE + 1));
    }
    assert_eq!((decoding.n_running(), decoding.n_waiting()), (1, 1));
}

#[test]
fn tokens_are_seen_as_they_are_sampled() {
    let tokenizer = tokenizer();
    let answer = tokenizer.encode("one two STOP", SpecialTokens::Parse).unwrap();
    let mut parrot = Parrot::saying(100, 1, answer.clone());
    let options = SamplingOptions { stop: vec!["STOP".into()], ..Default::default() };
    let mut decoding = DecodingLoop::new(&tokenizer, ending_at_0(), in_pieces(4, 0));
    decoding.admit(Job {
        prompt: vec![3],
        n_samples: 1,
        options: Arc::new(options),
        n_top_log_probs: 3,
        ..Job::default()
    });
    let (mut tokens, mut text, mut finished) = (Vec::new(), String::new(), Vec::new());
    while !decoding.is_idle() {
        let on_token = &mut |sampled: TokenSampled<'_>| {
            tokens.push(sampled.token);
            text.push_str(sampled.text);
            assert_eq!(sampled.top_log_probs.len(), 3);
            assert_eq!(sampled.top_log_probs[0], (sampled.token, sampled.log_prob));
        };
        finished.extend(decoding.step_watched(&mut parrot, on_token).unwrap());
    }
    let completion = finished.remove(0).result.unwrap();
    assert_eq!((tokens, text), (completion.tokens, completion.text));
}

#[test]
fn a_completion_can_have_its_own_ends_and_keep_special_tokens() {
    let tokenizer = tokenizer();
    let special = tokenizer.special_tokens().map(|(id, _)| id).find(|&id| id != 0).unwrap();
    let mut parrot = Parrot::saying(20, 1, vec![11, 0, special, 12]);
    let mut decoding = DecodingLoop::new(&tokenizer, ending_at_0(), at_most(1));
    let options = Arc::new(SamplingOptions { max_new_tokens: 6, ..Default::default() });
    let job = Job { prompt: vec![3], n_samples: 1, options, ..Job::default() };
    decoding.admit(Job { end: Some([].into()), ..job.clone() });
    decoding.admit(Job { end: Some([12].into()), keeps_special_tokens: true, ..job });
    let mut found = Vec::new();
    while !decoding.is_idle() {
        found.extend(decoding.step(&mut parrot).unwrap());
    }
    let [one, other] = [0, 1].map(|idx| found[idx].result.as_ref().unwrap());
    assert_eq!((&one.tokens[..], one.finish_reason), (&[11, 0, special, 12, 0, 0][..], FinishReason::Length));
    assert_eq!(
        (&other.tokens[..], other.finish_reason),
        (&[11, 0, special, 12][..], FinishReason::EndOfTurn)
    );
    let name = tokenizer.token_text(special).unwrap();
    assert!(other.text.contains(&name) && !one.text.contains(&name), "{:?} {:?}", one.text, other.text);
}

/// Completions of a model that prefers anything else still match their grammars.
#[test]
fn grammars_are_followed() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer, 400, &[0]).unwrap();
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "n": {"type": "integer", "minimum": 3, "maximum": 40},
        },
        "required": ["name", "n"],
        "additionalProperties": false,
    });
    let sources = [
        GrammarSource::JsonSchema(schema),
        GrammarSource::Regex("[a-c]{3}-[0-9]{2}".into()),
        GrammarSource::Choice(vec!["yes".into(), "no \"way\"".into()]),
        GrammarSource::Lark("start: \"x\"+ \"!\"".into()),
    ];
    for source in sources {
        let grammar = Arc::new(grammars.compile(&source).unwrap());
        let options = SamplingOptions { max_new_tokens: 59, temperature: 1.0, seed: 3, ..Default::default() };
        let mut decoding = DecodingLoop::new(&tokenizer, ending_at_0(), at_most(8));
        decoding.admit(Job {
            prompt: vec![3],
            n_samples: 8,
            options: Arc::new(options),
            seed_indices: Some(Vec::new()),
            grammar: Some(grammar),
            ..Job::default()
        });
        let mut engine = Parrot::new(100, |so_far| {
            let mixed = so_far.iter().fold(7_u32, |sum, &token| sum.wrapping_mul(31).wrapping_add(token));
            let logit = |token: u32| (mixed.wrapping_mul(token + 3) % 97) as f32 / 40.0;
            (0..400_u32).map(|token| logit(token) + if token == 0 { 2.0 } else { 0.0 }).collect()
        });
        let mut n_complete = 0;
        while !decoding.is_idle() {
            for one in decoding.step(&mut engine).unwrap() {
                let completion = one.result.unwrap();
                if completion.finish_reason == FinishReason::Length {
                    continue;
                }
                n_complete += 1;
                let text = completion.text.as_str();
                let is_match = match &source {
                    GrammarSource::JsonSchema(_) => {
                        let value: serde_json::Value = serde_json::from_str(text).unwrap();
                        let n = value["n"].as_i64().unwrap();
                        (3..=40).contains(&n) && value["name"].as_str().unwrap().chars().count() <= 5
                    }
                    GrammarSource::Choice(choices) => choices.iter().any(|choice| choice == text),
                    GrammarSource::Regex(_) => {
                        text.len() == 6
                            && text.as_bytes()[3] == b'-'
                            && text[..3].chars().all(|c| "abc".contains(c))
                    }
                    _ => text.ends_with("x!") && text.trim_start_matches('x') == "!",
                };
                assert!(is_match, "{source:?}: {text:?}");
            }
        }
        assert!(n_complete >= 2, "{source:?}: {n_complete} of 8 complete");
    }
}

#[test]
fn grammars_that_cannot_be_followed_are_refused() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer, 400, &[0]).unwrap();
    for (source, expected) in [
        (GrammarSource::JsonSchema(serde_json::json!({"type": "strin"})), "strin"),
        (
            GrammarSource::JsonSchema(serde_json::json!({"type": "object", "uniqueItems": 3, "not": {}})),
            "not",
        ),
        (GrammarSource::JsonSchema(serde_json::json!(true)), "an object"),
        (
            GrammarSource::JsonSchema(
                serde_json::json!({"oneOf": [{"type": "string", "minLength": 2}, {"type": "string", "maxLength": 5}]}),
            ),
            "use `anyOf`",
        ),
        (GrammarSource::Regex("(a".into()), ""),
        (GrammarSource::Choice(Vec::new()), "nothing to choose"),
        (GrammarSource::Lark("start: nowhere".into()), "nowhere"),
    ] {
        let error = grammars.compile(&source).unwrap_err().to_string();
        assert!(
            error.starts_with("the grammar cannot be used: ") && error.contains(expected),
            "{source:?}: {error}"
        );
    }
    assert!(Grammars::new(&tokenizer, 400, &[]).is_err());
}
