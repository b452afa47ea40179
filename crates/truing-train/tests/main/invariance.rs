use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use truing_model::TrainableSpec;
use truing_model::engine::ParameterTensor;
use truing_parallel::{Solo, thread_world};
use truing_train::{Measures, SegmentPlan, Sft};
use truing_types::{Communicator, Groups, PackedBatch};

use crate::model::{self, N_LAYERS, deviation, gradients, lora, pack, samples};

const ROUNDING: f32 = 2e-6;

fn same_measures(left: &Measures, right: &Measures) {
    assert_eq!((left.n_tokens, left.n_loss_tokens), (right.n_tokens, right.n_loss_tokens));
    for (name, value) in &left.means {
        assert!((value - right.means[name]).abs() < 1e-6, "{name}: {value} and {}", right.means[name]);
    }
}

#[test]
fn the_cut_into_packs_does_not_change_the_gradient() {
    let samples = samples(13);
    for trainable in [TrainableSpec::default(), lora()] {
        let mut engine = model::engine(trainable);
        let plan = SegmentPlan::keep_everything(N_LAYERS);
        let (whole, measured) = gradients(&mut engine, &plan, &pack(&samples, 13), &Solo);
        assert!(measured.loss > 1.0 && measured.n_loss_tokens > 50);
        for sequences_per_pack in [1, 2, 5] {
            let packs = pack(&samples, sequences_per_pack);
            let (cut, measured_cut) = gradients(&mut engine, &plan, &packs, &Solo);
            assert!(deviation(&whole, &cut) < ROUNDING, "{}", deviation(&whole, &cut));
            same_measures(&measured, &measured_cut);
        }
    }
}

#[test]
fn k_and_what_is_kept_change_no_bit_of_the_gradient() {
    let packs = pack(&samples(12), 4);
    for trainable in [TrainableSpec::default(), lora()] {
        let mut engine = model::engine(trainable);
        let (expected, _) = gradients(&mut engine, &SegmentPlan::keep_everything(N_LAYERS), &packs, &Solo);
        for layers_per_segment in 1..=N_LAYERS {
            for n_kept in 1..=N_LAYERS.div_ceil(layers_per_segment) {
                for keeps_attention in [false, true] {
                    let plan =
                        SegmentPlan { n_layers: N_LAYERS, layers_per_segment, n_kept, keeps_attention };
                    let (found, _) = gradients(&mut engine, &plan, &packs, &Solo);
                    assert_eq!(expected, found, "{plan:?}");
                }
            }
        }
    }
}

#[test]
fn two_ranks_take_the_same_step_as_one() {
    let packs = pack(&samples(16), 2);
    let plan = SegmentPlan::checkpoint(N_LAYERS, 2);
    let mut alone = model::engine(TrainableSpec::default());
    let (expected, measured) = gradients(&mut alone, &plan, &packs, &Solo);
    for world_size in [2, 3] {
        let found: Vec<_> = thread::scope(|scope| {
            let ranks = thread_world(world_size).into_iter().map(|rank| {
                let packs: Vec<PackedBatch> =
                    packs.iter().skip(rank.rank().0).step_by(world_size).cloned().collect();
                scope.spawn(move || {
                    let groups = Groups::new(Arc::new(rank), 1).unwrap();
                    let mut engine = model::engine_on(&model::spec(), TrainableSpec::default(), &groups);
                    gradients(&mut engine, &plan, &packs, &*groups.data)
                })
            });
            let ranks: Vec<_> = ranks.collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for (gradient, measured_there) in &found {
            assert_eq!(gradient, &found[0].0, "ranks must agree bit for bit");
            assert!(deviation(&expected, gradient) < ROUNDING);
            same_measures(&measured, measured_there);
        }
    }
}

#[test]
fn a_few_steps_lower_the_loss_and_evaluation_agrees_with_training() {
    let packs = pack(&samples(12), 6);
    let steps: Vec<Vec<PackedBatch>> = packs.iter().map(|pack| vec![pack.clone()]).collect();
    for trainable in [TrainableSpec::default(), lora()] {
        let mut trainer = model::trainer(trainable, SegmentPlan::checkpoint(N_LAYERS, 2));
        let on_pack = &mut |_: &PackedBatch| ControlFlow::Continue(());
        let before = trainer.evaluate(&steps, &Sft, &Solo, &mut |_| ControlFlow::Continue(())).unwrap();
        let first = trainer.step(&packs, &Sft, &Solo, on_pack).unwrap();
        same_measures(&before, &first.measures);
        assert_eq!((first.step, first.learning_rate), (1, 5e-3));
        for _ in 0..7 {
            trainer.step(&packs, &Sft, &Solo, on_pack).unwrap();
        }
        let after = trainer.evaluate(&steps, &Sft, &Solo, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(after.loss < before.loss - 0.01, "{} after {}", after.loss, before.loss);
    }
}

#[test]
fn a_step_broken_off_changes_nothing() {
    let packs = pack(&samples(12), 3);
    let mut trainer = model::trainer(TrainableSpec::default(), SegmentPlan::keep_everything(N_LAYERS));
    let before = model::read_all(trainer.engine(), ParameterTensor::Value);
    let mut n_packs = 0;
    let error = trainer.step(&packs, &Sft, &Solo, &mut |_| {
        n_packs += 1;
        if n_packs == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(error, Err(truing_train::TrainError::BrokenOff)));
    assert_eq!((trainer.steps_taken(), n_packs), (0, 2));
    assert_eq!(before, model::read_all(trainer.engine(), ParameterTensor::Value));
}
