use proptest::prelude::*;
use truing_prompts::duplicates::*;
use truing_prompts::tokens::TokenPool;
use truing_types::Seed;

use crate::support::on_any_threads;

/// Sentences of a few words, so that many are nearly equal.
fn texts() -> impl Strategy<Value = Vec<String>> {
    let base = prop::collection::vec(0..40_u32, 12..30);
    let variants = prop::collection::vec((any::<u16>(), 0..40_u32), 1..30);
    prop::collection::vec((base, variants), 1..4).prop_map(|families| {
        let text = |words: &[u32]| words.iter().map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ");
        let mut texts = Vec::new();
        for (base, variants) in families {
            let mut words = base;
            for (at, word) in variants {
                let at = usize::from(at) % words.len();
                words[at] = word;
                texts.push(text(&words));
            }
        }
        texts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn signatures_estimate_jaccards_coefficient(shared in 0..200_u64, own in prop::array::uniform2(1..200_u64)) {
        let set = |which: u64, n: u64| {
            let spread = |x: u64| x.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (x << 7);
            let mut set: Vec<u64> = (0..shared).map(spread).chain((0..n).map(|x| spread(x + which))).collect();
            set.sort_unstable();
            set.dedup();
            set
        };
        let (a, b) = (set(1_000_000, own[0]), set(2_000_000, own[1]));
        let hasher = MinHasher::new(Seed(3));
        let estimate = estimate_jaccard(&hasher.signature(&a), &hasher.signature(&b));
        let truth = jaccard(&a, &b);
        let expected = shared as f64 / (shared + own[0] + own[1]) as f64;
        prop_assert!((truth - expected).abs() < 1e-12);
        // Five standard deviations of the mean of 128 coins.
        let deviation = (truth * (1.0 - truth) / N_PERMUTATIONS as f64).sqrt();
        prop_assert!((estimate - truth).abs() <= 5.0 * deviation + 1e-9, "{} for {}", estimate, truth);
    }

    #[test]
    fn stand_ins_are_kept_better_and_alike(texts in texts(), by_quality in any::<bool>()) {
        let pool = TokenPool::of(&texts).unwrap();
        let qualities: Vec<f32> = (0..texts.len()).map(|row| (row * 7 % 5) as f32).collect();
        let qualities = by_quality.then_some(qualities.as_slice());
        let options = NearDuplicateOptions { threshold: 0.6, ..Default::default() };
        let dropped = near_duplicates(&pool, qualities, &options).unwrap();
        let is_dropped = |row: u32| dropped.iter().any(|d| d.row == row);
        let rank = |row: u32| (qualities.map_or(0, |q| -(q[row as usize] as i32)), row);
        for d in &dropped {
            prop_assert!(!is_dropped(d.representative));
            prop_assert!(rank(d.representative) < rank(d.row));
            let of = |row: u32| shingles(pool.row(row as usize), options.shingle_tokens);
            prop_assert_eq!(jaccard(&of(d.row), &of(d.representative)), d.jaccard);
            prop_assert!(d.jaccard >= options.threshold);
        }
    }
}

#[test]
fn near_duplicates_are_found_on_any_number_of_threads() {
    let sentence = |row: usize| {
        let family = row / 10;
        let words = (0..40)
            .map(|at| if at == 5 + 3 * (row % 10) { format!("odd{row}") } else { format!("f{family}w{at}") });
        words.collect::<Vec<_>>().join(" ")
    };
    let pool = TokenPool::of((0..1000).map(sentence)).unwrap();
    let dropped = on_any_threads(|| near_duplicates(&pool, None, &NearDuplicateOptions::default()).unwrap());
    // Two of a family differ in two words, far apart: 34 of 46 shingles are shared, 0.74.
    assert!(dropped.is_empty(), "{dropped:?}");
    let options = NearDuplicateOptions { threshold: 0.7, ..Default::default() };
    let dropped = on_any_threads(|| near_duplicates(&pool, None, &options).unwrap());
    assert_eq!(dropped.len(), 900);
    assert!(dropped.iter().all(|d| d.representative == d.row / 10 * 10));
}
