//! What a head answers: log-probabilities, the exact KL, scores, vectors, and the gradients of all of them.

use std::borrow::Cow;

use truing_types::{ExcludedTokens, PackedBatch, TargetTokens, TokenId};

use super::pytorch::every_token;
use super::support::{
    Case, all_logits, assert_same_vectors, assert_slopes, cases, decoders, distance, doubles, gradients,
    hidden, index_of, largest_difference, llama, log_softmax, norm, packed, qwen3, read, reward_model,
    run_blocks, sequences, some_gradient,
};
use truing_model::{
    Adapters, DecoderSpec, Divergence, Engine, HeadGradient, HeadOutput, HeadRequest, HostTopLogProbs,
    ParameterTensor, Pooling, Reference, SaveActivations, TopLogProbs,
};

const TEMPERATURE: f32 = 0.7;

fn excluded() -> ExcludedTokens {
    ExcludedTokens::of([0, 5, 6, 23])
}

/// Log-probabilities of logits that are divided by a temperature, over the tokens that are not excluded.
fn shaped(logits: &[f32], vocab_size: usize, temperature: f32, excluded: &ExcludedTokens) -> Vec<f64> {
    let mut logits: Vec<f32> = logits.iter().map(|z| z / temperature).collect();
    logits.chunks_exact_mut(vocab_size).for_each(|row| excluded.mask(row));
    log_softmax(&logits, vocab_size)
}

/// Runs a head and its backward pass, and adds all gradients. Asserts that the head alone answers the same.
pub(super) fn backward<E: Engine>(
    engine: &mut E,
    batch: &PackedBatch,
    request: &HeadRequest<'_>,
    gradient: &HeadGradient,
    what: &str,
) -> HeadOutput {
    let (device, hidden, saved) = run_blocks(engine, batch, SaveActivations::Everything, Adapters::Enabled);
    let alone = engine.head(&hidden, request).unwrap();
    let (output, d_hidden) = engine.head_backward(hidden, request, gradient).unwrap();
    if engine.guarantees().is_deterministic {
        assert_eq!(output, alone, "{what}: the head with and without its backward pass");
    }
    let d_input = engine.segment_backward(&device, saved, d_hidden).unwrap();
    engine.embed_backward(&device, d_input).unwrap();
    output
}

fn product(values: &[f32], weights: &[f32]) -> f64 {
    assert_eq!(values.len(), weights.len());
    values.iter().zip(weights).map(|(&v, &w)| f64::from(v) * f64::from(w)).sum()
}

/// Log-probabilities, entropies and most likely tokens, with and without temperature and excluded tokens, are those
/// of the logits.
pub fn log_probs_are_those_of_the_logits<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let tolerance = 2.0 * engine.guarantees().log_prob_tolerance;
        let vocab_size = case.spec.vocab_size;
        let batch = packed(&sequences());
        let logits = all_logits(&mut engine, &batch);
        let hidden = hidden(&mut engine, &batch);
        for (temperature, excluded) in
            [(1.0, ExcludedTokens::none()), (TEMPERATURE, ExcludedTokens::none()), (TEMPERATURE, excluded())]
        {
            let what = format!("{} at temperature {temperature}, {} excluded", case.name, excluded.len());
            let expected = shaped(&logits, vocab_size, temperature, &excluded);
            let mut targets = every_token(batch.n_tokens(), vocab_size);
            let is_asked = |i: usize| !excluded.contains((i % vocab_size) as TokenId);
            let asked: Vec<usize> = (0..targets.rows.len()).filter(|&i| is_asked(i)).collect();
            targets = TargetTokens {
                rows: asked.iter().map(|&i| targets.rows[i]).collect(),
                tokens: asked.iter().map(|&i| targets.tokens[i]).collect(),
                weights: vec![1.0; asked.len()],
            };
            let request = HeadRequest::LogProbs {
                targets: Cow::Borrowed(&targets),
                temperature,
                excluded: excluded.clone(),
                reference: None,
            };
            let found = engine.head(&hidden, &request).unwrap();
            assert!(found.kl.is_empty() && found.scores.is_empty() && found.vectors.is_empty(), "{what}");
            let wanted: Vec<f64> = asked.iter().map(|&i| expected[i]).collect();
            let tolerance = tolerance / f64::from(temperature);
            let off = largest_difference(&doubles(&found.tokens.log_probs), &wanted);
            assert!(off <= tolerance, "{what}: a log-probability is {off:.2e} off");
            for (target, &i) in asked.iter().enumerate() {
                let row = &expected[i / vocab_size * vocab_size..][..vocab_size];
                let entropy: f64 = row.iter().filter(|l| l.is_finite()).map(|l| -l.exp() * l).sum();
                let off = (f64::from(found.tokens.entropies[target]) - entropy).abs();
                assert!(off <= tolerance * (1.0 + entropy), "{what}: an entropy is {off:.2e} off");
                let highest_other = row
                    .iter()
                    .enumerate()
                    .filter(|(token, _)| *token != i % vocab_size)
                    .fold(f64::NEG_INFINITY, |highest, (_, &l)| highest.max(l));
                // Where two tokens are equally likely either may be the first.
                if (expected[i] - highest_other).abs() > tolerance {
                    let is_argmax = expected[i] > highest_other;
                    assert_eq!(found.tokens.is_argmax[target], is_argmax, "{what}: target {target}");
                }
            }
        }
    }
}

