//! Requests that an engine refuses.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use truing_types::{ExcludedTokens, PackedBatch, TargetTokens};

use super::support::{
    SAVING, assert_refused, bert, cases, decoders, hidden, llama, origin, packed, reward_model, run_blocks,
    sequences,
};
use truing_model::{
    Adapters, DecodingWeights, DeviceTopLogProbs, Engine, EngineError, HeadGradient, HeadRequest,
    HostTopLogProbs, SaveActivations, TopLogProbs,
};

/// Tokens outside the vocabulary; of encoders texts that are too long or continue others.
pub fn bad_batches_are_refused<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let beyond = packed(&[vec![1, 24]]);
        assert_refused!(engine.upload(&beyond), EngineError::TokenOutOfRange { token: 24, vocab_size: 24 });
    }
    for case in cases::<E, _>(&[("bert", bert())]) {
        let mut engine: E = case.load();
        let beyond = packed(&[vec![1, 40]]);
        assert_refused!(engine.upload(&beyond), EngineError::TokenOutOfRange { token: 40, vocab_size: 40 });
        assert_refused!(
            engine.upload(&packed(&[vec![1; 33]])),
            EngineError::SequenceTooLong { n_tokens: 33, n_positions: 32 }
        );
        engine.upload(&packed(&[vec![1; 32]])).unwrap();
        let continued = PackedBatch::with_prefixes([
            (&[1, 2][..], &[0.0, 0.0][..], origin(), None),
            (&[3][..], &[1.0][..], origin(), Some(0)),
        ]);
        assert_refused!(engine.upload(&continued.unwrap()), EngineError::Unsupported(_));
    }
}

/// A segment that saved nothing, of either kind of model.
pub fn segments_that_saved_nothing_have_no_backward<E: Engine>() {
    let batch = packed(&sequences());
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        engine.zero_gradients().unwrap();
        let (device, hidden, saved) =
            run_blocks(&mut engine, &batch, SaveActivations::Nothing, Adapters::Enabled);
        assert_refused!(engine.segment_backward(&device, saved, hidden), EngineError::Unsupported(_));
        for save in SAVING {
            let (device, hidden, saved) = run_blocks(&mut engine, &batch, save, Adapters::Enabled);
            engine.segment_backward(&device, saved, hidden).unwrap();
        }
    }
    for case in cases::<E, _>(&[("bert", bert())]) {
        let mut engine: E = case.load();
        engine.zero_gradients().unwrap();
        let (device, hidden, saved) =
            run_blocks(&mut engine, &batch, SaveActivations::Nothing, Adapters::Enabled);
        assert_refused!(engine.segment_backward(&device, saved, hidden), EngineError::Unsupported(_));
    }
}

/// Top log-probabilities of no engine.
#[derive(Debug)]
struct Elsewhere;

