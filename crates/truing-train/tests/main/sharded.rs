//! Sharded states (ZeRO) in the trainer: the weights of replicated states, and checkpoints that any number of ranks
//! reads.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use truing_model::engine::ADAMW_STATE_NAMES;
use truing_model::{ParameterStore, ParameterTensor, SaveOptions, TrainableSpec, ZeroStage};
use truing_parallel::thread_world;
use truing_store::{CommittedDirectory, Digest, StagedDirectory};
use truing_train::checkpoint::{self, ModelSaveOptions, TrainerState};
use truing_train::{SegmentPlan, Sft};
use truing_types::{Groups, PackedBatch};

use crate::model::{self, N_LAYERS, lora, pack, samples};

/// What the first rank of `n_ranks` finds.
fn on_first_rank<T: Send>(n_ranks: usize, work: impl Fn(&Groups) -> Option<T> + Sync) -> T {
    let found = thread::scope(|scope| {
        let work = &work;
        let start = |rank| scope.spawn(move || work(&Groups::new(Arc::new(rank), 1).unwrap()));
        let ranks: Vec<_> = thread_world(n_ranks).into_iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
    });
    found.into_iter().flatten().next().unwrap()
}

/// All weights and moments, on the first rank.
fn states(engine: &truing_cpu::CpuEngine, groups: &Groups) -> Option<Vec<Vec<Vec<f32>>>> {
    if groups.world.rank().0 > 0 {
        engine.serve_reads().unwrap();
        return None;
    }
    let moments = ADAMW_STATE_NAMES.map(ParameterTensor::OptimizerState);
    let tensors = [ParameterTensor::Value].into_iter().chain(moments);
    let found = tensors.map(|tensor| model::read_all(engine, tensor)).collect();
    engine.finish_reads().unwrap();
    Some(found)
}

/// Trains some steps, from the checkpoint `from` if there is one, and saves one in `to`: the states at the end.
fn train(
    n_ranks: usize,
    stage: ZeroStage,
    trainable: &TrainableSpec,
    n_steps: u64,
    from: Option<&Path>,
    to: &Path,
) -> Vec<Vec<Vec<f32>>> {
    let packs = pack(&samples(24), 3);
    on_first_rank(n_ranks, |groups| {
        let engine = model::engine_sharded(trainable.clone(), groups, stage);
        let mut trainer = model::trainer_of(engine, SegmentPlan::checkpoint(N_LAYERS, 2));
        let mut state = TrainerState::start(5, Digest::of_bytes(b"recipe"));
        if let Some(from) = from {
            let directory = CommittedDirectory::open_verified(from).unwrap();
            state = checkpoint::restore(trainer.engine_mut(), &directory).unwrap();
            trainer.resume_at(state.step);
        }
        for _ in 0..n_steps {
            // Three packs a step: of two ranks one has more, of four one has none.
            let first = state.step as usize % 2 * 3;
            let rank = groups.data.rank().0;
            let mine: Vec<PackedBatch> =
                packs[first..first + 3].iter().skip(rank).step_by(n_ranks).cloned().collect();
            trainer.step(&mine, &Sft, &*groups.data, &mut |_| ControlFlow::Continue(())).unwrap();
            state.step += 1;
        }
        let engine = trainer.engine();
        if groups.world.rank().0 == 0 {
            let staged = StagedDirectory::begin(to).unwrap();
            let options = ModelSaveOptions::Decoder { options: SaveOptions::default(), base_model: None };
            checkpoint::save(engine, &state, &staged, &options).unwrap();
            staged.commit().unwrap();
            engine.finish_reads().unwrap();
        } else {
            engine.serve_reads().unwrap();
        }
        states(engine, groups)
    })
}

#[test]
fn ten_steps_with_sharded_optimiser_states_give_the_bits_of_replicated_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: String| folder.path().join(name);
    for (name, trainable) in [("all", TrainableSpec::default()), ("lora", lora())] {
        for n_ranks in [2, 3, 4] {
            let run = |stage: ZeroStage| {
                let to = path(format!("{name}-{n_ranks}-{stage:?}"));
                train(n_ranks, stage, &trainable, 10, None, &to)
            };
            let expected = run(ZeroStage::Replicated);
            assert!(run(ZeroStage::Optimizer) == expected, "{name}, {n_ranks} ranks");
            for stage in [ZeroStage::Gradients, ZeroStage::Parameters] {
                for (found, expected) in run(stage).iter().zip(&expected) {
                    let deviation = model::deviation(expected, found);
                    assert!(deviation <= 1e-3, "{name}, {n_ranks} ranks, {stage:?}: {deviation}");
                }
            }
        }
    }
}

/// A checkpoint says nothing of the ranks that have written it: a run goes from 2 ranks to 4, to 1, to 3.
#[test]
fn checkpoints_are_read_by_any_number_of_ranks() {
    for trainable in [TrainableSpec::default(), lora()] {
        let folder = tempfile::tempdir().unwrap();
        let mut from: Option<std::path::PathBuf> = None;
        let mut before = None;
        let runs = [
            (2, ZeroStage::Optimizer),
            (4, ZeroStage::Parameters),
            (1, ZeroStage::Replicated),
            (3, ZeroStage::Gradients),
            (2, ZeroStage::Replicated),
        ];
        for (i, (n_ranks, stage)) in runs.into_iter().enumerate() {
            let again = folder.path().join(format!("again-{i}"));
            if let Some(before) = before.take() {
                let found = train(n_ranks, stage, &trainable, 0, from.as_deref(), &again);
                assert!(found == before, "{n_ranks} ranks, {stage:?}: other states than were saved");
            }
            let to = folder.path().join(format!("checkpoint-{i}"));
            before = Some(train(n_ranks, stage, &trainable, 1, from.as_deref(), &to));
            from = Some(to);
        }
    }
}
