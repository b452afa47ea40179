//! The encoder: against PyTorch's numbers for a tiny BERT and the reference vectors of MiniLM, and against itself.

use std::path::{Path, PathBuf};

use truing_cpu::{CpuEncoder, CpuOptions, EncoderLoader};
use truing_model::engine::{OptimizerStep, ParameterTensor};
use truing_model::weights::SafetensorsFile;
use truing_model::{
    EncoderEngine, EncoderFiles, EncoderSpec, EngineError, Keep, ParameterRole, ParameterStore, Pooling,
    TrainableSpec,
};
use truing_types::{PackedBatch, RowOrigin, Seed, TokenId};

fn spec() -> EncoderSpec {
    EncoderSpec {
        vocab_size: 40,
        hidden_size: 12,
        intermediate_size: 20,
        n_layers: 3,
        n_heads: 3,
        max_position_embeddings: 32,
        n_token_types: 2,
        layer_norm_eps: 1e-5,
        pooling: Pooling::Mean,
        is_normalized: true,
        max_sequence_length: 32,
        is_lower_cased: false,
        n_outputs: None,
    }
}

/// An encoder whose weights are a fixed function of name and place.
fn tiny_encoder(spec: &EncoderSpec, trainable: &TrainableSpec, n_threads: usize) -> CpuEncoder {
    let options = CpuOptions { n_threads, ..CpuOptions::default() };
    let mut loader = EncoderLoader::new(spec.clone(), trainable.clone(), options).unwrap();
    for (idx, parameter) in spec.parameters().iter().enumerate() {
        let wave = |i: usize| ((i * 7919 + idx * 104_729 + 13) as f32 * 0.618).sin();
        let values = (0..parameter.n_elements()).map(|i| match parameter.role {
            ParameterRole::Norm => 1.0 + 0.2 * wave(i),
            ParameterRole::Embedding => 0.9 * wave(i),
            _ => 0.4 * wave(i),
        });
        loader.put(&parameter.name, &parameter.shape, values.collect()).unwrap();
    }
    loader.finish().unwrap()
}

fn packed(sequences: &[Vec<TokenId>]) -> PackedBatch {
    let weights: Vec<Vec<f32>> = sequences.iter().map(|tokens| vec![0.0; tokens.len()]).collect();
    let origin = |line: usize| RowOrigin { source: "test".into(), line: line as u64 + 1 };
    PackedBatch::new(
        sequences.iter().zip(&weights).enumerate().map(|(i, (t, w))| (&t[..], &w[..], origin(i))),
    )
    .unwrap()
}

fn sequences() -> Vec<Vec<TokenId>> {
    let tokens = |n: usize, seed: usize| (0..n).map(|i| ((i * 17 + seed * 5) % 40) as TokenId).collect();
    [(13, 1), (1, 2), (30, 3), (7, 4)].map(|(n, seed)| tokens(n, seed)).to_vec()
}

fn vectors(encoder: &mut CpuEncoder, sequences: &[Vec<TokenId>]) -> Vec<f32> {
    let batch = encoder.upload(&packed(sequences)).unwrap();
    encoder.encode(&batch, Keep::Nothing).unwrap().0
}

/// Fixed numbers, of ordinary size, for the gradient at the vectors.
fn some_gradient(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 31 + 7) as f32).cos()).collect()
}

fn gradients(encoder: &mut CpuEncoder, sequences: &[Vec<TokenId>], keep: Keep) -> Vec<Vec<f32>> {
    encoder.zero_gradients();
    let batch = encoder.upload(&packed(sequences)).unwrap();
    let (vectors, kept) = encoder.encode(&batch, keep).unwrap();
    encoder.backward(&batch, kept, &some_gradient(vectors.len())).unwrap();
    (0..encoder.parameters().len())
        .map(|idx| encoder.read(idx, ParameterTensor::Gradient).unwrap().into_owned())
        .collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}

/// What a gradient's error is a share of. The keys' bias moves every score of a query alike: its gradient is 0 but for
/// rounding, which is that of ordinary numbers.
fn scale_of(name: &str, gradient: &[f32]) -> f32 {
    let largest = gradient.iter().fold(1e-6_f32, |a, b| a.max(b.abs()));
    if name.ends_with("self.key.bias") { largest.max(1.0) } else { largest }
}