impl DeviceTopLogProbs for Elsewhere {
    fn n_rows(&self) -> usize {
        2
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Tokens asked of an encoder or a reward model, scores of a language model, vectors' gradients of another size,
/// references of another engine, excluded tokens that are not there.
pub fn requests_that_the_model_cannot_answer_are_refused<E: Engine>() {
    let batch = packed(&sequences());
    let targets = batch.targets();
    let log_probs = HeadRequest::log_probs(&targets);
    let scores = HeadRequest::Scores { rows: vec![0].into() };
    let none = ExcludedTokens::none();
    let no_gradient = HeadGradient::default;
    for case in cases::<E, _>(&[("bert", bert())]) {
        let mut engine: E = case.load();
        let hidden_states = hidden(&mut engine, &batch);
        assert_refused!(engine.head(&hidden_states, &log_probs), EngineError::WrongKind { .. });
        assert_refused!(engine.head(&hidden_states, &scores), EngineError::WrongKind { .. });
        assert_refused!(engine.logits(&hidden_states, &[0]), EngineError::WrongKind { .. });
        assert_refused!(
            engine.top_log_probs(&hidden_states, &[0], 1.0, &none, 3),
            EngineError::WrongKind { .. }
        );
        assert_refused!(engine.new_cache(8), EngineError::WrongKind { .. });
        for request in [&log_probs, &scores] {
            let hidden_states = hidden(&mut engine, &batch);
            assert_refused!(
                engine.head_backward(hidden_states, request, &no_gradient()),
                EngineError::WrongKind { .. }
            );
        }
        let gradient = HeadGradient { vectors: vec![0.0; 3], ..HeadGradient::default() };
        assert_refused!(
            engine.head_backward(hidden_states, &HeadRequest::vectors(&batch, &case.spec), &gradient),
            EngineError::ShapeMismatch { .. }
        );
    }
    for case in cases::<E, _>(&[("reward model", reward_model(1))]) {
        let mut engine: E = case.load();
        let hidden_states = hidden(&mut engine, &batch);
        assert_refused!(engine.head(&hidden_states, &log_probs), EngineError::WrongHead { .. });
        assert_refused!(engine.logits(&hidden_states, &[0]), EngineError::WrongHead { .. });
        assert_refused!(
            engine.top_log_probs(&hidden_states, &[0], 1.0, &none, 3),
            EngineError::WrongHead { .. }
        );
        assert_refused!(
            engine.head_backward(hidden_states, &log_probs, &no_gradient()),
            EngineError::WrongHead { .. }
        );
        // Either there is no cache, or nothing is read into it.
        match engine.new_cache(8) {
            Ok(mut cache) => {
                for tokens in [&[1][..], &[1, 2]] {
                    assert_refused!(
                        engine.extend(&mut cache, tokens, DecodingWeights::F32),
                        EngineError::WrongHead { .. }
                    );
                }
            }
            Err(error) => assert!(matches!(error, EngineError::WrongHead { .. }), "{error:?}"),
        }
    }
    for case in cases::<E, _>(&[("llama", llama())]) {
        let mut engine: E = case.load();
        let hidden_states = hidden(&mut engine, &batch);
        assert_refused!(engine.head(&hidden_states, &scores), EngineError::WrongHead { .. });
        let outside = TargetTokens { rows: vec![0], tokens: vec![24], weights: vec![1.0] };
        assert_refused!(
            engine.head(&hidden_states, &HeadRequest::log_probs(&outside)),
            EngineError::TokenOutOfRange { token: 24, vocab_size: 24 }
        );
        let with = |excluded: ExcludedTokens, reference: Option<TopLogProbs>| HeadRequest::LogProbs {
            targets: Cow::Borrowed(&targets),
            temperature: 1.0,
            excluded,
            reference: reference.map(Into::into),
        };
        let elsewhere = TopLogProbs::Device(Arc::new(Elsewhere));
        assert_refused!(
            engine.log_probs_of(&hidden_states, &[0], 1.0, &elsewhere),
            EngineError::Unsupported(_)
        );
        let of = |tokens: Vec<u32>| {
            TopLogProbs::from(HostTopLogProbs { k: 1, log_probs: vec![0.0; tokens.len()], tokens })
        };
        assert_refused!(
            engine.log_probs_of(&hidden_states, &[0], 1.0, &of(vec![24])),
            EngineError::TokenOutOfRange { token: 24, vocab_size: 24 }
        );
        assert_refused!(
            engine.log_probs_of(&hidden_states, &[0], 1.0, &of(vec![1, 2])),
            EngineError::ShapeMismatch { .. }
        );
        let foreign = with(none.clone(), Some(elsewhere));
        assert_refused!(engine.head(&hidden_states, &foreign), EngineError::Unsupported(_));
        let of_fewer_rows = with(none.clone(), Some(of(vec![1])));
        assert_refused!(engine.head(&hidden_states, &of_fewer_rows), EngineError::ShapeMismatch { .. });
        let not_there = with(ExcludedTokens::of([30]), None);
        assert_refused!(
            engine.head(&hidden_states, &not_there),
            EngineError::TokenOutOfRange { token: 30, .. }
        );
        let everything = ExcludedTokens::of(0..24);
        assert_refused!(
            engine.head(&hidden_states, &with(everything.clone(), None)),
            EngineError::Unsupported(_)
        );
        assert_refused!(
            engine.top_log_probs(&hidden_states, &[0], 1.0, &everything, 3),
            EngineError::Unsupported(_)
        );
        let gradient = HeadGradient { vectors: vec![0.0; 3], ..HeadGradient::default() };
        let request = HeadRequest::pooled(&batch, truing_model::Pooling::Mean, false);
        assert_refused!(
            engine.head_backward(hidden_states, &request, &gradient),
            EngineError::ShapeMismatch { .. }
        );
        for gradient in [
            HeadGradient { log_probs: vec![1.0; 2], ..HeadGradient::default() },
            HeadGradient { log_probs: vec![1.0; targets.rows.len() + 1], ..HeadGradient::default() },
        ] {
            let hidden_states = hidden(&mut engine, &batch);
            assert_refused!(
                engine.head_backward(hidden_states, &log_probs, &gradient),
                EngineError::ShapeMismatch { .. }
            );
        }
    }
    for case in cases::<E, _>(&[("classifier", reward_model(3))]) {
        let mut engine: E = case.load();
        let hidden_states = hidden(&mut engine, &batch);
        let gradient = HeadGradient { scores: vec![1.0; 2], ..HeadGradient::default() };
        assert_refused!(
            engine.head_backward(hidden_states, &scores, &gradient),
            EngineError::ShapeMismatch { .. }
        );
    }
}
