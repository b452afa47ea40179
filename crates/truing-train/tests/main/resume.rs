use std::ops::ControlFlow;

use truing_cpu::CpuEngine;
use truing_model::engine::ADAMW_STATE_NAMES;
use truing_model::{ParameterTensor, SaveOptions, TrainableSpec};
use truing_parallel::Solo;
use truing_store::{CommittedDirectory, Digest, StagedDirectory};
use truing_train::checkpoint::{self, CheckpointError, ModelSaveOptions, TrainerState};
use truing_train::{SegmentPlan, Sft, Trainer};

use crate::model::{self, N_LAYERS, lora, pack, samples};

fn options() -> ModelSaveOptions<'static> {
    ModelSaveOptions::Decoder { options: SaveOptions::default(), base_model: None }
}

fn take_steps(trainer: &mut Trainer<CpuEngine>, n_steps: usize) {
    let packs = pack(&samples(24), 3);
    for _ in 0..n_steps {
        let first = trainer.steps_taken() as usize % 4 * 2;
        let step = &packs[first..first + 2];
        trainer.step(step, &Sft, &Solo, &mut |_| ControlFlow::Continue(())).unwrap();
    }
}

#[test]
fn resumed_weights_and_moments_equal_the_uninterrupted_ones_bit_for_bit() {
    for trainable in [TrainableSpec::default(), lora()] {
        let plan = SegmentPlan::checkpoint(N_LAYERS, 2);
        let mut straight = model::trainer(trainable.clone(), plan);
        take_steps(&mut straight, 7);

        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("checkpoint-3");
        let mut first = model::trainer(trainable.clone(), plan);
        take_steps(&mut first, 3);
        let staged = StagedDirectory::begin(&target).unwrap();
        let mut state = TrainerState::start(5, Digest::of_bytes(b"recipe"));
        state.step = 3;
        assert!(state.note_evaluation(2.5) && !state.note_evaluation(2.75));
        checkpoint::save(first.engine(), &state, &staged, &options()).unwrap();
        staged.commit().unwrap();
        drop(first);

        let mut second = model::trainer(trainable, plan);
        let directory = CommittedDirectory::open_verified(&target).unwrap();
        let restored = checkpoint::restore(second.engine_mut(), &directory).unwrap();
        assert_eq!(restored, state);
        second.resume_at(restored.step);
        take_steps(&mut second, 4);
        let moments = ADAMW_STATE_NAMES.map(ParameterTensor::OptimizerState);
        for tensor in [ParameterTensor::Value].into_iter().chain(moments) {
            let expected = model::read_all(straight.engine(), tensor);
            assert_eq!(expected, model::read_all(second.engine(), tensor), "{tensor:?}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("checkpoint-1");
    let staged = StagedDirectory::begin(&target).unwrap();
    let state = TrainerState::start(5, Digest::of_bytes(b"recipe"));
    checkpoint::save(&model::engine(lora()), &state, &staged, &options()).unwrap();
    let directory = staged.commit().unwrap();
    let mut wider = lora();
    wider.lora.as_mut().unwrap().rank = 6;
    let error = checkpoint::restore(&mut model::engine(wider), &directory).unwrap_err();
    let CheckpointError::TensorMismatch { tensor, expected, .. } = &error else { panic!("{error:?}") };
    assert!(tensor.starts_with("base_model.model.model.layers.0.self_attn.q_proj.lora_A"), "{tensor}");
    assert_eq!(expected, &[6, 24]);
    let whole = checkpoint::restore(&mut model::engine(TrainableSpec::default()), &directory);
    assert!(matches!(whole, Err(CheckpointError::Model(_))), "it holds no whole model");
}
