//! Ranks that divide the rows of each pack between them (Ulysses sequence parallelism), as threads of one process.
//! Engines that refuse to divide packs pass.

use std::borrow::Cow;

use truing_types::{ExcludedTokens, Groups, PackedBatch};

use super::heads::backward;
use super::ranks::load_sharded;
use super::support::{
    Case, SAVING, assert_refused, assert_same_bits, assert_same_gradients, bert, cases, decoders, distance,
    doubles, gradients, hidden, largest_difference, llama, load, norm, on_ranks, origin, packed, put_all,
    qwen3, reward_model, run_blocks, sequences, some_gradient,
};
use truing_model::{
    Adapters, DecoderSpec, DecodingWeights, Engine, EngineError, HeadGradient, HeadRequest, ModelSpec,
    Pooling, PutWeight, Reference, SaveActivations, TopLogProbs, TrainableSpec, ZeroStage,
};

/// The error of loading a model in a sequence group, if any.
fn refusal_in_group<E: Engine, S: Clone + Into<ModelSpec> + Sync>(
    case: &Case<S>,
    size: usize,
) -> Option<EngineError> {
    let load = |groups: &Groups| {
        let spec: ModelSpec = case.spec.clone().into();
        let parameters = spec.parameters();
        let mut weights = |put: &mut PutWeight<'_>| put_all(&parameters, put);
        E::load(spec, TrainableSpec::default(), &case.options, groups, &mut weights).err()
    };
    on_ranks(size, size, load).pop().flatten()
}

/// Whether the engine divides packs at all.
fn divides_packs<E: Engine>() -> bool {
    let case = &cases::<E, _>(&[("llama", llama())])[0];
    !matches!(refusal_in_group::<E, _>(case, 2), Some(EngineError::Unsupported(_)))
}

/// Sizes of more than one rank that a model can be divided over.
fn sizes(spec: &DecoderSpec) -> impl Iterator<Item = usize> {
    spec.sequence_parallel_sizes().into_iter().filter(|&size| size > 1)
}

/// Packs whose sequences cross ranks: without and with prefixes, and with fewer tokens than there may be ranks.
fn packs() -> [PackedBatch; 3] {
    let all = sequences();
    let (zeros, ones) = ([0.0; 8], [1.0; 8]);
    let with_prefixes = PackedBatch::with_prefixes([
        (&all[2][..7], &zeros[..7], origin(), None),
        (&all[0][..3], &ones[..3], origin(), Some(0)),
        (&all[3][..2], &ones[..2], origin(), None),
        (&all[0][2..8], &ones[..6], origin(), Some(0)),
    ]);
    [packed(&all), with_prefixes.unwrap(), packed(&[vec![5, 3, 5]])]
}

/// Log-probabilities and gradients of a pack, forward and backward.
fn pass<E: Engine>(
    engine: &mut E,
    batch: &PackedBatch,
    save: SaveActivations,
) -> (Vec<f32>, Vec<(usize, Vec<f32>)>) {
    engine.zero_gradients().unwrap();
    let targets = batch.targets();
    let (device, hidden, saved) = run_blocks(engine, batch, save, Adapters::Enabled);
    let d_log_probs = some_gradient(targets.rows.len());
    let (found, d_hidden) = engine.log_probs_backward(hidden, &targets, &d_log_probs).unwrap();
    let d_input = engine.segment_backward(&device, saved, d_hidden).unwrap();
    engine.embed_backward(&device, d_input).unwrap();
    engine.reduce_gradients().unwrap();
    (found.log_probs, gradients(engine))
}