/// The highest tokens, of those that are not excluded, by falling log-probability; they sum to 1. Where an engine
/// leaves them on its device, their number of rows.
pub fn top_log_probs_are_the_highest_renormalised<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let vocab_size = case.spec.vocab_size;
        let batch = packed(&sequences());
        let logits = all_logits(&mut engine, &batch);
        let hidden = hidden(&mut engine, &batch);
        let rows = [2, 20, 9, 9];
        for (k, excluded) in [(1, ExcludedTokens::none()), (7, excluded()), (1000, excluded())] {
            let what = format!("{}: the {k} highest", case.name);
            let expected = shaped(&logits, vocab_size, TEMPERATURE, &excluded);
            let tolerance = 2.0 * engine.guarantees().log_prob_tolerance / f64::from(TEMPERATURE);
            let top = engine.top_log_probs(&hidden, &rows, TEMPERATURE, &excluded, k).unwrap();
            assert_eq!(top.n_rows(), rows.len(), "{what}");
            let Some(top) = top.host() else { continue };
            assert_eq!(top.k, k.min(vocab_size - excluded.len()), "{what}");
            assert_eq!(
                (top.tokens.len(), top.log_probs.len()),
                (rows.len() * top.k, rows.len() * top.k),
                "{what}"
            );
            for (i, &row) in rows.iter().enumerate() {
                let expected = &expected[row as usize * vocab_size..][..vocab_size];
                let (tokens, log_probs) =
                    (&top.tokens[i * top.k..][..top.k], &top.log_probs[i * top.k..][..top.k]);
                let wanted: Vec<f64> = tokens.iter().map(|&token| expected[token as usize]).collect();
                let total = wanted.iter().map(|l| l.exp()).sum::<f64>().ln();
                let wanted: Vec<f64> = wanted.iter().map(|l| l - total).collect();
                let off = largest_difference(&doubles(log_probs), &wanted);
                assert!(off <= 2.0 * tolerance, "{what}: a log-probability is {off:.2e} off");
                assert!(log_probs.is_sorted_by(|a, b| a >= b), "{what}: {log_probs:?}");
                let mut distinct = tokens.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), top.k, "{what}: {tokens:?}");
                let lowest = tokens.iter().map(|&t| expected[t as usize]).fold(f64::INFINITY, f64::min);
                let is_left_out = |token: &usize| !tokens.contains(&(*token as TokenId));
                let highest_left_out = (0..vocab_size)
                    .filter(is_left_out)
                    .map(|token| expected[token])
                    .fold(f64::NEG_INFINITY, f64::max);
                assert!(highest_left_out <= lowest + tolerance, "{what}: a higher token was left out");
                assert!(!tokens.iter().any(|&token| excluded.contains(token)), "{what}: {tokens:?}");
            }
        }
    }
}

/// An engine whose model is another one, for references.
fn other_model<E: Engine>(case: &Case<DecoderSpec>) -> E {
    let mut engine: E = case.load();
    let idx = index_of(&engine, "model.norm.weight");
    let values = read(&engine, idx, ParameterTensor::Value);
    let changed: Vec<f32> = values.iter().enumerate().map(|(i, v)| v * (0.5 + 0.1 * i as f32)).collect();
    engine.write(idx, ParameterTensor::Value, &changed).unwrap();
    engine
}

