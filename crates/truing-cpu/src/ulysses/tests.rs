//! The exchanges on threads, and the bits of a model on several ranks.

use truing_kernels::Causality;
use truing_model::{
    Adapters, DecoderSpec, Engine, EngineOptions, HeadKind, ParameterStore, PutWeight, SaveActivations,
    TrainableSpec,
};
use truing_parallel::{Solo, run_thread_world};
use truing_types::{Groups, PackedBatch, RowOrigin, Seed, TokenId};

use super::*;
use crate::CpuEngine;

const HEAD_DIM: usize = 3;

fn exchange(group: &SequenceGroup, n_heads: usize, n_kv_heads: usize) -> HeadExchange {
    let shape = AttentionShape {
        n_heads,
        n_kv_heads,
        head_dim: HEAD_DIM,
        scale: 1.0,
        causality: Causality::Causal,
        sliding_window: None,
        soft_cap: None,
    };
    HeadExchange::new(group, &shape)
}

/// What every rank of a sequence group finds.
fn on_ranks<T: Send>(size: usize, work: impl Fn(SequenceGroup) -> T + Sync) -> Vec<T> {
    run_thread_world(size, |rank| work(SequenceGroup::new(Arc::new(rank))))
}

/// A number for each row and column, of a tensor with a name.
fn value(name: usize, row: usize, column: usize) -> f32 {
    (name * 100_000 + row * 100 + column) as f32
}

fn tensor(name: usize, rows: Range<usize>, columns: Range<usize>) -> Vec<f32> {
    rows.flat_map(|row| columns.clone().map(move |column| value(name, row, column))).collect()
}

/// Query and key heads: copies from the fourth, third and second rank on; none up to four ranks.
const HEADS: [(usize, usize); 4] = [(9, 3), (8, 8), (6, 1), (12, 4)];

#[test]
fn every_rank_gets_all_rows_of_its_heads() {
    for (n_heads, n_kv_heads) in HEADS {
        for size in 1..=4 {
            for n_pack in [1, 3, 8, 301] {
                on_ranks(size, |group| {
                    let exchange = exchange(&group, n_heads, n_kv_heads);
                    let rows = group.own_rows(n_pack);
                    let pool = &mut BufferPool::default();
                    let of = |name, heads| tensor(name, rows.own.clone(), 0..exchange.width(heads));
                    let kinds = [Heads::Queries, Heads::Keys, Heads::Keys];
                    let tensors = [0, 1, 2].map(|name| (of(name, kinds[name]), kinds[name]));
                    let found = exchange.to_heads(pool, &rows, tensors).unwrap();
                    for (name, (found, heads)) in found.iter().zip(kinds).enumerate() {
                        let columns = exchange.columns(heads, group.rank());
                        assert_eq!(
                            *found,
                            tensor(name, 0..n_pack, columns),
                            "{n_heads}/{n_kv_heads} {group:?}"
                        );
                    }
                });
            }
        }
    }
}

#[test]
fn rows_come_back_and_copies_of_key_heads_are_summed() {
    for (n_heads, n_kv_heads) in HEADS {
        for size in 1..=4 {
            on_ranks(size, |group| {
                let n_pack = 13;
                let exchange = exchange(&group, n_heads, n_kv_heads);
                let rows = group.own_rows(n_pack);
                let pool = &mut BufferPool::default();
                let of = |name, heads| tensor(name, 0..n_pack, exchange.columns(heads, group.rank()));
                let tensors = [(of(0, Heads::Queries), Heads::Queries), (of(1, Heads::Keys), Heads::Keys)];
                let [queries, keys] = exchange.back_to_rows(pool, &rows, tensors).unwrap();
                let all = |name, heads| tensor(name, rows.own.clone(), 0..exchange.width(heads));
                assert_eq!(queries, all(0, Heads::Queries));
                let n_copies = |column: usize| {
                    (0..size).filter(|&rank| exchange.columns(Heads::Keys, rank).contains(&column)).count()
                };
                let width = exchange.width(Heads::Keys);
                let expected: Vec<f32> = all(1, Heads::Keys)
                    .iter()
                    .enumerate()
                    .map(|(i, x)| x * n_copies(i % width) as f32)
                    .collect();
                assert_eq!(keys, expected, "{n_heads}/{n_kv_heads} {group:?}");
            });
        }
    }
}

#[test]
fn a_rank_that_is_alone_copies_nothing() {
    on_ranks(1, |group| {
        let exchange = exchange(&group, 2, 1);
        let rows = group.own_rows(4);
        let pool = &mut BufferPool::default();
        let values = tensor(0, 0..4, 0..2 * HEAD_DIM);
        let address = values.as_ptr();
        let [values] = exchange.to_heads(pool, &rows, [(values, Heads::Queries)]).unwrap();
        let [values] = exchange.back_to_rows(pool, &rows, [(values, Heads::Queries)]).unwrap();
        let values = group.all_rows(pool, &rows, values, 2 * HEAD_DIM).unwrap();
        assert_eq!(values.as_ptr(), address);
    });
}

