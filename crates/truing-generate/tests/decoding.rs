//! The loop itself.

use std::ops::ControlFlow;

use truing_generate::{GenerateError, Generated, SampledIds, Session, StepOptions, generate};
use truing_model::SampledToken;
use truing_types::{ExcludedTokens, FinishReason, SamplingOptions, TokenId};

use crate::parrot::{Parrot, one_hot};

fn run(
    engine: &mut Parrot,
    session: &mut Session<Parrot>,
    prompt: &[TokenId],
    options: &SamplingOptions,
) -> Result<Generated, GenerateError> {
    let ids = SampledIds { end: [0].into(), excluded: ExcludedTokens::none() };
    generate(engine, session, prompt, options, &ids, StepOptions::default(), &mut |_| {
        Ok(ControlFlow::Continue(()))
    })
}

fn at_most(max_new_tokens: usize) -> SamplingOptions {
    SamplingOptions { max_new_tokens, ..SamplingOptions::default() }
}

#[test]
fn it_ends_at_an_end_token_which_is_part_of_the_tokens() {
    let mut engine = Parrot::saying(100, 3, vec![7, 8]);
    let mut session = Session::new(&mut engine).unwrap();
    let generated = run(&mut engine, &mut session, &[1, 2, 3], &at_most(10)).unwrap();
    assert_eq!(generated.tokens, [7, 8, 0]);
    assert_eq!(generated.finish_reason, FinishReason::EndOfTurn);
    let expected = -(399.0 * (-20f64).exp()).ln_1p() as f32;
    assert_eq!(generated.log_probs.len(), 3);
    assert!(generated.log_probs.iter().all(|log_prob| (log_prob - expected).abs() < 1e-9));
    assert_eq!(session.tokens(), [1, 2, 3, 7, 8]);
}

#[test]
fn it_ends_after_the_tokens_asked_for_and_at_the_end_of_the_context() {
    let mut engine = Parrot::new(6, |_| one_hot(9));
    let mut session = Session::new(&mut engine).unwrap();
    let generated = run(&mut engine, &mut session, &[1, 2], &at_most(3)).unwrap();
    assert_eq!((generated.tokens.len(), generated.finish_reason), (3, FinishReason::Length));
    let generated = run(&mut engine, &mut session, &[1, 2], &at_most(50)).unwrap();
    // Every position of the context holds a token: 2 of the prompt, 4 sampled.
    assert_eq!((generated.tokens.len(), generated.finish_reason), (4, FinishReason::Length));
}

#[test]
fn a_prompt_without_room_or_without_tokens_is_refused() {
    let mut engine = Parrot::new(4, |_| one_hot(9));
    let mut session = Session::new(&mut engine).unwrap();
    let error = run(&mut engine, &mut session, &[1; 4], &at_most(1)).unwrap_err();
    assert_eq!(error.to_string(), "the prompt has 4 tokens, but the model's context holds 4");
    assert!(matches!(run(&mut engine, &mut session, &[], &at_most(1)), Err(GenerateError::EmptyPrompt)));
    assert_eq!(engine.n_read, 0);
    assert_eq!(run(&mut engine, &mut session, &[1; 3], &at_most(9)).unwrap().tokens.len(), 1);
}

#[test]
fn what_is_in_the_cache_is_not_read_again() {
    let mut engine = Parrot::new(100, |_| one_hot(9));
    let mut session = Session::new(&mut engine).unwrap();
    run(&mut engine, &mut session, &[1, 2, 3], &at_most(2)).unwrap();
    assert_eq!((engine.n_read, session.tokens()), (4, &[1, 2, 3, 9][..]));
    let next = run(&mut engine, &mut session, &[1, 2, 3, 9, 9, 4], &at_most(1)).unwrap();
    assert_eq!((engine.n_read, next.n_reused_tokens), (6, 4));
    // Another beginning keeps what is shared; the same prompt reads its last token again for the logits.
    let other = run(&mut engine, &mut session, &[1, 2, 5], &at_most(1)).unwrap();
    assert_eq!((engine.n_read, other.n_reused_tokens), (7, 2));
    let same = run(&mut engine, &mut session, &[1, 2, 5], &at_most(1)).unwrap();
    assert_eq!((engine.n_read, same.n_reused_tokens), (8, 2));
}

#[test]
fn an_engine_that_fails_leaves_a_usable_session() {
    let mut engine = Parrot::new(100, |_| one_hot(9));
    let mut session = Session::new(&mut engine).unwrap();
    let error = run(&mut engine, &mut session, &[1, 2, 999], &at_most(1)).unwrap_err();
    assert!(!error.is_bad_request());
    assert_eq!(error.to_string(), "token 999 is outside the vocabulary of 400");
    assert_eq!(run(&mut engine, &mut session, &[1, 2], &at_most(1)).unwrap().tokens, [9]);
}

#[test]
fn logits_that_are_no_numbers_name_the_place() {
    let mut engine =
        Parrot::new(100, |so_far| if so_far.len() < 4 { one_hot(9) } else { vec![f32::NAN; 400] });
    let mut session = Session::new(&mut engine).unwrap();
    let error = run(&mut engine, &mut session, &[1, 2], &at_most(9)).unwrap_err();
    assert_eq!(error.to_string(), "the model's output after token 3 is not a number");
}

#[test]
fn the_caller_may_break_off() {
    let mut engine = Parrot::new(100, |_| one_hot(9));
    let mut session = Session::new(&mut engine).unwrap();
    let mut seen: Vec<SampledToken> = Vec::new();
    let mut until_two = |drawn| {
        seen.push(drawn);
        Ok(if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let ids = SampledIds { end: [0].into(), excluded: ExcludedTokens::none() };
    let generated =
        generate(&mut engine, &mut session, &[1], &at_most(9), &ids, StepOptions::default(), &mut until_two)
            .unwrap();
    assert_eq!((generated.tokens.len(), generated.finish_reason), (2, FinishReason::Cancelled));
}

#[test]
fn the_same_seed_gives_the_same_tokens_whatever_the_cache_held() {
    let next = |so_far: &[TokenId]| (0..400).map(|n| ((n * 7 + so_far.len()) % 13) as f32 / 4.0).collect();
    let mut engine = Parrot::new(100, next);
    let mut session = Session::new(&mut engine).unwrap();
    let options = |seed| SamplingOptions { temperature: 1.0, seed, ..at_most(20) };
    let first = run(&mut engine, &mut session, &[1, 2], &options(5)).unwrap().tokens;
    assert_eq!(run(&mut engine, &mut session, &[1, 2], &options(5)).unwrap().tokens, first);
    assert_ne!(run(&mut engine, &mut session, &[1, 2], &options(6)).unwrap().tokens, first);
}

#[test]
fn excluded_tokens_are_not_taken_even_where_they_are_the_likeliest() {
    let mut engine = Parrot::new(100, |_| {
        let mut logits = one_hot(399);
        logits[7] = 5.0;
        logits
    });
    let mut session = Session::new(&mut engine).unwrap();
    let excluded = ExcludedTokens::of([399, 398]);
    let ids = SampledIds { end: [0].into(), excluded: excluded.clone() };
    let go_on = &mut |_| Ok(ControlFlow::Continue(()));
    let generated =
        generate(&mut engine, &mut session, &[1], &at_most(3), &ids, StepOptions::default(), go_on).unwrap();
    assert_eq!(generated.tokens, [7, 7, 7]);
    let expected = -(397.0 * (-5f64).exp()).ln_1p() as f32;
    assert!((generated.log_probs[0] - expected).abs() < 1e-6, "{:?}", generated.log_probs);
}