const DIVERGENCES: [Divergence; 3] =
    [Divergence::ReverseKl, Divergence::ForwardKl, Divergence::JensenShannon { beta: 0.3 }];

/// A divergence of two distributions, given by log-probabilities, in double precision.
fn divergence_of(divergence: Divergence, p: &[f64], q: &[f64]) -> f64 {
    let kl = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a.exp() * (a - b)).sum::<f64>();
    match divergence {
        Divergence::ReverseKl => kl(p, q),
        Divergence::ForwardKl => kl(q, p),
        Divergence::JensenShannon { beta } => {
            let mixed = |(p, q): (&f64, &f64)| (beta * q.exp() + (1.0 - beta) * p.exp()).ln();
            let m: Vec<f64> = p.iter().zip(q).map(mixed).collect();
            beta * kl(q, &m) + (1.0 - beta) * kl(p, &m)
        }
    }
}

/// The divergences from another model's top log-probabilities, as a handle and from the host, against sums in
/// double precision; and the log-probabilities of that model's tokens.
pub fn kl_is_that_of_the_renormalised_distributions<E: Engine>() {
    for case in decoders::<E>() {
        let (mut engine, mut other): (E, E) = (case.load(), other_model(&case));
        let vocab_size = case.spec.vocab_size;
        let batch = packed(&sequences());
        let targets = batch.targets();
        let excluded = excluded();
        let policy = shaped(&all_logits(&mut engine, &batch), vocab_size, TEMPERATURE, &excluded);
        let reference = shaped(&all_logits(&mut other, &batch), vocab_size, TEMPERATURE, &excluded);
        // The KL over some tokens at a row, and the largest ratio that is in it.
        let kl_over = |divergence: Divergence, row: u32, tokens: &[TokenId]| {
            let of = |log_probs: &[f64]| -> Vec<f64> {
                let of_tokens = tokens.iter().map(|&t| log_probs[row as usize * vocab_size + t as usize]);
                let total = of_tokens.clone().map(f64::exp).sum::<f64>().ln();
                of_tokens.map(|l| l - total).collect()
            };
            let (p, q) = (of(&policy), of(&reference));
            let ratios = p.iter().zip(&q).map(|(p, q)| p - q);
            (divergence_of(divergence, &p, &q), ratios.fold(0.0, |a: f64, r| a.max(r.abs())))
        };
        let all_tokens: Vec<TokenId> =
            (0..vocab_size as TokenId).filter(|&t| !excluded.contains(t)).collect();
        let hidden_of_other = hidden(&mut other, &batch);
        let hidden = hidden(&mut engine, &batch);
        let tolerance = engine.guarantees().log_prob_tolerance / f64::from(TEMPERATURE);
        let mut check = |top: TopLogProbs, tokens_of: &dyn Fn(usize) -> Vec<TokenId>, what: &str| {
            for divergence in DIVERGENCES {
                let request = HeadRequest::LogProbs {
                    targets: Cow::Borrowed(&targets),
                    temperature: TEMPERATURE,
                    excluded: excluded.clone(),
                    reference: Some(Reference { top: top.clone(), divergence }),
                };
                let found = engine.head(&hidden, &request).unwrap().kl;
                assert_eq!(found.len(), targets.rows.len());
                assert!(found.iter().any(|&kl| kl > 0.01), "{}, {what}: the models hardly differ", case.name);
                for (i, (&found, &row)) in found.iter().zip(&targets.rows).enumerate() {
                    let (expected, largest_ratio) = kl_over(divergence, row, &tokens_of(i));
                    let off = (f64::from(found) - expected).abs();
                    let allowed = 4.0 * tolerance * (1.0 + largest_ratio);
                    assert!(
                        found >= 0.0 && off <= allowed,
                        "{}, {what}: {divergence:?} {found}, expected {expected}",
                        case.name
                    );
                }
            }
        };
        let k = all_tokens.len();
        let all = other.top_log_probs(&hidden_of_other, &targets.rows, TEMPERATURE, &excluded, k).unwrap();
        check(all, &|_| all_tokens.clone(), "over every token");
        // From the host, as from a server: the first six tokens of the reference at each row.
        let mut host = HostTopLogProbs { k: 6, ..HostTopLogProbs::default() };
        for &row in &targets.rows {
            let row = &reference[row as usize * vocab_size..][..vocab_size];
            let mut tokens = all_tokens.clone();
            tokens.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
            tokens.truncate(6);
            let total = tokens.iter().map(|&t| row[t as usize].exp()).sum::<f64>().ln();
            host.log_probs.extend(tokens.iter().map(|&t| (row[t as usize] - total) as f32));
            host.tokens.extend(tokens);
        }
        let tokens = host.tokens.clone();
        let host = TopLogProbs::from(host);
        check(host.clone(), &|i| tokens[6 * i..6 * (i + 1)].to_vec(), "over six tokens from the host");
        // The log-probabilities of the same tokens, by the model itself and by the other one.
        for (engine, hidden, log_probs) in
            [(&mut engine, &hidden, &policy), (&mut other, &hidden_of_other, &reference)]
        {
            let found = engine.log_probs_of(hidden, &targets.rows, TEMPERATURE, &host).unwrap();
            let Some(HostTopLogProbs { k: 6, tokens: found_tokens, log_probs: found }) = found.host() else {
                continue;
            };
            assert_eq!(found_tokens, &tokens);
            for (i, &row) in targets.rows.iter().enumerate() {
                let of = |token: &TokenId| log_probs[row as usize * vocab_size + *token as usize];
                let tokens = &tokens[6 * i..6 * (i + 1)];
                let total = tokens.iter().map(|token| of(token).exp()).sum::<f64>().ln();
                for (token, &found) in tokens.iter().zip(&found[6 * i..6 * (i + 1)]) {
                    let off = (f64::from(found) - (of(token) - total)).abs();
                    assert!(off <= 4.0 * tolerance, "{}: {found} of token {token}, off by {off}", case.name);
                }
            }
        }
    }
}

