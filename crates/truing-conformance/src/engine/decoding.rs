//! Running sequences: the cache, prompts, and the copy of the weights in 8 bits.

use truing_types::TokenId;

use super::pytorch::open_decoder;
use super::support::{
    Case, FAMILIES, Pass, Worst, adamw, all_logits, all_options, assert_refused, assert_same_bits,
    assert_same_gradients, assert_same_logits, decoders, distance, first_and_last_projection, gradients,
    largest_difference, llama, load, log_softmax, mean_loss_backward, norm, packed, raise_adapters, read,
    sequences, untied_with_biases,
};
use truing_model::{
    DecoderSpec, DecodingWeights, Engine, EngineError, EngineOptions, LoraSpec, ParameterTensor,
    TrainableSpec,
};

const TOKENS: [TokenId; 7] = [3, 1, 4, 1, 5, 9, 2];

/// The logits after each token of a short text, one token at a time.
///
/// # Panics
/// When the engine returns an error.
pub fn decoded<E: Engine>(engine: &mut E, weights: DecodingWeights) -> Vec<f32> {
    let mut cache = engine.new_cache(TOKENS.len()).unwrap();
    let mut all = Vec::new();
    for token in TOKENS {
        let logits = engine.extend(&mut cache, &[token], weights).unwrap();
        all.extend(engine.read_logits(&logits).unwrap());
    }
    all
}

/// The logits after a prompt.
fn prompt_logits<E: Engine>(engine: &mut E, tokens: &[TokenId], weights: DecodingWeights) -> Vec<f32> {
    let mut cache = engine.new_cache(tokens.len()).unwrap();
    let logits = engine.extend(&mut cache, tokens, weights).unwrap();
    assert_eq!(engine.cache_len(&cache), tokens.len());
    engine.read_logits(&logits).unwrap()
}

/// How far logits are from others, as a share of their size.
fn share_off(found: &[f32], expected: &[f32]) -> f64 {
    distance(found, expected) / norm(expected)
}

/// The models whose engine makes a copy in 8 bits. An engine that makes none says so by its memory, and refuses.
fn with_a_copy_in_8_bits<E: Engine>() -> Vec<Case<DecoderSpec>> {
    let has_copy = |case: &Case<DecoderSpec>| {
        let memory = E::memory(&case.spec.clone().into(), &TrainableSpec::default(), case.options.dtype);
        if memory.quantized_bytes == 0 {
            let mut engine: E = case.load();
            let mut cache = engine.new_cache(1).unwrap();
            assert_refused!(
                engine.extend(&mut cache, &[1], DecodingWeights::Int8),
                EngineError::Unsupported(_)
            );
        }
        memory.quantized_bytes > 0
    };
    decoders::<E>().into_iter().filter(has_copy).collect()
}

/// Decodes `tokens` with prompts of several lengths, and compares each log-probability with those of a forward pass.
fn add_decoding_errors<E: Engine>(engine: &mut E, tokens: &[TokenId], name: &str, worst: &mut Worst) {
    let vocab_size = engine.spec().vocab_size();
    let expected = log_softmax(&all_logits(engine, &packed(&[tokens.to_vec()])), vocab_size);
    let row = |n_tokens: usize| &expected[(n_tokens - 1) * vocab_size..n_tokens * vocab_size];
    let mut add = |engine: &mut E, logits: &E::Logits, n_tokens: usize, what: &str| {
        let found = log_softmax(&engine.read_logits(logits).unwrap(), vocab_size);
        worst.add(largest_difference(&found, row(n_tokens)), || format!("{name}, {what} {n_tokens}"));
    };
    for n_prompt in [1, 4, 13, tokens.len()] {
        let n_prompt = n_prompt.min(tokens.len());
        let weights = DecodingWeights::F32;
        let mut cache = engine.new_cache(tokens.len()).unwrap();
        let mut logits = engine.extend(&mut cache, &tokens[..n_prompt], weights).unwrap();
        for n in n_prompt..=tokens.len() {
            assert_eq!(engine.cache_len(&cache), n, "{name}");
            add(engine, &logits, n, "after token");
            if n < tokens.len() {
                logits = engine.extend_each(&mut [&mut cache], &[tokens[n]], weights).unwrap();
            }
        }
        engine.truncate_cache(&mut cache, 2).unwrap();
        assert_eq!(engine.cache_len(&cache), 2, "{name}");
        let n_piece = 5.min(tokens.len());
        let logits = engine.extend(&mut cache, &tokens[2..n_piece], weights).unwrap();
        add(engine, &logits, n_piece, "after truncation at token");
        // Both continue without seeing each other.
        let mut fork = engine.fork_cache(&cache).unwrap();
        engine.extend(&mut cache, &[tokens[0]], weights).unwrap();
        let logits = engine.extend(&mut fork, &tokens[n_piece..=n_piece], weights).unwrap();
        add(engine, &logits, n_piece + 1, "after a fork at token");
    }
}

