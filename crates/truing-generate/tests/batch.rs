//! Many completions side by side.

use std::ops::ControlFlow;
use std::path::Path;

use truing_generate::{GenerateError, SampleRequest, SampledCompletion, sample};
use truing_text::{SpecialTokens, Tokenizer};
use truing_types::{FinishReason, SamplingOptions, TokenId};

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

fn draw(
    requests: &[SampleRequest],
    max_batch: usize,
    options: &SamplingOptions,
) -> Vec<Vec<SampledCompletion>> {
    let mut order = Vec::new();
    let drawn = sample(&mut babbler(), &tokenizer(), requests, options, &[0], max_batch, &mut |i, j, _| {
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
    let drawn =
        sample(&mut parrot, &tokenizer(), &requests, &SamplingOptions::default(), &[0], 8, &mut |_, _, _| {
            ControlFlow::Continue(())
        });
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
    let drawn = sample(&mut parrot, &tokenizer, &[request(&[3], 1, 0)], &options, &[0], 4, &mut |_, _, _| {
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
        sample(&mut parrot, &tokenizer, &[request(prompt, 2, 0)], &options, &[0], 4, &mut |_, _, _| flow)
    };
    assert!(matches!(run(&[], ControlFlow::Continue(())), Err(GenerateError::EmptyPrompt)));
    let full = run(&[1; 10], ControlFlow::Continue(()));
    assert!(matches!(full, Err(GenerateError::ContextOverflow { n_prompt_tokens: 10, context_length: 10 })));
    assert_eq!(run(&[1], ControlFlow::Break(())).unwrap(), None);
    // The end of the context ends a completion as a limit does.
    let at_end = run(&[1; 9], ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!((at_end[0][0].tokens.len(), at_end[0][0].finish_reason), (1, FinishReason::Length));
}