/// The KL divergence of a model with itself is 0: in every bit where the engine is deterministic.
pub fn the_kl_of_a_model_with_itself_is_zero<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let batch = packed(&sequences());
        let targets = batch.targets();
        for (temperature, excluded, k) in [
            (1.0, ExcludedTokens::none(), 5),
            (1.0, ExcludedTokens::none(), 24),
            (TEMPERATURE, excluded(), 9),
        ] {
            // The reference is computed in a pass of its own, as that of a training step is.
            let hidden_of_reference = hidden(&mut engine, &batch);
            let reference =
                engine.top_log_probs(&hidden_of_reference, &targets.rows, temperature, &excluded, k).unwrap();
            let hidden = hidden(&mut engine, &batch);
            for divergence in DIVERGENCES {
                let request = HeadRequest::LogProbs {
                    targets: Cow::Borrowed(&targets),
                    temperature,
                    excluded: excluded.clone(),
                    reference: Some(Reference { top: reference.clone(), divergence }),
                };
                let found = engine.head(&hidden, &request).unwrap().kl;
                assert_eq!(found.len(), targets.rows.len());
                let allowed =
                    if guarantees.is_deterministic { 0.0 } else { 4.0 * guarantees.log_prob_tolerance };
                for kl in found {
                    let name = &case.name;
                    assert!(f64::from(kl.abs()) <= allowed, "{name}: {divergence:?} {kl} over {k} tokens");
                }
            }
        }
    }
}

/// Along each parameter's gradient a weighted sum of log-probabilities and KL divergences has the gradient's norm as
/// slope.
pub fn gradients_of_log_probs_and_kl_are_slopes<E: Engine>() {
    for (case, divergence) in
        decoders::<E>().into_iter().flat_map(|case| DIVERGENCES.map(|one| (case.clone(), one)))
    {
        let (mut engine, mut other): (E, E) = (case.load(), other_model(&case));
        let batch = packed(&sequences());
        let targets = batch.targets();
        let mut targets = TargetTokens { weights: vec![1.0; targets.rows.len()], ..targets };
        for token in &mut targets.tokens {
            if excluded().contains(*token) {
                *token = 1;
            }
        }
        let hidden_of_other = hidden(&mut other, &batch);
        let reference =
            other.top_log_probs(&hidden_of_other, &targets.rows, TEMPERATURE, &excluded(), 8).unwrap();
        let request = HeadRequest::LogProbs {
            targets: Cow::Borrowed(&targets),
            temperature: TEMPERATURE,
            excluded: excluded(),
            reference: Some(Reference { top: reference, divergence }),
        };
        let n = targets.rows.len();
        let share = |values: Vec<f32>| values.iter().map(|v| v / n as f32).collect::<Vec<_>>();
        let gradient = HeadGradient {
            log_probs: share(some_gradient(n)),
            kl: share(some_gradient(2 * n)[n..].to_vec()),
            ..HeadGradient::default()
        };
        engine.zero_gradients().unwrap();
        backward(&mut engine, &batch, &request, &gradient, &case.name);
        let gradients = gradients(&engine);
        let noise = 10.0 * engine.guarantees().log_prob_tolerance;
        assert_slopes(&mut engine, &gradients, noise, &case.name, |engine| {
            let hidden = hidden(engine, &batch);
            let output = engine.head(&hidden, &request).unwrap();
            product(&output.tokens.log_probs, &gradient.log_probs) + product(&output.kl, &gradient.kl)
        });
    }
}