/// The largest difference between a log-probability while decoding and that of a forward pass.
pub(super) fn decoding_error<E: Engine>(options: &EngineOptions) -> Worst {
    let mut worst = Worst::default();
    for case in decoders::<E>().into_iter().filter(|case| case.options == *options) {
        add_decoding_errors::<E>(&mut case.load(), &sequences()[2], &case.name, &mut worst);
    }
    for family in FAMILIES {
        let mut fixture = open_decoder::<E>(family, options);
        let tokens = fixture.batch.tokens()[fixture.batch.sequence_range(0)].to_vec();
        add_decoding_errors(&mut fixture.engine, &tokens, &fixture.name, &mut worst);
    }
    worst
}

/// Log-probabilities while decoding are within
/// [`decoding_log_prob_tolerance`](truing_model::Guarantees::decoding_log_prob_tolerance) of those of a forward pass, after
/// prompts of any length, after a truncation and after a fork.
pub fn decoding_gives_the_log_probs_of_a_forward_pass<E: Engine>() {
    for options in all_options::<E>() {
        let engine = open_decoder::<E>(FAMILIES[0], &options).engine;
        let tolerance = engine.guarantees().decoding_log_prob_tolerance;
        decoding_error::<E>(&options).assert_within(tolerance, "a decoded log-probability");
    }
}

/// A decoded sequence's logits do not depend on which others run beside it.
pub fn a_decoded_sequence_does_not_depend_on_the_others<E: Engine>() {
    let weights_of = |case: &Case<DecoderSpec>| {
        let memory = E::memory(&case.spec.clone().into(), &TrainableSpec::default(), case.options.dtype);
        let all = [DecodingWeights::F32, DecodingWeights::Int8];
        all[..1 + usize::from(memory.quantized_bytes > 0)].to_vec()
    };
    let all = decoders::<E>()
        .into_iter()
        .flat_map(|case| weights_of(&case).into_iter().map(move |w| (case.clone(), w)));
    for (case, weights) in all {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let vocab_size = case.spec.vocab_size;
        let tokens = sequences()[2].clone();
        let mut prompts = Vec::new();
        for n in 0..40 {
            let mut cache = engine.new_cache(tokens.len()).unwrap();
            engine.extend(&mut cache, &tokens[..1 + n % 4], DecodingWeights::F32).unwrap();
            prompts.push(cache);
        }
        let mut logits_of = |n: usize, first: usize| {
            let mut caches: Vec<_> =
                prompts[first..first + n].iter().map(|cache| engine.fork_cache(cache).unwrap()).collect();
            let news: Vec<TokenId> = (first..first + n).map(|i| tokens[i % tokens.len()]).collect();
            let mut both = Vec::new();
            for _ in 0..2 {
                let mut borrowed: Vec<_> = caches.iter_mut().collect();
                let logits = engine.extend_each(&mut borrowed, &news, weights).unwrap();
                both.push(engine.read_logits(&logits).unwrap());
            }
            both
        };
        let all = logits_of(40, 0);
        for (n, first) in [(1, 0), (1, 17), (2, 5), (4, 30), (5, 2), (8, 11), (33, 7)] {
            for (all, some) in all.iter().zip(logits_of(n, first)) {
                let expected = &all[first * vocab_size..(first + n) * vocab_size];
                let (is_exact, tolerance) =
                    (guarantees.is_batch_invariant, 2.0 * guarantees.decoding_log_prob_tolerance);
                let what = format!("{}, {weights:?}: {n} sequences from {first}", case.name);
                assert_same_logits(&some, expected, vocab_size, is_exact, tolerance, what);
            }
        }
    }
}

