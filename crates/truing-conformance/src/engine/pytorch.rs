//! Small models of every family, and of BERT, against PyTorch in double precision.

use truing_parallel::Solo;
use truing_types::{PackedBatch, TargetTokens, TokenId};

use super::support::{
    FAMILIES, Pass, Worst, all_logits, all_options, distance, doubles, folder, gradient_scale, gradients,
    hidden, largest_difference, load_from, log_softmax, mean_loss, mean_loss_backward, norm, norm_of_all,
    origin, packed, read, run_blocks,
};
use truing_model::families::{ConfigFile, spec_from_config};
use truing_model::weights::{SafetensorsFile, SafetensorsFiles};
use truing_model::{
    AdamWStep, Adapters, EncoderFiles, Engine, EngineError, EngineOptions, HeadGradient, HeadRequest,
    OptimizerStep, ParameterTensor, PutWeight, SaveActivations, TrainableSpec,
};

/// A model of PyTorch's and what PyTorch makes of it.
pub(super) struct Fixture<E> {
    pub(super) name: String,
    pub(super) engine: E,
    pub(super) batch: PackedBatch,
    expected: SafetensorsFile,
}

impl<E: Engine> Fixture<E> {
    fn expected(&self, name: &str) -> Vec<f32> {
        self.expected.read(name).unwrap().values
    }

    fn scalar(&self, name: &str) -> f64 {
        f64::from(self.expected(name)[0])
    }

    /// The expected gradient of each parameter, in parameter order.
    fn expected_gradients(&self) -> Vec<Vec<f32>> {
        let parameters = self.engine.parameters().iter();
        parameters.map(|parameter| self.expected(&format!("gradient.{}", parameter.name))).collect()
    }

    /// Compares the gradients of all parameters.
    fn add_gradient_errors(&self, worst: &mut Worst) {
        let expected = self.expected_gradients();
        let norm_of_all = norm_of_all(expected.iter().map(|gradient| &gradient[..]));
        for ((idx, found), expected) in gradients(&self.engine).iter().zip(&expected) {
            let error = distance(found, expected) / gradient_scale(expected, norm_of_all);
            worst.add(error, || format!("{}, {}", self.name, self.engine.parameters()[*idx].name));
        }
    }
}

fn tokens_of(expected: &SafetensorsFile, sequence_idx: usize) -> Vec<TokenId> {
    let tokens = expected.read(&format!("tokens.{sequence_idx}")).unwrap().values;
    tokens.iter().map(|&token| token as TokenId).collect()
}

pub(super) fn open_decoder<E: Engine>(family: &str, options: &EngineOptions) -> Fixture<E> {
    let folder = folder(family);
    let spec = spec_from_config(&ConfigFile::open(&folder.join("config.json")).unwrap()).unwrap();
    let files = SafetensorsFiles::open(&folder).unwrap();
    let mut weights = |put: &mut PutWeight<'_>| {
        spec.parameters().iter().try_for_each(|parameter| {
            let tensor = files.read(&parameter.name)?;
            put(&parameter.name, &tensor.shape, tensor.values)
        })
    };
    let engine =
        load_from(spec.clone().into(), &TrainableSpec::default(), options, &Solo::groups(), &mut weights);
    let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
    let sequence =
        |i: usize| (tokens_of(&expected, i), expected.read(&format!("loss_weights.{i}")).unwrap().values);
    let sequences: Vec<_> = (0..3).map(sequence).collect();
    let batch = PackedBatch::new(sequences.iter().map(|(t, w)| (&t[..], &w[..], origin()))).unwrap();
    Fixture { name: format!("{family} in {:?}", options.dtype), engine, batch, expected }
}

fn open_encoder<E: Engine>(name: &str, options: &EngineOptions) -> Fixture<E> {
    let folder = folder(name);
    let files = EncoderFiles::open(&folder).unwrap();
    let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
    let sequences: Vec<_> = (0..4).map(|i| tokens_of(&expected, i)).collect();
    let name = format!("{name} in {:?}", options.dtype);
    Fixture { name, engine: load_encoder(&files, options), batch: packed(&sequences), expected }
}

