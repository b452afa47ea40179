//! Prompt-lookup decoding changes no token, no log-probability and no text, in any bit: on a small model of random
//! weights, which soon repeats itself, on prompts that repeat themselves and on prompts that do not.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use truing_cpu::CpuEngine;
use truing_generate::{
    DecodingLoop, DecodingOptions, DraftCounts, GrammarSource, Grammars, Job, PromptReading,
    SampledCompletion, SampledIds, Session, StepOptions, generate,
};
use truing_model::{
    DecoderSpec, DecodingWeights, Engine, EngineOptions, HeadKind, ParameterRole, PutWeight, TrainableSpec,
};
use truing_parallel::Solo;
use truing_text::Tokenizer;
use truing_types::{ExcludedTokens, SamplingOptions, Seed, TokenId};

use crate::parrot::{Parrot, one_hot};

/// Tokens of the vocabulary of the tiny tokenizer.
const VOCAB: usize = 400;
const CONTEXT: usize = 180;

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../truing-text/tests/fixtures/tiny"))
        .unwrap()
}

/// A Llama with a sliding window in its first layer.
fn engine() -> CpuEngine {
    let spec = DecoderSpec {
        architecture: "LlamaForCausalLM".into(),
        vocab_size: VOCAB,
        hidden_size: 32,
        intermediate_size: 48,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: None,
        max_position_embeddings: CONTEXT,
        head: HeadKind::LanguageModel,
        tie_word_embeddings: false,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_windows: vec![Some(30), None],
        variant: truing_model::DecoderVariant::default(),
        bos_token_id: None,
        eos_token_ids: vec![0],
    };
    let parameters = spec.parameters();
    let mut weights = |put: &mut PutWeight<'_>| {
        parameters.iter().try_for_each(|parameter| {
            let values = match parameter.role {
                ParameterRole::Norm => vec![1.0; parameter.n_elements()],
                _ => Seed(3).normals(&parameter.name, parameter.n_elements(), 0.3),
            };
            put(&parameter.name, &parameter.shape, values)
        })
    };
    let options = EngineOptions::with_threads(2, Seed(0));
    CpuEngine::load(spec.into(), TrainableSpec::frozen(), &options, &Solo::groups(), &mut weights).unwrap()
}

fn ids() -> SampledIds {
    SampledIds { end: [0].into(), excluded: ExcludedTokens::of(350..370) }
}

/// Prompts of different lengths: of a few tokens again and again, of any tokens, and one with a long passage twice.
fn prompts() -> Vec<Vec<TokenId>> {
    let any = |n: u32, kind: u32| (0..n).map(move |i| 1 + (i * i * 31 + i * 7 + kind * 97) % 340);
    let passage: Vec<TokenId> = any(50, 5).collect();
    vec![
        any(9, 1).cycle().take(60).collect(),
        any(70, 2).collect(),
        vec![17],
        [&passage[..], &passage[..30]].concat(),
        any(2, 3).cycle().take(130).collect(),
        any(CONTEXT as u32 - 4, 4).collect(),
    ]
}

