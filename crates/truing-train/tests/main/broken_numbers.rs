use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use truing_cpu::CpuEngine;
use truing_model::engine::ParameterTensor;
use truing_model::{
    DecoderSpec, Engine, HeadGradient, HeadOutput, HeadRequest, ParameterStore, TrainableSpec, ZeroStage,
};
use truing_parallel::{Solo, thread_world};
use truing_train::{Objective, Quantity, SegmentPlan, Sft, TrainError, Trainer, WeightedSum};
use truing_types::{Groups, PackedBatch, RowOrigin, TokenId};

use crate::model::{self, N_LAYERS};

const SICK: TokenId = 60;

fn packs(rows: &[&[TokenId]]) -> Vec<PackedBatch> {
    let sequence = |(line, tokens): (usize, &&[TokenId])| {
        let origin = RowOrigin { source: "data.jsonl".into(), line: line as u64 + 1 };
        (tokens.to_vec(), vec![1.0; tokens.len()], origin)
    };
    let sequences: Vec<_> = rows.iter().enumerate().map(sequence).collect();
    sequences
        .chunks(2)
        .map(|pack| PackedBatch::new(pack.iter().map(|(t, w, o)| (&t[..], &w[..], o.clone()))).unwrap())
        .collect()
}

fn take_step<E: Engine>(trainer: &mut Trainer<E>, packs: &[PackedBatch]) -> TrainError {
    trainer.step(packs, &Sft, &Solo, &mut |_| ControlFlow::Continue(())).unwrap_err()
}

/// An untied model in which only sequences that hold the sick token see `value`.
fn sick_trainer(value: f32) -> Trainer<CpuEngine> {
    let spec = DecoderSpec { tie_word_embeddings: false, ..model::spec() };
    let engine = model::engine_of(&spec, TrainableSpec::default());
    let mut trainer = model::trainer_of(engine, SegmentPlan::checkpoint(N_LAYERS, 2));
    let mut embedding = trainer.engine().read(0, ParameterTensor::Value).unwrap().into_owned();
    embedding[SICK as usize * spec.hidden_size..][..spec.hidden_size].fill(value);
    trainer.engine_mut().write(0, ParameterTensor::Value, &embedding).unwrap();
    trainer
}

#[test]
fn a_loss_that_is_not_finite_names_step_pack_and_row_and_leaves_the_weights() {
    let mut trainer = sick_trainer(f32::NAN);
    let bits = |trainer: &Trainer<CpuEngine>| {
        let all = model::read_all(trainer.engine(), ParameterTensor::Value);
        all.into_iter().flatten().map(f32::to_bits).collect::<Vec<_>>()
    };
    let before = bits(&trainer);
    let error = take_step(&mut trainer, &packs(&[&[1, 2, 3], &[4, 5], &[6, 7], &[8, SICK, 9]]));
    assert_eq!(error.to_string(), "the loss of step 1 is not finite in pack 2: data.jsonl:4");
    assert!(matches!(error, TrainError::NonFinite { quantity: Quantity::Loss, pack_idx: Some(1), .. }));
    assert!(before == bits(&trainer) && trainer.steps_taken() == 0);
}

/// The fine-tuning objective with an infinite gradient at one token.
struct Overflowing;

impl Objective for Overflowing {
    type Pack = PackedBatch;

