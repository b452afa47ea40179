//! Sampling from logits that stay where the engine put them, against the host's [`Sampler`].

use std::borrow::Cow;

use truing_types::{AllowedTokens, ExcludedTokens, SamplingOptions, TokenId};

use super::support::{assert_refused, decoders, hidden, largest_difference, packed, sequences, set_element};
use truing_model::{DecodingWeights, Engine, EngineError, HeadRequest, SampleStep, SampledToken, Sampler};

fn plain() -> SamplingOptions {
    SamplingOptions { temperature: 1.0, seed: 3, ..SamplingOptions::default() }
}

/// Options for each part of the distribution's shape.
fn all_sampling_options() -> [SamplingOptions; 10] {
    [
        SamplingOptions::default(),
        plain(),
        SamplingOptions { temperature: 1.7, ..plain() },
        SamplingOptions { top_k: 4, ..plain() },
        SamplingOptions { top_p: 0.8, ..plain() },
        SamplingOptions { min_p: 0.1, ..plain() },
        SamplingOptions { repetition_penalty: 1.4, ..plain() },
        SamplingOptions { presence_penalty: 0.7, frequency_penalty: 0.4, ..plain() },
        SamplingOptions { logit_bias: [(3, 2.5), (9, -1.5)].into(), ..plain() },
        SamplingOptions {
            temperature: 0.8,
            top_k: 12,
            top_p: 0.9,
            min_p: 0.02,
            repetition_penalty: 1.2,
            ..plain()
        },
    ]
}

/// Prompts of running sequences; each is the sequence's history too.
fn histories() -> Vec<Vec<TokenId>> {
    let mut all = sequences();
    all.push(vec![11, 3]);
    all.push(vec![20, 21, 22, 1]);
    all
}

/// The logits after each history, one row each.
fn logits_of<E: Engine>(engine: &mut E) -> E::Logits {
    let histories = histories();
    let weights = DecodingWeights::F32;
    let mut caches = Vec::new();
    for history in &histories {
        let mut cache = engine.new_cache(history.len()).unwrap();
        if let [before @ .., _] = &history[..]
            && !before.is_empty()
        {
            engine.extend(&mut cache, before, weights).unwrap();
        }
        caches.push(cache);
    }
    let last: Vec<TokenId> = histories.iter().map(|history| history[history.len() - 1]).collect();
    let mut borrowed: Vec<_> = caches.iter_mut().collect();
    engine.extend_each(&mut borrowed, &last, weights).unwrap()
}

fn samplers(options: &SamplingOptions) -> Vec<Sampler> {
    (0..histories().len() as u64).map(|idx| Sampler::keyed(options, &[idx]).unwrap()).collect()
}

/// The only tokens that may be sampled at a row.
fn allowed_at(row: usize) -> Option<AllowedTokens> {
    (row % 3 == 1).then(|| AllowedTokens::of([1, 2, 6, 9, 11]))
}

/// Samples for the given rows in their order, some of them in one call; the tokens by row.
fn sample<E: Engine>(
    engine: &mut E,
    logits: &E::Logits,
    excluded: &ExcludedTokens,
    samplers: &mut [Sampler],
    calls: &[&[usize]],
) -> Vec<Option<SampledToken>> {
    sample_allowed(engine, logits, excluded, samplers, calls, |_| None)
}

/// The same, of the tokens alone that are allowed at each row.
fn sample_allowed<E: Engine>(
    engine: &mut E,
    logits: &E::Logits,
    excluded: &ExcludedTokens,
    samplers: &mut [Sampler],
    calls: &[&[usize]],
    allowed: fn(usize) -> Option<AllowedTokens>,
) -> Vec<Option<SampledToken>> {
    let histories = histories();
    let allowed: Vec<_> = (0..histories.len()).map(allowed).collect();
    let mut found = vec![None; histories.len()];
    for rows in calls {
        let mut borrowed: Vec<Option<&mut Sampler>> = samplers.iter_mut().map(Some).collect();
        let step = |&row: &usize| SampleStep {
            row,
            sampler: borrowed[row].take().unwrap(),
            history: &histories[row],
            allowed: allowed[row].as_ref(),
        };
        let mut steps: Vec<_> = rows.iter().map(step).collect();
        let sampled = engine.sample(logits, excluded, &mut steps).unwrap();
        assert_eq!(sampled.len(), rows.len());
        rows.iter().zip(sampled).for_each(|(&row, token)| found[row] = token);
    }
    found
}