/// Each sequence's last hidden state after the final norm `[n_sequences, hidden]`.
fn last_vectors<E: Engine>(engine: &mut E, batch: &PackedBatch) -> Vec<f32> {
    let hidden = hidden(engine, batch);
    engine.head(&hidden, &HeadRequest::pooled(batch, Pooling::LastToken, false)).unwrap().vectors
}

fn last_rows(batch: &PackedBatch) -> Vec<u32> {
    batch.cumulative_lengths()[1..].iter().map(|end| end - 1).collect()
}

/// Scores at the last tokens are the products of the last vectors with the head.
pub fn scores_are_products_with_the_last_vectors<E: Engine>() {
    for case in cases::<E, _>(&[("reward model", reward_model(1)), ("classifier", reward_model(3))]) {
        let mut engine: E = case.load();
        let batch = packed(&sequences());
        let vectors = last_vectors(&mut engine, &batch);
        let weight = read(&engine, index_of(&engine, "score.weight"), ParameterTensor::Value);
        let hidden = hidden(&mut engine, &batch);
        let request = HeadRequest::Scores { rows: last_rows(&batch).into() };
        let found = engine.head(&hidden, &request).unwrap().scores;
        let width = case.spec.hidden_size;
        let n_outputs = weight.len() / width;
        assert_eq!(found.len(), batch.n_sequences() * n_outputs, "{}", case.name);
        let tolerance = 2.0 * engine.guarantees().vector_tolerance;
        for (i, &found) in found.iter().enumerate() {
            let (x, w) =
                (&vectors[i / n_outputs * width..][..width], &weight[i % n_outputs * width..][..width]);
            let off = (f64::from(found) - product(x, w)).abs();
            assert!(off <= tolerance * norm(x) * norm(w), "{}: score {i} is {off:.2e} off", case.name);
        }
    }
}

/// Along each parameter's gradient a weighted sum of scores has the gradient's norm as slope.
pub fn gradients_of_scores_are_slopes<E: Engine>() {
    for case in cases::<E, _>(&[("reward model", reward_model(1)), ("classifier", reward_model(3))]) {
        let mut engine: E = case.load();
        let batch = packed(&sequences());
        let request = HeadRequest::Scores { rows: last_rows(&batch).into() };
        let weight = read(&engine, index_of(&engine, "score.weight"), ParameterTensor::Value);
        let n_scores = batch.n_sequences() * weight.len() / case.spec.hidden_size;
        let d: Vec<f32> = some_gradient(n_scores).iter().map(|d| d / n_scores as f32).collect();
        let gradient = HeadGradient { scores: d.clone(), ..HeadGradient::default() };
        engine.zero_gradients().unwrap();
        backward(&mut engine, &batch, &request, &gradient, &case.name);
        let size = norm(&last_vectors(&mut engine, &batch)) * norm(&weight) * norm(&d);
        let noise = engine.guarantees().vector_tolerance * size;
        let gradients = gradients(&engine);
        assert_slopes(&mut engine, &gradients, noise, &case.name, |engine| {
            let hidden = hidden(engine, &batch);
            product(&engine.head(&hidden, &request).unwrap().scores, &d)
        });
    }
}

const POOLINGS: [Pooling; 3] = [Pooling::Mean, Pooling::Cls, Pooling::LastToken];