fn load_encoder<E: Engine>(files: &EncoderFiles, options: &EngineOptions) -> E {
    let mut weights = |put: &mut PutWeight<'_>| {
        files.load_weights(|parameter, tensor| -> Result<(), EngineError> {
            put(&parameter.name, &tensor.shape, tensor.values)
        })
    };
    load_from(files.spec.clone().into(), &TrainableSpec::default(), options, &Solo::groups(), &mut weights)
}

fn encode<E: Engine>(engine: &mut E, batch: &PackedBatch) -> Vec<f32> {
    let spec = engine.spec().encoder().unwrap().clone();
    let hidden = hidden(engine, batch);
    engine.head(&hidden, &HeadRequest::vectors(batch, &spec)).unwrap().vectors
}

/// Zeroes the gradients, and adds those of the vectors' products with `d_vectors`; returns the vectors.
fn encode_backward<E: Engine>(engine: &mut E, batch: &PackedBatch, d_vectors: Vec<f32>) -> Vec<f32> {
    let spec = engine.spec().encoder().unwrap().clone();
    engine.zero_gradients().unwrap();
    let (device, hidden, saved) = run_blocks(engine, batch, SaveActivations::Everything, Adapters::Enabled);
    let request = HeadRequest::vectors(batch, &spec);
    let gradient = HeadGradient { vectors: d_vectors, ..HeadGradient::default() };
    let (output, d_hidden) = engine.head_backward(hidden, &request, &gradient).unwrap();
    let d_input = engine.segment_backward(&device, saved, d_hidden).unwrap();
    engine.embed_backward(&device, d_input).unwrap();
    output.vectors
}

const ENCODERS: [&str; 2] = ["bert_mean", "bert_cls"];

/// The largest error of a log-probability: of every token of the vocabulary at every row, from the head and from the
/// logits.
pub(super) fn log_prob_error<E: Engine>(options: &EngineOptions) -> Worst {
    let mut worst = Worst::default();
    for family in FAMILIES {
        let mut fixture = open_decoder::<E>(family, options);
        let vocab_size = fixture.engine.spec().vocab_size();
        let logits: Vec<f32> = (0..3).flat_map(|i| fixture.expected(&format!("logits.{i}"))).collect();
        let expected = log_softmax(&logits, vocab_size);
        let found = log_softmax(&all_logits(&mut fixture.engine, &fixture.batch), vocab_size);
        worst.add(largest_difference(&found, &expected), || format!("{}, logits", fixture.name));
        let targets = every_token(fixture.batch.n_tokens(), vocab_size);
        let hidden = hidden(&mut fixture.engine, &fixture.batch);
        let found = doubles(&fixture.engine.log_probs(&hidden, &targets).unwrap().log_probs);
        worst.add(largest_difference(&found, &expected), || format!("{}, head", fixture.name));
    }
    worst
}

/// Every token of the vocabulary as a target at every row.
pub(super) fn every_token(n_rows: usize, vocab_size: usize) -> TargetTokens {
    let n = n_rows * vocab_size;
    TargetTokens {
        rows: (0..n).map(|i| (i / vocab_size) as u32).collect(),
        tokens: (0..n).map(|i| (i % vocab_size) as TokenId).collect(),
        weights: vec![1.0; n],
    }
}

/// The largest error of a gradient, decoders' and encoders', as [`Guarantees`](truing_model::Guarantees) counts it.
pub(super) fn gradient_error<E: Engine>(options: &EngineOptions) -> Worst {
    let mut worst = Worst::default();
    for family in FAMILIES {
        for pass in [
            Pass::WHOLE,
            Pass { layers_per_segment: 1, n_whole: 0, save: SaveActivations::InputAndAttention },
        ] {
            let mut fixture = open_decoder::<E>(family, options);
            mean_loss_backward(&mut fixture.engine, &fixture.batch, &pass);
            fixture.add_gradient_errors(&mut worst);
        }
    }
    for name in ENCODERS {
        let mut fixture = open_encoder::<E>(name, options);
        let d_vectors = fixture.expected("d_vectors");
        encode_backward(&mut fixture.engine, &fixture.batch, d_vectors);
        fixture.add_gradient_errors(&mut worst);
    }
    worst
}