    fn request<'a>(&self, pack: &'a PackedBatch) -> HeadRequest<'a> {
        Sft.request(pack)
    }

    fn denominators(&self, pack: &PackedBatch, request: &HeadRequest<'_>) -> Vec<f64> {
        Sft.denominators(pack, request)
    }

    fn gradient(
        &self,
        _: &PackedBatch,
        request: &HeadRequest<'_>,
        _: &HeadOutput,
        _: &[f64],
    ) -> HeadGradient {
        let tokens = &request.targets().unwrap().tokens;
        let sick = |&token: &u32| if token == SICK { f32::INFINITY } else { -0.1 };
        HeadGradient { log_probs: tokens.iter().map(sick).collect(), ..HeadGradient::default() }
    }

    fn metric_names(&self) -> Vec<&str> {
        Sft.metric_names()
    }

    fn measure(
        &self,
        pack: &PackedBatch,
        request: &HeadRequest<'_>,
        output: &HeadOutput,
    ) -> Vec<WeightedSum> {
        Sft.measure(pack, request, output)
    }

    fn pieces(&self, pack: &PackedBatch) -> Vec<PackedBatch> {
        Sft.pieces(pack)
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_traced_to_its_rows() {
    let mut trainer = model::trainer(TrainableSpec::default(), SegmentPlan::checkpoint(N_LAYERS, 2));
    let packs = packs(&[&[1, 2, 3], &[4, 5], &[8, SICK, 9], &[6, 7]]);
    let error = trainer.step(&packs, &Overflowing, &Solo, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.to_string(), "the gradient norm of step 1 is not finite in pack 2: data.jsonl:3");
    assert_eq!(trainer.steps_taken(), 0);
}

/// The errors of two ranks, of which each takes the pack of its data group.
fn errors_of_two_ranks(packs: &[PackedBatch], sequence_size: usize, stage: ZeroStage) -> Vec<String> {
    thread::scope(|scope| {
        let start = |world| {
            scope.spawn(move || {
                let groups = Groups::new(Arc::new(world), sequence_size).unwrap();
                let engine = model::engine_sharded(TrainableSpec::default(), &groups, stage);
                let mut trainer = model::trainer_of(engine, SegmentPlan::checkpoint(N_LAYERS, 2))
                    .dividing_packs(sequence_size > 1);
                let mine = &packs[groups.data.rank().0..][..1];
                let on_pack = &mut |_: &PackedBatch| ControlFlow::Continue(());
                trainer.step(mine, &Overflowing, &*groups.data, on_pack).unwrap_err().to_string()
            })
        };
        let ranks: Vec<_> = thread_world(2).into_iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Each rank looks for the cause among its own packs, and all name it, whatever is sharded. Where ranks divide a
/// pack, none knows its whole gradient.
#[test]
fn every_rank_names_the_rows_that_one_has_found_whatever_is_sharded() {
    let packs = packs(&[&[1, 2, 3], &[4, 5], &[8, SICK, 9], &[6, 7]]);
    let what = "the gradient norm of step 1 is not finite";
    let known = format!("{what} in pack 1: data.jsonl:3");
    let unknown = format!("{what} (no single pack is known to be the cause)");
    for stage in ZeroStage::ALL {
        let found = errors_of_two_ranks(&packs, 1, stage);
        assert_eq!(found, [known.clone(), known.clone()], "{stage:?}");
        let divided = errors_of_two_ranks(&packs[1..], 2, stage);
        assert_eq!(divided, [unknown.clone(), unknown.clone()], "{stage:?}");
    }
}

#[test]
fn a_step_without_loss_tokens_is_refused() {
    let mut trainer = model::trainer(TrainableSpec::default(), SegmentPlan::keep_everything(N_LAYERS));
    let error = take_step(&mut trainer, &packs(&[&[1], &[2]]));
    assert!(matches!(error, TrainError::NoLossTokens));
}

#[test]
fn a_model_that_is_frozen_whole_is_refused() {
    let trainable = TrainableSpec { lora: None, frozen: vec!["model.".into()] };
    let engine = model::engine(trainable);
    let schedule = truing_train::Schedule {
        kind: truing_train::ScheduleKind::Constant,
        peak: 1.0,
        min_ratio: 0.0,
        warmup_steps: 0,
        decay_steps: 0,
        total_steps: 1,
    };
    let plan = SegmentPlan::keep_everything(N_LAYERS);
    let error = Trainer::new(engine, plan, truing_train::OptimizerConfig::default(), schedule);
    assert!(matches!(error, Err(TrainError::NothingLearns)));
}