fn load(folder: &Path) -> CpuEncoder {
    let files = EncoderFiles::open(folder).unwrap();
    let options = CpuOptions { n_threads: 2, ..CpuOptions::default() };
    let mut loader = EncoderLoader::new(files.spec.clone(), TrainableSpec::default(), options).unwrap();
    files
        .load_weights(|parameter, tensor| {
            loader.put(&parameter.name, &tensor.shape, tensor.values).unwrap();
            Ok::<_, truing_model::ModelError>(())
        })
        .unwrap();
    loader.finish().unwrap()
}

#[test]
fn vectors_gradients_and_steps_are_pytorchs() {
    for name in ["bert_mean", "bert_cls"] {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
        let read = |name: &str| expected.read(name).unwrap().values;
        let sequences: Vec<Vec<TokenId>> =
            (0..4).map(|i| read(&format!("tokens.{i}")).iter().map(|&t| t as TokenId).collect()).collect();
        let mut encoder = load(&folder);
        let batch = encoder.upload(&packed(&sequences)).unwrap();
        for step in 1..=3 {
            encoder.zero_gradients();
            let (found, kept) = encoder.encode(&batch, Keep::Activations).unwrap();
            encoder.backward(&batch, kept, &read("d_vectors")).unwrap();
            if step == 1 {
                let difference = largest_difference(&found, &read("vectors"));
                assert!(difference < 2e-6, "{name}: a vector is {difference} off");
                for (idx, parameter) in encoder.parameters().to_vec().iter().enumerate() {
                    let found = encoder.read(idx, ParameterTensor::Gradient).unwrap();
                    let wanted = read(&format!("gradient.{}", parameter.name));
                    let difference = largest_difference(&found, &wanted) / scale_of(&parameter.name, &wanted);
                    assert!(
                        difference < 3e-5,
                        "{name}: the gradient of {} is {difference} off",
                        parameter.name
                    );
                }
            }
            let (learning_rate, epsilon) = (1e-3, 1e-8);
            let (beta1, beta2, weight_decay) = (0.9, 0.999, 0.01);
            let step = OptimizerStep {
                step,
                learning_rate,
                beta1,
                beta2,
                epsilon,
                weight_decay,
                gradient_scale: 1.0,
            };
            encoder.optimizer_step(&step);
        }
        let (found, _) = encoder.encode(&batch, Keep::Nothing).unwrap();
        let difference = largest_difference(&found, &read("vectors_after_3"));
        assert!(difference < 1e-4, "{name}: after three steps a vector is {difference} off");
    }
}

#[test]
fn gradients_are_slopes() {
    for spec in [
        spec(),
        EncoderSpec { pooling: Pooling::Cls, is_normalized: false, ..spec() },
        EncoderSpec { pooling: Pooling::LastToken, n_layers: 1, ..spec() },
        EncoderSpec { n_layers: 0, ..spec() },
        EncoderSpec { n_outputs: Some(5), is_normalized: false, ..spec() },
    ] {
        let mut encoder = tiny_encoder(&spec, &TrainableSpec::default(), 1);
        let gradients = gradients(&mut encoder, &sequences(), Keep::Activations);
        for (idx, gradient) in gradients.iter().enumerate() {
            let name = encoder.parameters()[idx].name.clone();
            let start = encoder.read(idx, ParameterTensor::Value).unwrap().into_owned();
            // Along the gradient itself the slope is its norm, and rounding matters least.
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            if norm < 1e-4 {
                continue;
            }
            let mut value_at = |step: f64| {
                let moved: Vec<f32> = start
                    .iter()
                    .zip(gradient)
                    .map(|(&v, &g)| (f64::from(v) + step * f64::from(g) / norm) as f32)
                    .collect();
                encoder.write(idx, ParameterTensor::Value, &moved).unwrap();
                let vectors = vectors(&mut encoder, &sequences());
                vectors
                    .iter()
                    .zip(some_gradient(vectors.len()))
                    .map(|(&v, d)| f64::from(v) * f64::from(d))
                    .sum::<f64>()
            };
            let step = 4e-3;
            let slope = (value_at(step) - value_at(-step)) / (2.0 * step);
            assert!((slope / norm - 1.0).abs() < 1e-2, "{name}: slope {slope}, gradient's norm {norm}");
            encoder.write(idx, ParameterTensor::Value, &start).unwrap();
        }
    }
}