/// The largest error of an encoder's vector, as a share of its norm.
pub(super) fn vector_error<E: Engine>(options: &EngineOptions) -> Worst {
    let mut worst = Worst::default();
    for name in ENCODERS {
        let mut fixture = open_encoder::<E>(name, options);
        let found = encode(&mut fixture.engine, &fixture.batch);
        let expected = fixture.expected("vectors");
        assert_eq!(found.len(), expected.len(), "{}", fixture.name);
        let width = found.len() / fixture.batch.n_sequences();
        for (i, (found, expected)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
            worst.add(distance(found, expected) / norm(expected), || format!("{}, vector {i}", fixture.name));
        }
    }
    worst
}

/// Log-probabilities are within [`log_prob_tolerance`](truing_model::Guarantees::log_prob_tolerance) of those in double
/// precision.
pub fn log_probs_are_those_of_pytorch<E: Engine>() {
    for options in all_options::<E>() {
        let guarantees = open_decoder::<E>(FAMILIES[0], &options).engine.guarantees();
        log_prob_error::<E>(&options).assert_within(guarantees.log_prob_tolerance, "a log-probability");
    }
}

/// Gradients are within [`gradient_tolerance`](truing_model::Guarantees::gradient_tolerance) of those in double precision.
pub fn gradients_are_those_of_pytorch<E: Engine>() {
    for options in all_options::<E>() {
        let guarantees = open_decoder::<E>(FAMILIES[0], &options).engine.guarantees();
        gradient_error::<E>(&options).assert_within(guarantees.gradient_tolerance, "a gradient");
    }
}

/// Vectors are within [`vector_tolerance`](truing_model::Guarantees::vector_tolerance) of those in double precision.
pub fn vectors_are_those_of_pytorch<E: Engine>() {
    for options in all_options::<E>() {
        let guarantees = open_encoder::<E>(ENCODERS[0], &options).engine.guarantees();
        vector_error::<E>(&options).assert_within(guarantees.vector_tolerance, "a vector");
    }
}

/// Loss, gradient norms and weights over three steps of AdamW with clipping.
pub fn three_steps_of_a_decoder_are_those_of_pytorch<E: Engine>() {
    for options in all_options::<E>() {
        for family in FAMILIES {
            let mut fixture = open_decoder::<E>(family, &options);
            let guarantees = fixture.engine.guarantees();
            let name = fixture.name.clone();
            // Errors of earlier steps are in the later ones.
            let loss_tolerance = 4.0 * guarantees.log_prob_tolerance;
            let check_loss = |fixture: &mut Fixture<E>, expected: &str| {
                let found = mean_loss(&mut fixture.engine, &fixture.batch);
                let expected = fixture.scalar(expected);
                assert!(
                    (found - expected).abs() <= loss_tolerance,
                    "{name}: loss {found}, expected {expected}"
                );
            };
            check_loss(&mut fixture, "loss");
            for step in 1..=3 {
                let pass = Pass { layers_per_segment: 2, n_whole: 1, save: SaveActivations::Input };
                mean_loss_backward(&mut fixture.engine, &fixture.batch, &pass);
                let norm = fixture.engine.gradient_norm().unwrap();
                let expected = fixture.scalar(&format!("gradient_norm.{step}"));
                let error = (norm / expected - 1.0).abs();
                assert!(
                    error <= 4.0 * guarantees.gradient_tolerance,
                    "{name}: norm {norm}, expected {expected}"
                );
                let step = AdamWStep {
                    step,
                    learning_rate: 1e-3,
                    beta1: 0.9,
                    beta2: 0.95,
                    epsilon: 1e-8,
                    weight_decay: 0.1,
                    gradient_scale: (1.0 / (norm + 1e-6)).min(1.0) as f32,
                };
                fixture.engine.optimizer_step(&OptimizerStep::AdamW(step)).unwrap();
            }
            check_loss(&mut fixture, "loss_after.3");
            check_weights(&fixture, guarantees.gradient_tolerance);
        }
    }
}