/// Every rank of a sequence group has the log-probabilities of the whole pack, and their gradients add up to those of
/// one rank, whatever segments save.
pub fn a_sequence_group_computes_what_one_rank_does<E: Engine>() {
    if !divides_packs::<E>() {
        return;
    }
    let four_heads = |n_kv_heads| DecoderSpec { n_heads: 4, n_kv_heads, ..llama() };
    let more = cases::<E, _>(&[("4 key heads of 4", four_heads(4)), ("2 key heads of 4", four_heads(2))]);
    for case in decoders::<E>().into_iter().chain(more) {
        for batch in packs() {
            let mut alone: E = case.load();
            let guarantees = alone.guarantees();
            let (log_probs, expected) = pass(&mut alone, &batch, SaveActivations::Everything);
            for (size, save) in sizes(&case.spec).flat_map(|size| SAVING.map(|save| (size, save))) {
                let what = format!("{} on {size} ranks, {save:?}", case.name);
                let found = on_ranks(size, size, |groups| {
                    let trainable = TrainableSpec::default();
                    let mut engine: E = load(case.spec.clone(), &trainable, &case.options, groups);
                    pass(&mut engine, &batch, save)
                });
                for (of_rank, gradients) in &found {
                    let off = largest_difference(&doubles(of_rank), &doubles(&log_probs));
                    let tolerance = 2.0 * guarantees.log_prob_tolerance;
                    assert!(off <= tolerance, "{what}: a log-probability is {off:.2e} off");
                    let tolerance = 2.0 * guarantees.gradient_tolerance;
                    assert_same_gradients(gradients, &expected, false, tolerance, &what);
                    assert_same_bits(of_rank, &found[0].0, &what);
                    assert_same_gradients(gradients, &found[0].1, true, 0.0, &what);
                }
            }
        }
    }
}

/// Ranks of a sequence group may decode other texts, or none, before they divide packs again: with any states sharded.
pub fn ranks_of_a_sequence_group_may_decode_other_texts<E: Engine>() {
    if !divides_packs::<E>() {
        return;
    }
    let [_, batch, _] = packs();
    for case in cases::<E, _>(&[("llama", llama())]) {
        let mut alone: E = case.load();
        let (expected, _) = pass(&mut alone, &batch, SaveActivations::Everything);
        let tolerance = 2.0 * alone.guarantees().log_prob_tolerance;
        let spec = ModelSpec::from(case.spec.clone());
        for stage in ZeroStage::ALL {
            let found = on_ranks(2, 2, |groups| {
                let trainable = TrainableSpec::default();
                let mut engine: E = load_sharded(&spec, &trainable, &case.options, stage, groups)?;
                if groups.sequence.rank().0 == 0 {
                    let mut cache = engine.new_cache(8).unwrap();
                    engine.extend(&mut cache, &[3, 1, 4], DecodingWeights::F32).unwrap();
                }
                engine.join_others().unwrap();
                let hidden = hidden(&mut engine, &batch);
                let log_probs = engine.log_probs(&hidden, &batch.targets()).unwrap().log_probs;
                engine.join_others().unwrap();
                Some(log_probs)
            });
            for log_probs in found.into_iter().flatten() {
                let off = largest_difference(&doubles(&log_probs), &doubles(&expected));
                assert!(off <= tolerance, "{}, {stage:?}: a log-probability is {off:.2e} off", case.name);
            }
        }
    }
}

/// What the heads answer about a pack, number by number, and the gradients of the answers.
type Answers = (Vec<f32>, Vec<(usize, Vec<f32>)>);

/// A function that asks them.
type Ask<E> = fn(&mut E, &PackedBatch, &str) -> Answers;

fn answers<E: Engine>(
    engine: &mut E,
    batch: &PackedBatch,
    request: &HeadRequest<'_>,
    gradient: &HeadGradient,
    name: &str,
) -> Answers {
    let hidden = hidden(engine, batch);
    let output = engine.head(&hidden, request).unwrap();
    let tokens = output.tokens;
    let is_argmax = tokens.is_argmax.iter().map(|&is_argmax| f32::from(u8::from(is_argmax))).collect();
    let numbers =
        [tokens.log_probs, tokens.entropies, is_argmax, output.kl, output.scores, output.vectors].concat();
    engine.zero_gradients().unwrap();
    backward(engine, batch, request, gradient, name);
    engine.reduce_gradients().unwrap();
    (numbers, gradients(engine))
}

/// Log-probabilities with their divergence from a reference, after the reference's top tokens.
fn language_model_answers<E: Engine>(engine: &mut E, batch: &PackedBatch, name: &str) -> Answers {
    let targets = batch.targets();
    let n = targets.rows.len();
    let of_batch = hidden(engine, batch);
    let excluded = ExcludedTokens::of([23]);
    let top = engine.top_log_probs(&of_batch, &targets.rows, 0.7, &excluded, 5).unwrap();
    let same_tokens = engine.log_probs_of(&of_batch, &targets.rows, 1.2, &top).unwrap();
    let logits = engine.logits(&of_batch, &targets.rows[..n / 2]).unwrap();
    let host = |top: &TopLogProbs| top.host().map(|top| top.log_probs.clone()).unwrap_or_default();
    let tokens: Vec<f32> =
        top.host().map(|top| top.tokens.iter().map(|&token| token as f32).collect()).unwrap_or_default();
    let mut numbers = [tokens, host(&top), host(&same_tokens), logits].concat();
    let request = HeadRequest::LogProbs {
        targets: Cow::Borrowed(&targets),
        temperature: 1.3,
        excluded,
        reference: Some(Reference::from(top)),
    };
    let gradient = HeadGradient {
        log_probs: some_gradient(n),
        kl: some_gradient(n + 1)[1..].to_vec(),
        ..Default::default()
    };
    let (more, gradients) = answers(engine, batch, &request, &gradient, name);
    numbers.extend(more);
    (numbers, gradients)
}