#[test]
fn packed_is_unpacked_and_a_text_sees_itself_alone() {
    let mut encoder = tiny_encoder(&spec(), &TrainableSpec::default(), 2);
    let all = vectors(&mut encoder, &sequences());
    let alone: Vec<f32> =
        sequences().iter().flat_map(|s| vectors(&mut encoder, std::slice::from_ref(s))).collect();
    assert!(largest_difference(&all, &alone) < 2e-6);
    let mut changed = sequences();
    changed[2][5] = 39;
    let other = vectors(&mut encoder, &changed);
    for (i, (a, b)) in all.chunks(12).zip(other.chunks(12)).enumerate() {
        assert_eq!(a == b, i != 2, "text {i}");
    }

    let together = gradients(&mut encoder, &sequences(), Keep::Activations);
    encoder.zero_gradients();
    let d = some_gradient(all.len());
    for (sequence, d) in sequences().iter().zip(d.chunks(12)) {
        let batch = encoder.upload(&packed(std::slice::from_ref(sequence))).unwrap();
        let (_, kept) = encoder.encode(&batch, Keep::Activations).unwrap();
        encoder.backward(&batch, kept, d).unwrap();
    }
    for (idx, together) in together.iter().enumerate() {
        let apart = encoder.read(idx, ParameterTensor::Gradient).unwrap();
        let name = &encoder.parameters()[idx].name;
        assert!(largest_difference(together, &apart) / scale_of(name, together) < 1e-5, "{name}");
    }
}

#[test]
fn neither_threads_nor_what_is_kept_change_a_bit() {
    let mut one = tiny_encoder(&spec(), &TrainableSpec::default(), 1);
    let wanted = gradients(&mut one, &sequences(), Keep::Activations);
    for keep in [Keep::Activations, Keep::Input, Keep::InputAndAttention] {
        for n_threads in 1..=3 {
            let mut encoder = tiny_encoder(&spec(), &TrainableSpec::default(), n_threads);
            assert_eq!(gradients(&mut encoder, &sequences(), keep), wanted, "{keep:?}, {n_threads} threads");
            assert_eq!(vectors(&mut encoder, &sequences()), vectors(&mut one, &sequences()));
        }
    }
}

/// The output layer against sums in double precision over the same encoder's pooled vectors.
#[test]
fn an_output_layer_is_a_linear_function_of_the_pooled_vector() {
    let without = EncoderSpec { is_normalized: false, ..spec() };
    let with = EncoderSpec { n_outputs: Some(5), ..without.clone() };
    let pooled = vectors(&mut tiny_encoder(&without, &TrainableSpec::default(), 1), &sequences());
    let mut encoder = tiny_encoder(&with, &TrainableSpec::default(), 1);
    let outputs = vectors(&mut encoder, &sequences());
    assert_eq!(outputs.len(), 4 * 5);
    let n = encoder.parameters().len();
    let read = |idx: usize| encoder.read(idx, ParameterTensor::Value).unwrap().into_owned();
    let (weight, bias) = (read(n - 2), read(n - 1));
    for (i, &output) in outputs.iter().enumerate() {
        let (x, w) = (&pooled[i / 5 * 12..][..12], &weight[i % 5 * 12..][..12]);
        let sum: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
        let wanted = sum + f64::from(bias[i % 5]);
        assert!((f64::from(output) - wanted).abs() < 1e-6, "output {i}: {output} and {wanted}");
    }
}

