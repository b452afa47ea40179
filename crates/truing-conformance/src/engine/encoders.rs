//! Encoders: packs, gradients, output layers.

use truing_types::{PackedBatch, TokenId};

use super::support::{
    Case, SAVING, assert_refused, assert_same_gradients, assert_same_vectors, assert_slopes, bert, cases,
    gradients, hidden, index_of, packed, read, run_blocks, some_gradient,
};
use truing_model::{
    Adapters, EncoderSpec, Engine, EngineError, EngineOptions, HeadGradient, HeadRequest, ParameterTensor,
    Pooling, SaveActivations, TrainableSpec,
};

fn sequences() -> Vec<Vec<TokenId>> {
    let tokens = |n: usize, seed: usize| (0..n).map(|i| ((i * 17 + seed * 5) % 40) as TokenId).collect();
    [(13, 1), (1, 2), (30, 3), (7, 4)].map(|(n, seed)| tokens(n, seed)).to_vec()
}

fn encoders<E: Engine>() -> Vec<Case<EncoderSpec>> {
    cases::<E, _>(&[
        ("mean", bert()),
        ("first token", EncoderSpec { pooling: Pooling::Cls, is_normalized: false, ..bert() }),
        ("last token", EncoderSpec { pooling: Pooling::LastToken, n_layers: 1, ..bert() }),
        ("no block", EncoderSpec { n_layers: 0, ..bert() }),
        ("output layer", EncoderSpec { n_outputs: Some(5), is_normalized: false, ..bert() }),
        ("normalised output layer", EncoderSpec { n_outputs: Some(5), ..bert() }),
    ])
}

fn vectors<E: Engine>(engine: &mut E, spec: &EncoderSpec, batch: &PackedBatch) -> Vec<f32> {
    let hidden = hidden(engine, batch);
    engine.head(&hidden, &HeadRequest::vectors(batch, spec)).unwrap().vectors
}

/// Adds the gradients of the vectors' product with `d_vectors`.
fn backward<E: Engine>(
    engine: &mut E,
    spec: &EncoderSpec,
    batch: &PackedBatch,
    save: SaveActivations,
    d_vectors: &[f32],
) {
    let (device, hidden, saved) = run_blocks(engine, batch, save, Adapters::Enabled);
    let gradient = HeadGradient { vectors: d_vectors.to_vec(), ..HeadGradient::default() };
    let (_, d_hidden) = engine.head_backward(hidden, &HeadRequest::vectors(batch, spec), &gradient).unwrap();
    let d_input = engine.segment_backward(&device, saved, d_hidden).unwrap();
    engine.embed_backward(&device, d_input).unwrap();
}

/// Along each parameter's gradient a sum of the vectors has the gradient's norm as slope.
pub fn gradients_of_encoders_are_slopes<E: Engine>() {
    for case in encoders::<E>() {
        let mut engine: E = case.load();
        let batch = packed(&sequences());
        let d = some_gradient(sequences().len() * case.spec.width());
        engine.zero_gradients().unwrap();
        backward(&mut engine, &case.spec, &batch, SaveActivations::Everything, &d);
        let size = vectors(&mut engine, &case.spec, &batch);
        let noise =
            engine.guarantees().vector_tolerance * super::support::norm(&size) * super::support::norm(&d);
        let mut gradients = gradients(&engine);
        // The keys' bias moves every score of a query alike: its gradient is 0 but for rounding.
        gradients.retain(|(idx, _)| !engine.parameters()[*idx].name.ends_with("self.key.bias"));
        assert_slopes(&mut engine, &gradients, noise, &case.name, |engine| {
            let vectors = vectors(engine, &case.spec, &batch);
            vectors.iter().zip(&d).map(|(&v, &d)| f64::from(v) * f64::from(d)).sum()
        });
    }
}