/// Several tokens at once give the logits of one token after the other, after every one of them; and what is forgotten
/// afterwards leaves no trace.
pub fn several_tokens_at_once_give_the_logits_of_one_after_the_other<E: Engine>() {
    for case in decoders::<E>() {
        let memory = E::memory(&case.spec.clone().into(), &TrainableSpec::default(), case.options.dtype);
        let all = [DecodingWeights::F32, DecodingWeights::Int8];
        for weights in &all[..1 + usize::from(memory.quantized_bytes > 0)] {
            check_several_at_once::<E>(&case, *weights);
        }
    }
}

fn check_several_at_once<E: Engine>(case: &Case<DecoderSpec>, weights: DecodingWeights) {
    let mut engine: E = case.load();
    let guarantees = engine.guarantees();
    let (vocab_size, tolerance) = (case.spec.vocab_size, 2.0 * guarantees.decoding_log_prob_tolerance);
    // Sequences of different lengths with different numbers of new tokens.
    let token = |i: usize| (i * 7 % vocab_size) as TokenId;
    let prompts: Vec<Vec<TokenId>> =
        [1, 50, 5].map(|n_tokens| (0..n_tokens).map(|i| token(i + n_tokens)).collect()).into();
    let news: [&[TokenId]; 3] = [&[token(3), token(4)], &[token(9); 6], &[token(1)]];
    let read = |engine: &mut E| -> Vec<E::Cache> {
        let mut read_one = |prompt: &Vec<TokenId>| {
            let mut cache = engine.new_cache(60).unwrap();
            engine.extend(&mut cache, prompt, DecodingWeights::F32).unwrap();
            cache
        };
        prompts.iter().map(&mut read_one).collect()
    };
    let mut one_by_one = read(&mut engine);
    let mut expected = Vec::new();
    for (cache, new) in one_by_one.iter_mut().zip(news) {
        for token in new {
            let logits = engine.extend_each(&mut [&mut *cache], &[*token], weights).unwrap();
            expected.extend(engine.read_logits(&logits).unwrap());
        }
    }
    let mut at_once = read(&mut engine);
    let mut borrowed: Vec<_> = at_once.iter_mut().collect();
    let logits = engine.extend_each_by(&mut borrowed, &news, weights).unwrap();
    let found = engine.read_logits(&logits).unwrap();
    let is_exact = guarantees.is_batch_invariant;
    let what = |what: &str| format!("{}, {weights:?}: {what}", case.name);
    assert_same_logits(&found, &expected, vocab_size, is_exact, tolerance, what("several at once"));

    // The tokens after the first of each sequence are forgotten, and others follow.
    let mut after = Vec::new();
    for caches in [&mut one_by_one, &mut at_once] {
        for (cache, prompt) in caches.iter_mut().zip(&prompts) {
            engine.truncate_cache(cache, prompt.len() + 1).unwrap();
        }
        let mut borrowed: Vec<_> = caches.iter_mut().collect();
        let logits = engine.extend_each(&mut borrowed, &[token(2); 3], weights).unwrap();
        after.push(engine.read_logits(&logits).unwrap());
    }
    assert_same_logits(&after[1], &after[0], vocab_size, is_exact, tolerance, what("after a truncation"));
}

