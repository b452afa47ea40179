//! Gradients of the loss, against finite differences and against other divisions into segments.

use super::support::{
    Pass, SAVING, assert_same_gradients, assert_slopes, decoders, gradients, mean_loss, mean_loss_backward,
    packed, sequences,
};
use truing_model::Engine;

/// Along each parameter's gradient the loss has the gradient's norm as slope.
pub fn gradients_are_slopes<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let batch = packed(&sequences());
        mean_loss_backward(&mut engine, &batch, &Pass::WHOLE);
        let gradients = gradients(&engine);
        let noise = engine.guarantees().log_prob_tolerance;
        assert_slopes(&mut engine, &gradients, noise, &case.name, |engine| mean_loss(engine, &batch));
    }
}

/// Neither the number of blocks in a segment nor what a segment saves changes a gradient.
pub fn gradients_do_not_depend_on_segments<E: Engine>() {
    for case in decoders::<E>() {
        let batch = packed(&sequences());
        let mut expected = None;
        for (layers_per_segment, n_whole) in [(3, 1), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)] {
            for save in SAVING {
                let mut engine: E = case.load();
                let pass = Pass { layers_per_segment, n_whole, save };
                mean_loss_backward(&mut engine, &batch, &pass);
                let found = gradients(&engine);
                let expected = expected.get_or_insert_with(|| found.clone());
                let guarantees = engine.guarantees();
                let what = format!("{}: {pass:?}", case.name);
                let tolerance = 2.0 * guarantees.gradient_tolerance;
                assert_same_gradients(&found, expected, guarantees.is_deterministic, tolerance, what);
            }
        }
    }
}