/// Weights after three steps of 1e-3. Adam divides a gradient by its own size: the error of a step is that of the
/// gradient as a share of the element's size. Where an element is rounding alone, all that holds is that three steps
/// were taken.
fn check_weights<E: Engine>(fixture: &Fixture<E>, gradient_tolerance: f64) {
    let gradients = fixture.expected_gradients();
    let norm_of_all = norm_of_all(gradients.iter().map(|gradient| &gradient[..]));
    for (idx, (parameter, gradient)) in fixture.engine.parameters().iter().zip(&gradients).enumerate() {
        let found = read(&fixture.engine, idx, ParameterTensor::Value);
        let expected = fixture.expected(&format!("adamw.{}", parameter.name));
        assert_eq!(found.len(), expected.len());
        let gradient_error = gradient_tolerance * gradient_scale(gradient, norm_of_all);
        for ((&found, &expected), &gradient) in found.iter().zip(&expected).zip(gradient) {
            let share = (4.0 * gradient_error / f64::from(gradient.abs())).min(1.0);
            let off = f64::from((found - expected).abs());
            assert!(
                off <= 6e-3 * share + 1e-5,
                "{}: {} is {found}, expected {expected}, gradient {gradient}",
                fixture.name,
                parameter.name
            );
        }
    }
}

/// An encoder's vectors after three steps of AdamW.
pub fn three_steps_of_an_encoder_are_those_of_pytorch<E: Engine>() {
    for options in all_options::<E>() {
        for name in ENCODERS {
            let mut fixture = open_encoder::<E>(name, &options);
            let before = fixture.expected("vectors");
            for step in 1..=3 {
                let d_vectors = fixture.expected("d_vectors");
                encode_backward(&mut fixture.engine, &fixture.batch, d_vectors);
                let step = AdamWStep {
                    step,
                    learning_rate: 1e-3,
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay: 0.01,
                    gradient_scale: 1.0,
                };
                fixture.engine.optimizer_step(&OptimizerStep::AdamW(step)).unwrap();
            }
            let found = encode(&mut fixture.engine, &fixture.batch);
            let expected = fixture.expected("vectors_after_3");
            let guarantees = fixture.engine.guarantees();
            // As a share of the change, of which elements with a gradient of rounding alone are a small part.
            let allowed = 1e-3 + 4.0 * (guarantees.vector_tolerance + guarantees.gradient_tolerance);
            let error = distance(&found, &expected) / distance(&before, &expected);
            assert!(error <= allowed, "{}: after three steps {error:.2e} off", fixture.name);
        }
    }
}

/// Vectors of MiniLM (all-MiniLM-L6-v2) against those of sentence-transformers: `token_ids` and `vectors` of each
/// text. Not part of [`check`](super::check), as the weights are not part of the repository.
///
/// # Panics
/// When a vector differs by more than [`vector_tolerance`](truing_model::Guarantees::vector_tolerance), and the
/// reference's digits.
pub fn vectors_of_minilm<E: Engine>(model: &std::path::Path, token_ids: &[Vec<TokenId>], vectors: &[f32]) {
    let files = EncoderFiles::open(model).unwrap();
    for options in all_options::<E>() {
        let mut engine: E = load_encoder(&files, &options);
        let found = encode(&mut engine, &packed(token_ids));
        let width = files.spec.width();
        assert_eq!(found.len(), vectors.len());
        let tolerance = engine.guarantees().vector_tolerance + 1e-5;
        for (i, (found, expected)) in found.chunks(width).zip(vectors.chunks(width)).enumerate() {
            let error = distance(found, expected) / norm(expected);
            assert!(error <= tolerance, "vector {i} in {:?} is {error:.2e} off", options.dtype);
        }
    }
}
