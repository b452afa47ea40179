//! A small random model of every family against PyTorch in float64: logits, loss, every gradient, three
//! optimiser steps. The numbers were made once by `fixtures/make.py`.

use std::path::PathBuf;

use truing_cpu::{CpuEngine, CpuOptions, Loader};
use truing_model::engine::{OptimizerStep, ParameterTensor};
use truing_model::families::{ConfigFile, spec_from_config};
use truing_model::weights::{SafetensorsFile, SafetensorsFiles};
use truing_model::{ParameterStore, TrainableSpec};
use truing_types::{PackedBatch, RowOrigin};

use crate::support::{Pass, all_logits, backward_pass, gradients, loss};

const FAMILIES: [&str; 5] = ["llama_tied_llama3_rope", "llama_untied_biases", "qwen2", "qwen3", "mistral"];

struct Fixture {
    engine: CpuEngine,
    expected: SafetensorsFile,
    batch: PackedBatch,
}

fn open(family: &str) -> Fixture {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(family);
    let spec = spec_from_config(&ConfigFile::open(&folder.join("config.json")).unwrap()).unwrap();
    let weights = SafetensorsFiles::open(&folder).unwrap();
    let options = CpuOptions { n_threads: 2, ..CpuOptions::default() };
    let mut loader = Loader::new(spec.clone(), TrainableSpec::default(), options).unwrap();
    for parameter in spec.parameters() {
        let tensor = weights.file_of(&parameter.name).unwrap().read(&parameter.name).unwrap();
        loader.put(&parameter.name, &tensor.shape, tensor.values).unwrap();
    }
    let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
    let sequences: Vec<(Vec<u32>, Vec<f32>)> = (0..3)
        .map(|i| {
            let tokens = expected.read(&format!("tokens.{i}")).unwrap().values;
            let weights = expected.read(&format!("loss_weights.{i}")).unwrap().values;
            (tokens.iter().map(|&t| t as u32).collect(), weights)
        })
        .collect();
    let origin = RowOrigin { source: family.into(), line: 1 };
    let batch = PackedBatch::new(sequences.iter().map(|(t, w)| (&t[..], &w[..], origin.clone()))).unwrap();
    Fixture { engine: loader.finish().unwrap(), expected, batch }
}

/// The largest difference, as a share of the largest expected value.
fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    found.iter().zip(expected).fold(0.0_f32, |a, (f, e)| a.max((f - e).abs())) / largest.max(1e-6)
}

#[test]
fn logits_and_loss_are_pytorchs() {
    for family in FAMILIES {
        let Fixture { mut engine, expected, batch } = open(family);
        let found = all_logits(&mut engine, &batch);
        let wanted: Vec<f32> =
            (0..3).flat_map(|i| expected.read(&format!("logits.{i}")).unwrap().values).collect();
        let difference = found.iter().zip(&wanted).fold(0.0_f32, |a, (f, w)| a.max((f - w).abs()));
        assert!(difference < 1e-4, "{family}: a logit is {difference} off");
        let wanted = f64::from(expected.read("loss").unwrap().values[0]);
        let found = loss(&mut engine, &batch);
        assert!((found - wanted).abs() < 1e-5, "{family}: loss {found}, expected {wanted}");
    }
}

#[test]
fn every_gradient_is_pytorchs() {
    for family in FAMILIES {
        for pass in [
            Pass { layers_per_segment: 3, n_kept: 1, keeps_attention: false },
            Pass { layers_per_segment: 1, n_kept: 0, keeps_attention: true },
        ] {
            let Fixture { mut engine, expected, batch } = open(family);
            engine.zero_gradients();
            backward_pass(&mut engine, &batch, &pass);
            let parameters = engine.parameters().to_vec();
            for (parameter, found) in parameters.iter().zip(gradients(&engine)) {
                let wanted = expected.read(&format!("gradient.{}", parameter.name)).unwrap();
                let difference = relative_difference(&found, &wanted.values);
                assert!(difference < 3e-5, "{family}: gradient of {} is {difference} off", parameter.name);
            }
        }
    }
}

#[test]
fn three_optimiser_steps_are_pytorchs() {
    for family in FAMILIES {
        let Fixture { mut engine, expected, batch } = open(family);
        let scalar = |name: String| f64::from(expected.read(&name).unwrap().values[0]);
        for step in 1..=3 {
            engine.zero_gradients();
            backward_pass(
                &mut engine,
                &batch,
                &Pass { layers_per_segment: 2, n_kept: 1, keeps_attention: false },
            );
            let norm = engine.gradient_norm();
            let wanted = scalar(format!("gradient_norm.{step}"));
            assert!((norm / wanted - 1.0).abs() < 1e-4, "{family}: norm {norm}, expected {wanted}");
            engine.optimizer_step(&OptimizerStep {
                step,
                learning_rate: 1e-3,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.1,
                gradient_scale: (1.0 / (norm + 1e-6)).min(1.0) as f32,
            });
        }
        let (found, wanted) = (loss(&mut engine, &batch), scalar("loss_after.3".into()));
        assert!((found - wanted).abs() < 1e-4, "{family}: loss after 3 steps {found}, expected {wanted}");
        for (idx, parameter) in engine.parameters().to_vec().iter().enumerate() {
            let found = engine.read(idx, ParameterTensor::Value).unwrap();
            let wanted = expected.read(&format!("adamw.{}", parameter.name)).unwrap();
            let gradient = expected.read(&format!("gradient.{}", parameter.name)).unwrap();
            for ((&found, &wanted), &gradient) in found.iter().zip(&wanted.values).zip(&gradient.values) {
                // Adam divides the gradient by its own size: where that is rounding, so is the direction, and
                // all that holds is that three steps of 1e-3 were taken.
                let tolerance = if gradient.abs() > 1e-4 { 5e-5 } else { 6e-3 };
                assert!(
                    (found - wanted).abs() < tolerance,
                    "{family}: {} is {found}, expected {wanted}, gradient {gradient}",
                    parameter.name
                );
            }
        }
    }
}