#[test]
fn an_output_layer_that_was_not_loaded_is_drawn_by_seed() {
    let spec = EncoderSpec { n_outputs: Some(400), is_normalized: false, ..spec() };
    let drawn = |seed: u64| {
        let options = CpuOptions { n_threads: 1, seed: Seed(seed) };
        let mut loader = EncoderLoader::new(spec.clone(), TrainableSpec::default(), options).unwrap();
        for parameter in spec.parameters().iter().filter(|p| !p.name.starts_with("2_Dense")) {
            loader.put(&parameter.name, &parameter.shape, vec![0.5; parameter.n_elements()]).unwrap();
        }
        let encoder = loader.finish().unwrap();
        let n = encoder.parameters().len();
        [n - 2, n - 1].map(|idx| encoder.read(idx, ParameterTensor::Value).unwrap().into_owned())
    };
    let [weight, bias] = drawn(1);
    let deviation = (weight.iter().map(|w| w * w).sum::<f32>() / weight.len() as f32).sqrt();
    assert!((deviation / 0.02 - 1.0).abs() < 0.05, "{deviation}");
    assert!(bias.iter().all(|&b| b == 0.0));
    assert_eq!(drawn(1)[0], weight);
    assert_ne!(drawn(2)[0], weight);
}

#[test]
fn what_is_frozen_has_no_gradient() {
    let trainable = TrainableSpec { lora: None, frozen: vec!["embeddings.".into()] };
    let mut encoder = tiny_encoder(&spec(), &trainable, 1);
    encoder.zero_gradients();
    let batch = encoder.upload(&packed(&sequences())).unwrap();
    let (vectors, kept) = encoder.encode(&batch, Keep::Input).unwrap();
    encoder.backward(&batch, kept, &some_gradient(vectors.len())).unwrap();
    for idx in 0..encoder.parameters().len() {
        let is_frozen = encoder.parameters()[idx].name.starts_with("embeddings.");
        assert_eq!(encoder.read(idx, ParameterTensor::Gradient).is_err(), is_frozen);
    }
    assert!(encoder.gradient_norm() > 0.1);
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let mut encoder = tiny_encoder(&spec(), &TrainableSpec::default(), 1);
    let message = |encoder: &mut CpuEncoder, tokens: Vec<TokenId>| {
        encoder.upload(&packed(&[tokens])).unwrap_err().to_string()
    };
    assert_eq!(message(&mut encoder, vec![1, 40]), "token 40 is outside the vocabulary of 40");
    let wanted = "a sequence of 33 tokens, the model has 32 positions";
    assert_eq!(message(&mut encoder, vec![1; 33]), wanted);
    let batch = encoder.upload(&packed(&sequences())).unwrap();
    let (_, kept) = encoder.encode(&batch, Keep::Nothing).unwrap();
    assert!(matches!(encoder.backward(&batch, kept, &[0.0; 48]), Err(EngineError::Unsupported(_))));
    let (_, kept) = encoder.encode(&batch, Keep::Input).unwrap();
    assert!(matches!(encoder.backward(&batch, kept, &[0.0; 3]), Err(EngineError::ShapeMismatch { .. })));
}

#[test]
fn minilm_gives_the_reference_vectors() {
    let (Some(model), Some(shared)) =
        (std::env::var_os("TRUING_TEST_MINILM"), std::env::var_os("TRUING_TEST_SHARED"))
    else {
        println!("skipped: TRUING_TEST_MINILM and TRUING_TEST_SHARED name no weights and no reference");
        return;
    };
    let path = PathBuf::from(shared).join("data/reference/minilm_embeddings.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers = |row: &serde_json::Value, field: &str| -> Vec<f64> {
        row[field].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let sequences: Vec<Vec<TokenId>> =
        rows.iter().map(|row| numbers(row, "ids").iter().map(|&id| id as TokenId).collect()).collect();
    let wanted: Vec<f64> = rows.iter().flat_map(|row| numbers(row, "embedding")).collect();
    let found = vectors(&mut load(Path::new(&model)), &sequences);
    assert_eq!(found.len(), 40 * 384);
    let difference = found.iter().zip(&wanted).fold(0.0_f64, |a, (&f, &w)| a.max((f64::from(f) - w).abs()));
    assert!(difference < 2e-6, "a vector is {difference} off");
}