/// Where one of several sequences cannot be extended, none is.
pub fn failed_extensions_change_no_cache<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let weights = DecodingWeights::F32;
        let mut short = engine.new_cache(3).unwrap();
        assert_refused!(
            engine.extend(&mut short, &[1, 2, 3, 4], weights),
            EngineError::CacheFull { capacity: 3, needed: 4 }
        );
        assert_refused!(engine.extend(&mut short, &[], weights), EngineError::Unsupported(_));
        engine.extend(&mut short, &[1, 2, 3], weights).unwrap();
        let mut long = engine.new_cache(8).unwrap();
        engine.extend(&mut long, &[1, 2], weights).unwrap();
        let vocab_size = case.spec.vocab_size;
        let outside = vocab_size as TokenId;
        assert_refused!(
            engine.extend_each(&mut [&mut long, &mut short], &[1, 2], weights),
            EngineError::CacheFull { capacity: 3, needed: 4 }
        );
        assert_refused!(
            engine.extend_each(&mut [&mut long], &[outside], weights),
            EngineError::TokenOutOfRange { .. }
        );
        assert_refused!(
            engine.extend(&mut long, &[1, outside], weights),
            EngineError::TokenOutOfRange { .. }
        );
        assert_refused!(engine.extend_each(&mut [&mut long], &[1, 2], weights), EngineError::Unsupported(_));
        assert_refused!(
            engine.extend_each_by(&mut [&mut long], &[&[]], weights),
            EngineError::Unsupported(_)
        );
        assert_refused!(
            engine.extend_each_by(&mut [&mut long], &[&[1; 7]], weights),
            EngineError::CacheFull { capacity: 8, needed: 9 }
        );
        assert_eq!((engine.cache_len(&long), engine.cache_len(&short)), (2, 3), "{}", case.name);
        let mut untouched = engine.new_cache(8).unwrap();
        engine.extend(&mut untouched, &[1, 2], weights).unwrap();
        let mut both = Vec::new();
        for cache in [&mut long, &mut untouched] {
            let logits = engine.extend(cache, &[5], weights).unwrap();
            both.push(engine.read_logits(&logits).unwrap());
        }
        let guarantees = engine.guarantees();
        let tolerance = 2.0 * guarantees.decoding_log_prob_tolerance;
        assert_same_logits(&both[0], &both[1], vocab_size, guarantees.is_deterministic, tolerance, case.name);
    }
}

/// The copy in 8 bits is another model near the weights; it follows every change of the weights.
pub fn a_copy_in_8_bits_is_near_the_weights_and_follows_them<E: Engine>() {
    for case in with_a_copy_in_8_bits::<E>() {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let same = |found: &[f32], expected: &[f32], what: &str| {
            let tolerance = 2.0 * guarantees.decoding_log_prob_tolerance;
            let (vocab_size, what) = (case.spec.vocab_size, format!("{}: {what}", case.name));
            assert_same_logits(found, expected, vocab_size, guarantees.is_deterministic, tolerance, what);
        };
        let plain = decoded(&mut engine, DecodingWeights::F32);
        let before = decoded(&mut engine, DecodingWeights::Int8);
        let off = share_off(&before, &plain);
        assert!(off > 1e-4 && off < 0.1, "{}: 8 bits are {off} off", case.name);
        same(&decoded(&mut engine, DecodingWeights::F32), &plain, "the weights themselves again");
        mean_loss_backward(&mut engine, &packed(&[TOKENS.to_vec()]), &Pass::WHOLE);
        engine.optimizer_step(&adamw(1, 1e-2)).unwrap();
        let after = decoded(&mut engine, DecodingWeights::Int8);
        assert!(share_off(&after, &before) > 1e-3, "{}: the copy did not follow a step", case.name);
        let mut fresh: E = case.load();
        for idx in 0..engine.parameters().len() {
            let values = read(&engine, idx, ParameterTensor::Value);
            fresh.write(idx, ParameterTensor::Value, &values).unwrap();
        }
        same(&decoded(&mut fresh, DecodingWeights::Int8), &after, "an engine with the same weights");
        // Weights that are written after the copy was made, and while it is not in use.
        let original: E = case.load();
        decoded(&mut engine, DecodingWeights::F32);
        for idx in 0..engine.parameters().len() {
            let values = read(&original, idx, ParameterTensor::Value);
            engine.write(idx, ParameterTensor::Value, &values).unwrap();
        }
        same(&decoded(&mut engine, DecodingWeights::Int8), &before, "written weights");
    }
}