fn score_answers<E: Engine>(engine: &mut E, batch: &PackedBatch, name: &str) -> Answers {
    // In another order than the pack's.
    let rows: Vec<u32> = batch.cumulative_lengths()[1..].iter().rev().map(|end| end - 1).collect();
    let gradient = HeadGradient { scores: some_gradient(2 * rows.len()), ..HeadGradient::default() };
    answers(engine, batch, &HeadRequest::Scores { rows: rows.into() }, &gradient, name)
}

fn vector_answers<E: Engine>(engine: &mut E, batch: &PackedBatch, name: &str) -> Answers {
    let n = batch.n_sequences() * engine.spec().hidden_size();
    let gradient = HeadGradient { vectors: some_gradient(n), ..HeadGradient::default() };
    let of = |engine: &mut E, pooling| {
        answers(engine, batch, &HeadRequest::pooled(batch, pooling, true), &gradient, name)
    };
    let all = [Pooling::Mean, Pooling::Cls, Pooling::LastToken].map(|pooling| of(engine, pooling));
    let (numbers, gradients): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    (numbers.concat(), gradients.concat())
}

/// Heads are asked about rows of the whole pack, in any order, and every rank gets the whole answer.
pub fn heads_of_a_sequence_group_answer_the_whole_request<E: Engine>() {
    if !divides_packs::<E>() {
        return;
    }
    let kinds: [(&str, DecoderSpec, Ask<E>); 3] = [
        ("language model", qwen3(), language_model_answers),
        ("score head", reward_model(2), score_answers),
        ("vectors", llama(), vector_answers),
    ];
    for (name, spec, ask) in kinds {
        for (case, batch) in cases::<E, _>(&[(name, spec)])
            .into_iter()
            .flat_map(|case| packs().map(|batch| (case.clone(), batch)))
        {
            let mut alone: E = case.load();
            let guarantees = alone.guarantees();
            let (numbers, expected) = ask(&mut alone, &batch, &case.name);
            for size in sizes(&case.spec) {
                let what = format!("{} on {size} ranks", case.name);
                let found = on_ranks(size, size, |groups| {
                    let trainable = TrainableSpec::default();
                    let mut engine: E = load(case.spec.clone(), &trainable, &case.options, groups);
                    ask(&mut engine, &batch, &case.name)
                });
                for (of_rank, gradients) in &found {
                    let off = distance(of_rank, &numbers) / norm(&numbers);
                    assert!(off <= 2.0 * guarantees.log_prob_tolerance, "{what}: answers are {off:.2e} off");
                    let tolerance = 2.0 * guarantees.gradient_tolerance;
                    assert_same_gradients(gradients, &expected, false, tolerance, &what);
                    assert_same_bits(of_rank, &found[0].0, &what);
                }
            }
        }
    }
}

/// A size has to divide the query heads, and to divide the key heads or be a multiple of them; encoders are not
/// divided.
pub fn sizes_that_the_heads_do_not_allow_are_refused<E: Engine>() {
    if !divides_packs::<E>() {
        return;
    }
    for case in cases::<E, _>(&[("llama", llama())]) {
        for size in [3, 4] {
            let refused = refusal_in_group::<E, _>(&case, size).map_or(Ok(()), Err);
            assert_refused!(
                refused,
                EngineError::SequenceParallelSize { size: found, n_heads: 6, n_kv_heads: 2, working }
                    if *found == size && *working == [1, 2, 6]
            );
        }
    }
    for case in cases::<E, _>(&[("bert", bert())]) {
        let refused = refusal_in_group::<E, _>(&case, 2).map_or(Ok(()), Err);
        assert_refused!(refused, EngineError::Unsupported(_));
    }
}
