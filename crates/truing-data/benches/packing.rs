//! A million lengths into packs of 2048: the promise is well under a second.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use truing_data::{Packing, PackingStrategy, pack_best_fit_decreasing};
use truing_types::Seed;

/// Lengths spread as chat data's are: log-normal about 180 tokens, cut at the budget.
fn chat_lengths(n: usize, budget: u32) -> Vec<u32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
    (0..n).map(|_| ((5.2 + 0.6 * normal()).exp() as u32).clamp(1, budget)).collect()
}

fn packing(criterion: &mut Criterion) {
    let lengths = chat_lengths(1_000_000, 2048);
    let visits: Vec<u32> = (0..lengths.len() as u32).collect();
    let mut group = criterion.benchmark_group("a million lengths");
    group.sample_size(10);
    for budget in [2048, 32_768] {
        group.bench_function(format!("best-fit decreasing, budget {budget}"), |b| {
            b.iter(|| pack_best_fit_decreasing(black_box(&lengths), budget).map(|packs| packs.len()));
        });
    }
    group.bench_function("an epoch with its report, budget 2048", |b| {
        let strategy = PackingStrategy::BestFitDecreasing;
        b.iter(|| {
            Packing::of_epoch(black_box(&lengths), &visits, 2048, strategy, Seed(1), 0).map(|p| p.report)
        });
    });
    group.finish();
}

criterion_group!(benches, packing);
criterion_main!(benches);