/// A token is the host sampler's for its row, history and random numbers, in which order and company soever it is
/// sampled.
pub fn a_token_depends_on_its_row_history_and_sampler_alone<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let tolerance = engine.guarantees().log_prob_tolerance;
        let logits = logits_of(&mut engine);
        let rows = engine.read_logits(&logits).unwrap();
        let row = |idx: usize| &rows[idx * case.spec.vocab_size..][..case.spec.vocab_size];
        assert_eq!(rows.len(), histories().len() * case.spec.vocab_size);
        let mut distinct = std::collections::BTreeSet::new();
        for options in all_sampling_options() {
            for excluded in [ExcludedTokens::none(), ExcludedTokens::of([0, 5, 6, 23])] {
                let mut expected_samplers = samplers(&options);
                let orders: [&[&[usize]]; 3] =
                    [&[&[0, 1, 2, 3, 4, 5]], &[&[3, 0, 5, 1, 4, 2]], &[&[4], &[2, 0], &[5], &[1], &[3]]];
                let mut of_orders = orders.map(|_| samplers(&options));
                for round in 0..6 {
                    let expected: Vec<_> = (0..histories().len())
                        .map(|idx| {
                            let mut logits = row(idx).to_vec();
                            excluded.mask(&mut logits);
                            let allowed = allowed_at(idx);
                            expected_samplers[idx]
                                .sample_after(&logits, &histories()[idx], allowed.as_ref())
                                .unwrap()
                        })
                        .collect();
                    for (samplers, calls) in of_orders.iter_mut().zip(orders) {
                        let found =
                            sample_allowed(&mut engine, &logits, &excluded, samplers, calls, allowed_at);
                        for (idx, (found, expected)) in found.iter().zip(&expected).enumerate() {
                            let what = format!("{}: row {idx}, round {round}, {options:?}", case.name);
                            let found = found.unwrap_or_else(|| panic!("{what}: no token"));
                            assert_eq!(found.token, expected.token, "{what}");
                            let [found, expected] = [&found, expected]
                                .map(|s| [f64::from(s.log_prob), f64::from(s.sampling_log_prob)]);
                            let off = largest_difference(&found, &expected);
                            assert!(off <= tolerance.max(1e-5), "{what}: {found:?}, expected {expected:?}");
                            distinct.insert((idx, expected[0].to_bits()));
                        }
                    }
                }
                // As many random numbers were taken.
                for samplers in &mut of_orders {
                    for (found, expected) in samplers.iter_mut().zip(&expected_samplers) {
                        assert_eq!(found.uniform(), expected.clone().uniform(), "{}, {options:?}", case.name);
                    }
                }
            }
        }
        assert!(distinct.len() > 4 * histories().len(), "{}: {} tokens in all", case.name, distinct.len());
        let mut sampler = samplers(&plain()).remove(0);
        let mut steps =
            [SampleStep { row: histories().len(), sampler: &mut sampler, history: &[], allowed: None }];
        assert_refused!(
            engine.sample(&logits, &ExcludedTokens::none(), &mut steps),
            EngineError::Unsupported(_)
        );
    }
}