#[test]
fn rows_and_words_of_all_ranks_are_put_together() {
    for size in 1..=4 {
        for n_pack in [1, 3, 10] {
            on_ranks(size, |group| {
                let rows = group.own_rows(n_pack);
                let own = tensor(0, rows.own.clone(), 0..5);
                let all = group.all_rows(&mut BufferPool::default(), &rows, own, 5).unwrap();
                assert_eq!(all, tensor(0, 0..n_pack, 0..5));
                // Bits of a number that is none.
                let words: Vec<u32> = rows.own.clone().map(|row| 0x7fa0_0000 + row as u32).collect();
                let all = group.all_words(&words).unwrap().concat();
                assert_eq!(all, (0..n_pack as u32).map(|row| 0x7fa0_0000 + row).collect::<Vec<_>>());
            });
        }
    }
}

/// No key head is shared by two of up to four ranks.
fn spec() -> DecoderSpec {
    DecoderSpec {
        architecture: "LlamaForCausalLM".into(),
        vocab_size: 40,
        hidden_size: 32,
        intermediate_size: 48,
        n_layers: 2,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        max_position_embeddings: 512,
        head: HeadKind::LanguageModel,
        tie_word_embeddings: true,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        sliding_windows: vec![None, Some(50)],
        variant: truing_model::DecoderVariant::default(),
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

/// Log-probabilities of a pack, and the gradient at the input of its first block, of this rank's rows.
fn pass(groups: &Groups, batch: &PackedBatch, save: SaveActivations) -> (Vec<f32>, Vec<f32>) {
    let spec = spec();
    let parameters = spec.parameters();
    let mut weights = |put: &mut PutWeight<'_>| {
        let values = |n, name: &str| Seed(1).normals(name, n, 0.2);
        parameters.iter().try_for_each(|p| put(&p.name, &p.shape, values(p.n_elements(), &p.name)))
    };
    let options = EngineOptions { n_threads: 1, ..EngineOptions::default() };
    let mut engine =
        CpuEngine::load(spec.into(), TrainableSpec::default(), &options, groups, &mut weights).unwrap();
    engine.zero_gradients().unwrap();
    let device = engine.upload(batch).unwrap();
    let hidden = engine.embed(&device).unwrap();
    let (hidden, saved) = engine.segment_forward(&device, 0..2, hidden, save, Adapters::Enabled).unwrap();
    let targets = batch.targets();
    let d_log_probs: Vec<f32> = (0..targets.rows.len()).map(|i| (i as f32).sin()).collect();
    let (found, d_hidden) = engine.log_probs_backward(hidden, &targets, &d_log_probs).unwrap();
    let d_input = engine.segment_backward(&device, saved, d_hidden).unwrap();
    (found.log_probs, d_input.values)
}

/// Ranks have more rows each than those that products treat otherwise.
#[test]
fn no_bit_of_a_row_depends_on_the_number_of_ranks() {
    let tokens = |n: TokenId, step: TokenId| (0..n).map(|i| (i * step + n) % 40).collect::<Vec<TokenId>>();
    let sequences = [tokens(101, 7), tokens(120, 3), tokens(83, 11)];
    let weights = vec![1.0; 120];
    let origin = || RowOrigin { source: "test".into(), line: 1 };
    for prefixes in [[None; 3], [None, Some(0), Some(0)]] {
        let rows = sequences.iter().zip(prefixes);
        let batch = PackedBatch::with_prefixes(
            rows.map(|(tokens, prefix)| (&tokens[..], &weights[..tokens.len()], origin(), prefix)),
        )
        .unwrap();
        for save in [SaveActivations::Everything, SaveActivations::Input, SaveActivations::InputAndAttention]
        {
            let (log_probs, d_input) = pass(&Solo::groups(), &batch, save);
            for size in [2, 4] {
                let found = run_thread_world(size, |rank| {
                    pass(&Groups::new(Arc::new(rank), size).unwrap(), &batch, save)
                });
                let what = format!("{size} ranks, {save:?}, prefixes {prefixes:?}");
                assert!(found.iter().all(|(of_rank, _)| *of_rank == log_probs), "{what}: log-probabilities");
                let of_ranks = found.into_iter().flat_map(|(_, d_input)| d_input).collect::<Vec<f32>>();
                assert!(of_ranks == d_input, "{what}: gradients");
            }
        }
    }
}