/// Jobs that between them use every option that a token can depend on.
fn jobs() -> Vec<Job> {
    let plain = SamplingOptions { max_new_tokens: 40, seed: 5, ..SamplingOptions::default() };
    let greedy = SamplingOptions { temperature: 0.0, ..plain.clone() };
    let options = [
        greedy.clone(),
        SamplingOptions { repetition_penalty: 1.1, ..greedy.clone() },
        SamplingOptions { stop: vec!["e".into(), "on".into()], ..greedy.clone() },
        SamplingOptions { temperature: 0.4, ..plain.clone() },
        SamplingOptions { temperature: 1.0, top_k: 3, frequency_penalty: 0.2, ..plain.clone() },
        SamplingOptions { temperature: 0.7, top_p: 0.5, min_p: 0.1, presence_penalty: -0.5, ..plain.clone() },
        SamplingOptions { max_new_tokens: 1, ..greedy.clone() },
        SamplingOptions { max_new_tokens: 400, logit_bias: [(7, 1.5)].into(), ..greedy.clone() },
    ];
    let grammars = Grammars::new(&tokenizer(), VOCAB, &[0]).unwrap();
    let letters = grammars.compile(&GrammarSource::Regex("(ab|ba)*c".into())).unwrap();
    let mut jobs = Vec::new();
    for (idx, options) in options.iter().enumerate() {
        for (place, prompt) in prompts().into_iter().enumerate() {
            jobs.push(Job {
                prompt,
                n_samples: 1 + (idx + place) % 3,
                options: Arc::new(options.clone()),
                seed_indices: Some(vec![idx as u64, place as u64]),
                n_top_log_probs: if place == 0 { 3 } else { 0 },
                ..Job::default()
            });
        }
    }
    jobs.push(Job {
        prompt: vec![3, 4],
        n_samples: 3,
        options: Arc::new(SamplingOptions { temperature: 1.0, ..plain }),
        seed_indices: Some(vec![99]),
        grammar: Some(Arc::new(letters)),
        ..Job::default()
    });
    jobs
}

/// A token as it was sampled: its text, the bits of its log-probability, and the likeliest tokens with theirs.
type Watched = (TokenId, String, u32, Vec<(TokenId, u32)>);

/// A completion with the bits of its numbers.
#[derive(Debug, Clone, PartialEq)]
struct Bits {
    completion: SampledCompletion,
    log_probs: Vec<(u32, u32)>,
    watched: Vec<Watched>,
}

/// All completions of all jobs, ordered, and what was drafted.
fn run(engine: &mut CpuEngine, options: DecodingOptions) -> (Vec<Bits>, DraftCounts) {
    let mut decoding = DecodingLoop::new(&tokenizer(), ids(), options);
    let jobs = jobs();
    jobs.iter().for_each(|job| {
        decoding.admit(job.clone());
    });
    let mut watched: Vec<Vec<Vec<_>>> = jobs.iter().map(|job| vec![Vec::new(); job.n_samples]).collect();
    let mut found = Vec::new();
    while !decoding.is_idle() {
        let mut on_token = |sampled: truing_generate::TokenSampled<'_>| {
            let top = sampled.top_log_probs.iter().map(|&(token, x)| (token, x.to_bits())).collect();
            let seen = (sampled.token, sampled.text.to_owned(), sampled.log_prob.to_bits(), top);
            watched[sampled.job_idx][sampled.sample_idx].push(seen);
        };
        found.extend(decoding.step_watched(engine, &mut on_token).unwrap());
    }
    found.sort_by_key(|one| (one.job_idx, one.sample_idx));
    let mut drafts = DraftCounts::default();
    let mut bits = Vec::new();
    for one in found {
        let mut completion = one.result.unwrap();
        drafts.add(std::mem::take(&mut completion.drafts));
        let pairs = completion.log_probs.iter().zip(&completion.sampling_log_probs);
        let log_probs = pairs.map(|(a, b)| (a.to_bits(), b.to_bits())).collect();
        let watched = std::mem::take(&mut watched[one.job_idx][one.sample_idx]);
        bits.push(Bits { completion, log_probs, watched });
    }
    (bits, drafts)
}

#[test]
fn drafts_change_no_bit_of_a_completion() {
    let mut engine = engine();
    for weights in [DecodingWeights::F32, DecodingWeights::Int8] {
        for prompts in [PromptReading::Whole, PromptReading::InPieces { max_cached_tokens: 256 }] {
            let plain = DecodingOptions { max_batch: 4, weights, prompts, prompt_lookup_num_tokens: 0 };
            let (expected, none) = run(&mut engine, plain);
            assert_eq!(none, DraftCounts::default());
            let n_jobs: usize = jobs().iter().map(|job| job.n_samples).sum();
            assert_eq!(expected.len(), n_jobs);
            for (max_batch, prompt_lookup_num_tokens) in [(1, 1), (3, 3), (8, 10), (200, 4)] {
                let drafting = DecodingOptions { max_batch, prompt_lookup_num_tokens, ..plain };
                let (found, drafts) = run(&mut engine, drafting);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found, expected, "{drafting:?}");
                }
                assert_eq!(found.len(), expected.len());
                // The model repeats itself: without accepted and refused drafts the test would show nothing.
                assert!(drafts.n_accepted > 100 && drafts.n_drafted > drafts.n_accepted, "{drafts:?}");
            }
        }
    }
}