/// A decoder's vectors are its states after the final norm, pooled and normalised; their products with the head are
/// the logits.
pub fn vectors_of_a_decoder_are_its_pooled_states<E: Engine>() {
    for case in cases::<E, _>(&[("llama", llama()), ("query-key norm", qwen3())]) {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let tolerance = 2.0 * guarantees.vector_tolerance;
        let (width, vocab_size) = (case.spec.hidden_size, case.spec.vocab_size);
        let batch = packed(&sequences());
        let hidden = hidden(&mut engine, &batch);
        // Each token as a sequence of its own.
        let each: Vec<u32> = (0..=batch.n_tokens() as u32).collect();
        let request = HeadRequest::Vectors {
            cumulative_lengths: each.into(),
            pooling: Pooling::Mean,
            is_normalized: false,
        };
        let states = engine.head(&hidden, &request).unwrap().vectors;
        let logits = all_logits(&mut engine, &batch);
        let head = read(&engine, index_of(&engine, "model.embed_tokens.weight"), ParameterTensor::Value);
        for (i, &logit) in logits.iter().enumerate() {
            let (x, w) =
                (&states[i / vocab_size * width..][..width], &head[i % vocab_size * width..][..width]);
            let off = (f64::from(logit) - product(x, w)).abs();
            assert!(off <= tolerance * norm(x) * norm(w), "{}: logit {i} is {off:.2e} off", case.name);
        }
        for (pooling, is_normalized) in POOLINGS.iter().flat_map(|&p| [(p, false), (p, true)]) {
            let what = format!("{}: {pooling:?}, normalised {is_normalized}", case.name);
            let request = HeadRequest::pooled(&batch, pooling, is_normalized);
            let found = engine.head(&hidden, &request).unwrap().vectors;
            let mut expected = Vec::new();
            for sequence_idx in 0..batch.n_sequences() {
                let range = batch.sequence_range(sequence_idx);
                let (first, last) = (range.start, range.end - 1);
                let rows = match pooling {
                    Pooling::Mean => first..=last,
                    Pooling::Cls => first..=first,
                    Pooling::LastToken => last..=last,
                };
                let n_rows = rows.clone().count() as f64;
                let mean = |d: usize| {
                    rows.clone().map(|row| f64::from(states[row * width + d])).sum::<f64>() / n_rows
                };
                let vector: Vec<f32> = (0..width).map(|d| mean(d) as f32).collect();
                let divisor = if is_normalized { norm(&vector) } else { 1.0 };
                expected.extend(vector.iter().map(|x| (f64::from(*x) / divisor) as f32));
            }
            assert_same_vectors(&found, &expected, width, false, tolerance, what);
        }
    }
}

/// Along each parameter's gradient a weighted sum of a decoder's vectors has the gradient's norm as slope. The head,
/// which no vector goes through, has none.
pub fn gradients_of_vectors_of_a_decoder_are_slopes<E: Engine>() {
    let untied = DecoderSpec { tie_word_embeddings: false, ..qwen3() };
    for case in cases::<E, _>(&[("llama", llama()), ("untied with query-key norm", untied)]) {
        for (pooling, is_normalized) in POOLINGS.iter().flat_map(|&p| [(p, false), (p, true)]) {
            let what = format!("{}: {pooling:?}, normalised {is_normalized}", case.name);
            let mut engine: E = case.load();
            let batch = packed(&sequences());
            let request = HeadRequest::pooled(&batch, pooling, is_normalized);
            let n = batch.n_sequences() * case.spec.hidden_size;
            let d: Vec<f32> = some_gradient(n).iter().map(|d| d / (n as f32).sqrt()).collect();
            let gradient = HeadGradient { vectors: d.clone(), ..HeadGradient::default() };
            engine.zero_gradients().unwrap();
            let output = backward(&mut engine, &batch, &request, &gradient, &what);
            let noise = engine.guarantees().vector_tolerance * norm(&output.vectors) * norm(&d);
            let mut gradients = gradients(&engine);
            if !case.spec.tie_word_embeddings {
                let head = index_of(&engine, "lm_head.weight");
                assert!(read(&engine, head, ParameterTensor::Gradient).iter().all(|&g| g == 0.0), "{what}");
                gradients.retain(|(idx, _)| *idx != head);
            }
            assert_slopes(&mut engine, &gradients, noise, &what, |engine| {
                let hidden = hidden(engine, &batch);
                product(&engine.head(&hidden, &request).unwrap().vectors, &d)
            });
            // An empty gradient is one of zero.
            engine.zero_gradients().unwrap();
            backward(&mut engine, &batch, &request, &HeadGradient::default(), &what);
            let zeros = vec![0.0; gradients[0].1.len()];
            let found = read(&engine, gradients[0].0, ParameterTensor::Gradient);
            assert_eq!(distance(&found, &zeros), 0.0, "{what}");
        }
    }
}
