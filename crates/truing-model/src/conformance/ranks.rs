//! Ranks with different data, as threads of one process.

use std::sync::Arc;

use truing_parallel::thread_world;
use truing_types::Groups;

use super::support::{
    Pass, adamw, assert_same_bits, assert_same_gradients, backward_pass, decoders, gradients, load,
    loss_gradient, packed, read, sequences,
};
use crate::{Engine, ParameterTensor, TrainableSpec};

/// Two ranks with half of the sequences each have, after the reduction, the gradients of one engine with all of them;
/// both the same, and the same weights after a step.
pub fn ranks_sum_their_gradients<E: Engine>() {
    for case in decoders::<E>() {
        let add_gradients = |engine: &mut E, rank: Option<usize>| {
            engine.zero_gradients().unwrap();
            let mine = |(idx, sequence)| rank.is_none_or(|rank| idx % 2 == rank).then_some(sequence);
            // The sequence of one token has no target.
            let all: Vec<_> = sequences().into_iter().filter(|s| s.len() > 1).collect();
            let batch = packed(&all.into_iter().enumerate().filter_map(mine).collect::<Vec<_>>());
            backward_pass(engine, &batch, &Pass::WHOLE, &loss_gradient(&batch.targets(), 1.0));
            engine.reduce_gradients().unwrap();
        };
        let mut whole: E = case.load();
        add_gradients(&mut whole, None);
        let guarantees = whole.guarantees();
        let of_rank = |(rank, world): (usize, truing_parallel::ThreadRank)| {
            let groups = Groups::new(Arc::new(world), 1).unwrap();
            let mut engine: E = load(case.spec.clone(), &TrainableSpec::default(), &case.options, &groups);
            add_gradients(&mut engine, Some(rank));
            let norm = engine.gradient_norm().unwrap();
            let gradients = gradients(&engine);
            engine.optimizer_step(&adamw(1, 1e-2)).unwrap();
            let weights: Vec<_> = (0..engine.parameters().len())
                .flat_map(|idx| read(&engine, idx, ParameterTensor::Value))
                .collect();
            (gradients, norm, weights)
        };
        let ranks = std::thread::scope(|scope| {
            let start = |rank| scope.spawn(|| of_rank(rank));
            let threads: Vec<_> = thread_world(2).into_iter().enumerate().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let tolerance = 2.0 * guarantees.gradient_tolerance;
        let norm = whole.gradient_norm().unwrap();
        for (found, found_norm, _) in &ranks {
            assert_same_gradients(found, &gradients(&whole), false, tolerance, &case.name);
            assert!((found_norm / norm - 1.0).abs() <= tolerance, "{}: norm {found_norm}, {norm}", case.name);
        }
        // The ranks compute their parts in any way, but all hold the same sum.
        assert_same_gradients(&ranks[0].0, &ranks[1].0, true, 0.0, &case.name);
        assert_same_bits(&ranks[0].2, &ranks[1].2, &case.name);
    }
}