#[test]
fn drafts_save_steps() {
    // It says seven tokens again and again.
    let mut engine = Parrot::new(CONTEXT, |so_far| one_hot(11 + so_far.len() as TokenId % 7));
    let mut n_steps = |prompt_lookup_num_tokens: usize| {
        let options = DecodingOptions {
            max_batch: 1,
            weights: DecodingWeights::F32,
            prompts: PromptReading::Whole,
            prompt_lookup_num_tokens,
        };
        let mut decoding = DecodingLoop::new(&tokenizer(), ids(), options);
        let greedy = SamplingOptions { temperature: 0.0, max_new_tokens: 60, ..SamplingOptions::default() };
        decoding.admit(Job {
            prompt: vec![3],
            n_samples: 1,
            options: Arc::new(greedy),
            end: Some([].into()),
            ..Job::default()
        });
        let (mut n_steps, mut completion) = (0, SampledCompletion::default());
        while !decoding.is_idle() {
            n_steps += 1;
            for one in decoding.step(&mut engine).unwrap() {
                completion = one.result.unwrap();
            }
        }
        (n_steps, completion.tokens.len() as u64, completion.drafts.n_accepted)
    };
    let (plain, n_tokens, none) = n_steps(0);
    // The first token is sampled with the prompt, in the first step; the last step finds that all is done.
    assert_eq!((plain, n_tokens, none), (60, 60, 0));
    let (drafting, n_tokens, n_accepted) = n_steps(5);
    assert_eq!(n_tokens, 60);
    assert_eq!(drafting, plain - n_accepted, "each accepted token saves a step");
    // The first nine tokens have no forerunners; after them five of six tokens are accepted.
    assert!(n_accepted >= 40, "{n_accepted} accepted");
}

#[test]
fn one_sequence_is_continued_the_same_with_drafts_over_several_turns() {
    let mut engine = engine();
    let mut run = |prompt_lookup_num_tokens: usize| {
        let steps = StepOptions { weights: DecodingWeights::F32, prompt_lookup_num_tokens };
        let mut session = Session::new(&mut engine).unwrap();
        let mut found = Vec::new();
        let mut drafts = DraftCounts::default();
        for prompt in prompts() {
            for turn in 0..2 {
                // The second turn continues what the first one wrote.
                let prompt = if turn == 0 { prompt.clone() } else { session.tokens().to_vec() };
                if prompt.len() + 2 > CONTEXT {
                    continue;
                }
                let options =
                    SamplingOptions { max_new_tokens: 25, temperature: 0.3, seed: 9, ..Default::default() };
                let mut n_seen = 0;
                let generated =
                    generate(&mut engine, &mut session, &prompt, &options, &ids(), steps, &mut |_| {
                        n_seen += 1;
                        // Broken off in the middle of a draft now and then.
                        Ok(if n_seen == 19 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                    })
                    .unwrap();
                drafts.add(generated.drafts);
                let bits: Vec<u32> = generated.log_probs.iter().map(|x| x.to_bits()).collect();
                let read = session.tokens().to_vec();
                found.push((
                    generated.tokens,
                    bits,
                    generated.finish_reason,
                    generated.n_reused_tokens,
                    read,
                ));
            }
        }
        (found, drafts)
    };
    let (expected, none) = run(0);
    assert_eq!(none, DraftCounts::default());
    for num_tokens in [1, 4, 9] {
        let (found, drafts) = run(num_tokens);
        assert_eq!(found, expected, "{num_tokens} drafted");
        assert!(drafts.n_accepted > 3 && drafts.n_drafted > drafts.n_accepted, "{drafts:?}");
    }
}