/// A token that is excluded is not sampled, though it is the most likely.
pub fn excluded_tokens_are_never_sampled<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let logits = logits_of(&mut engine);
        let none = ExcludedTokens::none();
        let greedy = SamplingOptions::default();
        let likeliest = sample(&mut engine, &logits, &none, &mut samplers(&greedy), &[&[0, 1, 2, 3, 4, 5]]);
        let excluded = ExcludedTokens::of(likeliest.iter().map(|sampled| sampled.unwrap().token));
        for options in all_sampling_options() {
            let mut samplers = samplers(&options);
            for _ in 0..10 {
                let found = sample(&mut engine, &logits, &excluded, &mut samplers, &[&[0, 1, 2, 3, 4, 5]]);
                let is_excluded = |s: &Option<SampledToken>| excluded.contains(s.unwrap().token);
                assert!(!found.iter().any(is_excluded), "{}, {options:?}: {found:?}", case.name);
            }
        }
        // The only one that is left.
        let others = ExcludedTokens::of((0..case.spec.vocab_size as TokenId).filter(|&token| token != 13));
        let found = sample(&mut engine, &logits, &others, &mut samplers(&plain()), &[&[0, 1, 2, 3, 4, 5]]);
        for sampled in found.into_iter().map(Option::unwrap) {
            assert_eq!((sampled.token, sampled.log_prob), (13, 0.0), "{}", case.name);
        }
    }
}

/// Where logits hold a NaN no token is sampled, and other rows are not changed by it.
pub fn no_token_is_sampled_from_logits_that_are_not_numbers<E: Engine>() {
    for case in decoders::<E>().into_iter().filter(|case| !case.spec.tie_word_embeddings) {
        let mut engine: E = case.load();
        let none = ExcludedTokens::none();
        let calls: &[&[usize]] = &[&[0, 1, 2, 3, 4, 5]];
        let logits = logits_of(&mut engine);
        let before = sample(&mut engine, &logits, &none, &mut samplers(&plain()), calls);
        assert!(before.iter().all(Option::is_some), "{}", case.name);
        // Token 7 is in the second and the third history.
        set_element(&mut engine, "model.embed_tokens.weight", 7 * case.spec.hidden_size, f32::NAN);
        let logits = logits_of(&mut engine);
        for options in all_sampling_options() {
            let found = sample(&mut engine, &logits, &none, &mut samplers(&options), calls);
            let has_token: Vec<bool> = found.iter().map(Option::is_some).collect();
            assert_eq!(has_token, [true, false, false, true, true, true], "{}, {options:?}", case.name);
        }
        let after = sample(&mut engine, &logits, &none, &mut samplers(&plain()), calls);
        for idx in [0, 3, 4, 5] {
            let [found, expected] = [&after, &before].map(|all| all[idx].unwrap().token);
            assert_eq!(found, expected, "{}: row {idx}", case.name);
        }
        // One logit of each row.
        let mut engine: E = case.load();
        set_element(&mut engine, "lm_head.weight", 17 * case.spec.hidden_size + 2, f32::NAN);
        let logits = logits_of(&mut engine);
        for options in all_sampling_options() {
            let found = sample(&mut engine, &logits, &none, &mut samplers(&options), calls);
            assert!(found.iter().all(Option::is_none), "{}, {options:?}: {found:?}", case.name);
        }
    }
}

/// A sampled token's log-probability is the trainer's, of a forward pass over history and token: over every token, or
/// over those that are not excluded.
pub fn sampled_log_probs_are_those_of_a_forward_pass<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let tolerance = guarantees.decoding_log_prob_tolerance;
        for excluded in [ExcludedTokens::none(), ExcludedTokens::of([0, 5, 6, 23])] {
            let logits = logits_of(&mut engine);
            let found =
                sample(&mut engine, &logits, &excluded, &mut samplers(&plain()), &[&[0, 1, 2, 3, 4, 5]]);
            for (history, sampled) in histories().iter().zip(found) {
                let sampled = sampled.unwrap();
                let batch = packed(&[[&history[..], &[sampled.token]].concat()]);
                let mut targets = batch.targets();
                let last = targets.rows.len() - 1;
                targets.rows.drain(..last);
                targets.tokens.drain(..last);
                targets.weights.drain(..last);
                let hidden = hidden(&mut engine, &batch);
                let request = HeadRequest::LogProbs {
                    targets: Cow::Borrowed(&targets),
                    temperature: 1.0,
                    excluded: excluded.clone(),
                    reference: None,
                };
                let expected = engine.head(&hidden, &request).unwrap().tokens.log_probs[0];
                let off = f64::from((sampled.log_prob - expected).abs());
                assert!(off <= tolerance, "{}: {}, expected {expected}", case.name, sampled.log_prob);
            }
        }
    }
}