/// Adapters are added to the copy in 8 bits as they are.
pub fn adapters_are_added_in_full_to_8_bits<E: Engine>() {
    for case in with_a_copy_in_8_bits::<E>() {
        let lora = LoraSpec { rank: 2, alpha: 8.0, targets: first_and_last_projection(&case.spec) };
        let trainable = TrainableSpec { lora: Some(lora), frozen: Vec::new() };
        let mut engine: E = case.load_with(&trainable);
        let without = [DecodingWeights::F32, DecodingWeights::Int8].map(|w| decoded(&mut engine, w));
        raise_adapters(&mut engine);
        let with = [DecodingWeights::F32, DecodingWeights::Int8].map(|w| decoded(&mut engine, w));
        let change = share_off(&with[1], &without[1]);
        assert!(change > 0.2, "{}: adapters change 8 bits by {change}", case.name);
        let off = share_off(&with[1], &with[0]);
        assert!(off < 0.1, "{}: 8 bits with adapters are {off} off", case.name);
    }
}

/// Every token of a prompt is read with the weights themselves, at any length of the prompt; a forward and a backward
/// pass too.
pub fn prompts_and_training_do_not_read_the_copy_in_8_bits<E: Engine>() {
    for case in with_a_copy_in_8_bits::<E>() {
        let mut both = [DecodingWeights::F32, DecodingWeights::Int8].map(|weights| {
            let mut engine: E = case.load();
            decoded(&mut engine, weights);
            let batch = packed(&sequences());
            mean_loss_backward(&mut engine, &batch, &Pass::WHOLE);
            let prompts: Vec<Vec<f32>> =
                [2, 7].iter().map(|&n| prompt_logits(&mut engine, &TOKENS[..n], weights)).collect();
            (prompts, all_logits(&mut engine, &batch), gradients(&engine), engine.guarantees())
        });
        let [(prompts, logits, gradients, guarantees), with_copy] = &mut both;
        let is_exact = guarantees.is_deterministic;
        let (vocab_size, name) = (case.spec.vocab_size, &case.name);
        for (found, expected) in with_copy.0.iter().zip(prompts) {
            let tolerance = 2.0 * guarantees.decoding_log_prob_tolerance;
            assert_same_logits(found, expected, vocab_size, is_exact, tolerance, format!("{name}: prompt"));
        }
        let tolerance = 2.0 * guarantees.log_prob_tolerance;
        assert_same_logits(&with_copy.1, logits, vocab_size, is_exact, tolerance, format!("{name}: forward"));
        let tolerance = 2.0 * guarantees.gradient_tolerance;
        assert_same_gradients(&with_copy.2, gradients, is_exact, tolerance, name);
    }
    // Engines read long prompts in pieces, the last of which may be a single token.
    for case in with_a_copy_in_8_bits::<E>().iter().filter(|case| case.spec == llama()) {
        let spec = DecoderSpec { max_position_embeddings: 2048, ..untied_with_biases() };
        let mut engine: E =
            load(spec.clone(), &TrainableSpec::default(), &case.options, &truing_parallel::Solo::groups());
        let guarantees = engine.guarantees();
        for n_tokens in [257, 513, 1025] {
            let tokens: Vec<TokenId> = (0..n_tokens).map(|i| (i * 7 % 23) as TokenId).collect();
            let [plain, copy] = [DecodingWeights::F32, DecodingWeights::Int8]
                .map(|weights| prompt_logits(&mut engine, &tokens, weights));
            let what = format!("{}: a prompt of {n_tokens} tokens", case.name);
            if guarantees.is_deterministic {
                assert_same_bits(&copy, &plain, &what);
            }
            let tolerance = 2.0 * guarantees.decoding_log_prob_tolerance;
            let found = log_softmax(&copy, spec.vocab_size);
            let all = all_logits(&mut engine, &packed(&[tokens]));
            let expected = log_softmax(&all[all.len() - spec.vocab_size..], spec.vocab_size);
            let off = largest_difference(&found, &expected);
            assert!(off <= tolerance, "{what}: {off:.2e} off the forward pass");
        }
    }
}