/// A text's vector in a pack is the one it has alone, other texts change nothing of it, and gradients add up.
pub fn a_text_is_encoded_alone_as_in_a_pack<E: Engine>() {
    for case in encoders::<E>() {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let (spec, width) = (&case.spec, case.spec.width());
        let batch = packed(&sequences());
        let all = vectors(&mut engine, spec, &batch);
        let alone: Vec<f32> =
            sequences().into_iter().flat_map(|s| vectors(&mut engine, spec, &packed(&[s]))).collect();
        let (is_exact, tolerance) = (guarantees.is_batch_invariant, 2.0 * guarantees.vector_tolerance);
        assert_same_vectors(&alone, &all, width, false, tolerance, format!("{}: alone", case.name));
        let mut changed = sequences();
        for token in &mut changed[2] {
            *token = (*token + 11) % 40;
        }
        let other = vectors(&mut engine, spec, &packed(&changed));
        for (i, (found, expected)) in other.chunks(width).zip(all.chunks(width)).enumerate() {
            let what = format!("{}: text {i}", case.name);
            if i == 2 {
                assert!(super::support::distance(found, expected) > 0.01, "{what} did not change");
            } else {
                assert_same_vectors(found, expected, width, is_exact, tolerance, what);
            }
        }
        let d = some_gradient(all.len());
        engine.zero_gradients().unwrap();
        backward(&mut engine, spec, &batch, SaveActivations::Everything, &d);
        let together = gradients(&engine);
        engine.zero_gradients().unwrap();
        for (sequence, d) in sequences().into_iter().zip(d.chunks(width)) {
            backward(&mut engine, spec, &packed(&[sequence]), SaveActivations::Everything, d);
        }
        let tolerance = 2.0 * guarantees.gradient_tolerance;
        assert_same_gradients(&gradients(&engine), &together, false, tolerance, &case.name);
    }
}

/// Neither the number of threads nor what a segment saves changes a vector or a gradient.
pub fn neither_threads_nor_saved_activations_change_vectors_or_gradients<E: Engine>() {
    for case in encoders::<E>() {
        let batch = packed(&sequences());
        let width = case.spec.width();
        let d = some_gradient(sequences().len() * width);
        let mut expected = None;
        for save in SAVING {
            for n_threads in 1..=3 {
                let mut case = case.clone();
                case.options = EngineOptions { n_threads, ..case.options };
                let mut engine: E = case.load();
                let guarantees = engine.guarantees();
                engine.zero_gradients().unwrap();
                backward(&mut engine, &case.spec, &batch, save, &d);
                let found = (gradients(&engine), vectors(&mut engine, &case.spec, &batch));
                let expected = expected.get_or_insert_with(|| found.clone());
                let what = format!("{}: {save:?}, {n_threads} threads", case.name);
                let is_exact = guarantees.is_deterministic;
                let tolerance = 2.0 * guarantees.gradient_tolerance;
                assert_same_gradients(&found.0, &expected.0, is_exact, tolerance, &what);
                let tolerance = 2.0 * guarantees.vector_tolerance;
                assert_same_vectors(&found.1, &expected.1, width, is_exact, tolerance, what);
            }
        }
    }
}

/// The output layer against sums in double precision over the same encoder's pooled vectors.
pub fn an_output_layer_is_a_linear_function_of_the_pooled_vector<E: Engine>() {
    let without = EncoderSpec { is_normalized: false, ..bert() };
    for case in cases::<E, _>(&[("output layer", EncoderSpec { n_outputs: Some(5), ..without.clone() })]) {
        let batch = packed(&sequences());
        let pooled_case = Case { name: case.name.clone(), spec: without.clone(), options: case.options };
        let pooled = vectors(&mut pooled_case.load::<E>(), &without, &batch);
        let mut engine: E = case.load();
        let outputs = vectors(&mut engine, &case.spec, &batch);
        assert_eq!(outputs.len(), 4 * 5, "{}", case.name);
        let [weight, bias] = ["weight", "bias"].map(|part| {
            read(&engine, index_of(&engine, &format!("2_Dense.linear.{part}")), ParameterTensor::Value)
        });
        let expected: Vec<f32> = (0..outputs.len())
            .map(|i| {
                let (x, w) = (&pooled[i / 5 * 12..][..12], &weight[i % 5 * 12..][..12]);
                let sum: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                (sum + f64::from(bias[i % 5])) as f32
            })
            .collect();
        let tolerance = 4.0 * engine.guarantees().vector_tolerance;
        assert_same_vectors(&outputs, &expected, 5, false, tolerance, &case.name);
    }
}

/// Frozen embeddings have no gradient, the other parameters do.
pub fn frozen_parameters_of_an_encoder_have_no_gradient<E: Engine>() {
    for case in cases::<E, _>(&[("bert", bert())]) {
        let trainable = TrainableSpec { lora: None, frozen: vec!["embeddings.".into()] };
        let mut engine: E = case.load_with(&trainable);
        engine.zero_gradients().unwrap();
        let d = some_gradient(sequences().len() * case.spec.width());
        backward(&mut engine, &case.spec, &packed(&sequences()), SaveActivations::Input, &d);
        for idx in 0..engine.parameters().len() {
            if engine.parameters()[idx].name.starts_with("embeddings.") {
                assert_refused!(engine.read(idx, ParameterTensor::Gradient), EngineError::Frozen { .. });
            } else {
                engine.read(idx, ParameterTensor::Gradient).unwrap();
            }
        }
        assert!(engine.gradient_norm().unwrap() > 0.1, "{}", case.name);
    }
}
