//! How long plans say that completions take, against sums by hand.

use truing_model::{ParameterRole, TrainableSpec};
use truing_train::{Decoding, SegmentPlan, StepFlops, StepShape};

use crate::model;

/// Weights of one role.
fn n_weights(role: ParameterRole) -> f64 {
    model::spec().parameters().iter().filter(|p| p.role == role).map(|p| p.n_elements() as f64).sum()
}

fn decoding() -> Decoding {
    Decoding {
        n_prompts: 2.0,
        prompt_tokens: 10.0,
        n_completions: 8.0,
        completion_tokens: 20.0,
        n_running: 4,
        bytes_per_weight: 4.0,
        cache_bytes_per_token: 640,
    }
}

fn assert_close(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn slow_memory_decides_the_time_of_a_step() {
    let weights = n_weights(ParameterRole::Matrix) + n_weights(ParameterRole::Embedding);
    // Two waves of 4 completions, 20 steps each; contexts of 10 to 30 tokens.
    let bytes = 2.0 * 20.0 * (4.0 * weights + 4.0 * 20.0 * 640.0);
    assert_close(decoding().secs(&model::spec(), 1e12, 1e-3), bytes / 1e6);
    // All at once: half the steps, and the weights are read half as often.
    let at_once = Decoding { n_running: 100, ..decoding() };
    let bytes = 20.0 * (4.0 * weights + 8.0 * 20.0 * 640.0);
    assert_close(at_once.secs(&model::spec(), 1e12, 1e-3), bytes / 1e6);
    let halved = Decoding { bytes_per_weight: 2.0, cache_bytes_per_token: 320, ..decoding() };
    let ratio = decoding().secs(&model::spec(), 1e12, 1e-3) / halved.secs(&model::spec(), 1e12, 1e-3);
    assert_close(ratio, 2.0);
}

#[test]
fn slow_products_decide_it_where_many_run_together() {
    let spec = model::spec();
    let shape =
        |tokens: f64, loss_tokens, attention_pairs| StepShape { tokens, loss_tokens, attention_pairs };
    let flops = 2.0 * 20.0 * StepFlops::of_forward(&spec, &shape(4.0, 4.0, 4.0 * 20.0))
        + StepFlops::of_forward(&spec, &shape(20.0, 2.0, 2.0 * 55.0));
    assert_close(decoding().secs(&spec, 1e-3, 1e12), flops / 1e6);
}

#[test]
fn a_forward_pass_is_what_checkpointing_computes_again() {
    let (spec, shape) =
        (model::spec(), StepShape { tokens: 30.0, loss_tokens: 12.0, attention_pairs: 465.0 });
    // All segments but the last, of one layer each.
    let segments = SegmentPlan::checkpoint(model::N_LAYERS, 1);
    let recomputed = StepFlops::of(&spec, &TrainableSpec::default(), &shape, &segments).recomputed;
    let of_all_layers = recomputed * model::N_LAYERS as f64 / (model::N_LAYERS - 1) as f64;
    let head = 2.0 * n_weights(ParameterRole::Embedding) * shape.loss_tokens;
    assert_close(StepFlops::of_forward(&spec, &shape), of_all_layers + head);
}

#[test]
fn nothing_to_sample_takes_no_time() {
    let nothing = Decoding { n_completions: 0.0, n_prompts: 0.0, ..decoding() };
    assert_eq!(nothing.secs(&model::spec(), 1.0, 1.0), 0.0);
}
