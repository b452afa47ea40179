use std::collections::BTreeMap;

use proptest::prelude::*;
use truing_prompts::clustering::{Linkage, Vectors};
use truing_prompts::selection::*;

use crate::support::*;

/// What must hold for any selection.
fn check_invariants(selection: &Selection, n: usize, qualities: &[f32]) {
    let mut rows: Vec<u32> =
        selection.chosen.iter().copied().chain(selection.dropped.iter().map(|dropped| dropped.row)).collect();
    rows.sort_unstable();
    assert_eq!(rows, (0..n as u32).collect::<Vec<_>>(), "every row is chosen or dropped, once");
    let dropped: BTreeMap<u32, &DroppedRow> = selection.dropped.iter().map(|d| (d.row, d)).collect();
    let rank = |row: u32| (std::cmp::Reverse((qualities[row as usize] * 1e6) as i64), row);
    for d in &selection.dropped {
        assert!(selection.chosen.binary_search(&d.chosen).is_ok(), "{d:?}");
        assert!(rank(d.representative) < rank(d.row), "the better row survives: {d:?}");
        match dropped.get(&d.representative) {
            // A representative outlives the layer it is in.
            Some(next) => assert!(next.layer > d.layer && next.chosen == d.chosen, "{d:?}, {next:?}"),
            None => assert_eq!(d.chosen, d.representative),
        }
    }
}

/// Rows near three directions, the first the most frequent; the rarer, the nearer to each other.
fn three_tasks() -> (Vec<f32>, [usize; 3]) {
    let sizes = [60, 10, 5];
    let noise = random_vectors(9, 75, 8);
    let task_of = |row: usize| if row < 60 { 0 } else { 1 + usize::from(row >= 70) };
    let data = noise.iter().enumerate().map(|(i, x)| {
        let task = task_of(i / 8);
        x * [0.12, 0.06, 0.03][task] + f32::from(u8::from(i % 8 == task))
    });
    (data.collect(), sizes)
}

#[test]
fn frequent_tasks_lose_rows_before_rare_ones() {
    let (data, sizes) = three_tasks();
    let vectors = Vectors::new(&data, 8).unwrap();
    let kept_by = |target: Target<'_>, task_distance: f32, task_exponent: f32, block_rows: usize| {
        let options = SelectionOptions { task_distance, task_exponent, block_rows, ..Default::default() };
        let selection = select(vectors, None, target, &options).unwrap();
        check_invariants(&selection, 75, &[0.0; 75]);
        let n =
            |rows: std::ops::Range<u32>| selection.chosen.iter().filter(|&row| rows.contains(row)).count();
        ([n(0..60), n(60..70), n(70..75)], selection.n_tasks)
    };
    let kept =
        |target: Target<'_>, task_distance, block_rows| kept_by(target, task_distance, 0.0, block_rows);
    assert_eq!(kept_by(Target::Size(20), 0.7, 0.5, 1024), ([12, 5, 3], 3));
    assert_eq!(kept_by(Target::Size(20), 0.7, 1.0, 1024), ([16, 3, 1], 3));
    for block_rows in [8, 1024] {
        assert_eq!(kept(Target::Size(20), 0.7, block_rows), ([8, 7, 5], 3));
        assert_eq!(kept(Target::Ratio(0.8), 0.7, block_rows), ([45, 10, 5], 3));
        assert_eq!(kept(Target::Size(3), 0.7, block_rows), ([1, 1, 1], 3));
        assert_eq!(kept(Target::Size(75), 0.7, block_rows), (sizes, 0), "nothing to choose");
        assert_eq!(kept(Target::Size(2), 0.7, block_rows).1, 0, "no room for every task");
    }
    let ([frequent, _, rare], n_tasks) = kept(Target::Size(20), 0.0, 1024);
    assert!(frequent > 12 && rare < 3 && n_tasks == 0, "by nearness alone: {frequent} and {rare}");
    // Quotas are shared among the tasks of each label.
    let labels: Vec<u32> = (0..75).map(|row| u32::from(row % 2 == 0)).collect();
    let quotas = BTreeMap::from([(0, 9), (1, 75)]);
    let target = Target::Quotas { labels: &labels, sizes: &quotas };
    let options = SelectionOptions { task_exponent: 0.0, ..Default::default() };
    let selection = select(vectors, None, target, &options).unwrap();
    let odd = |rows: std::ops::Range<u32>| {
        selection.chosen.iter().filter(|&&row| row % 2 == 1 && rows.contains(&row)).count()
    };
    assert_eq!([odd(0..60), odd(60..70), odd(70..75)], [4, 3, 2]);
    assert_eq!(selection.shortfalls, BTreeMap::from([(1, 75 - 38)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_target_is_met_exactly(
        n in 1..300_usize,
        seed in 0..1000_u64,
        share in 0.01..1.0_f64,
        block_rows in 4..80_usize,
        linkage in prop_oneof![
            Just(Linkage::Ward),
            Just(Linkage::Average),
            Just(Linkage::Complete),
            Just(Linkage::Single),
            Just(Linkage::MeanCosine)
        ],
        has_repeats in any::<bool>(),
    ) {
        let mut data = random_vectors(seed, n, 6);
        if has_repeats {
            (6..data.len()).filter(|i| i / 6 % 3 != 0).for_each(|i| data[i] = data[i % 6]);
        }
        let vectors = Vectors::new(&data, 6).unwrap();
        let qualities: Vec<f32> = (0..n).map(|row| (row * 31 % 7) as f32).collect();
        let options = SelectionOptions { block_rows, linkage, ..Default::default() };
        let size = ((share * n as f64) as usize).max(1);
        let selection = select(vectors, Some(&qualities), Target::Size(size), &options).unwrap();
        check_invariants(&selection, n, &qualities);
        prop_assert_eq!(selection.chosen.len(), size);

        let labels: Vec<u32> = (0..n).map(|row| (row % 3) as u32).collect();
        let sizes = BTreeMap::from([(0, 5), (1, size), (2, 1)]);
        let target = Target::Quotas { labels: &labels, sizes: &sizes };
        let selection = select(vectors, Some(&qualities), target, &options).unwrap();
        check_invariants(&selection, n, &qualities);
        for (&label, &quota) in &sizes {
            let has = |rows: &mut dyn Iterator<Item = u32>| rows.filter(|&row| labels[row as usize] == label).count();
            let kept = has(&mut selection.chosen.iter().copied());
            let missing = selection.shortfalls.get(&label).copied().unwrap_or(0);
            prop_assert_eq!(kept + missing, quota);
            prop_assert!(missing == 0 || kept == has(&mut (0..n as u32)));
        }
    }

    #[test]
    fn complete_linkage_keeps_its_thresholds(n in 2..200_usize, seed in 0..1000_u64) {
        let data = random_vectors(seed, n, 3);
        let vectors = Vectors::new(&data, 3).unwrap();
        let options = SelectionOptions { linkage: Linkage::Complete, ..Default::default() };
        let selection = select(vectors, None, Target::Thresholds, &options).unwrap();
        check_invariants(&selection, n, &vec![0.0; n]);
        for d in &selection.dropped {
            prop_assert_eq!(d.threshold, Some(options.thresholds[d.layer as usize]));
            prop_assert!(d.distance <= options.thresholds[d.layer as usize] + 1e-3, "{:?}", d);
        }
    }
}

#[test]
fn layers_are_told_and_equal_on_any_number_of_threads() {
    let data = random_vectors(4, 3000, 16);
    let vectors = Vectors::new(&data, 16).unwrap();
    let options = SelectionOptions { block_rows: 200, ..Default::default() };
    let selection = on_any_threads(|| select(vectors, None, Target::Ratio(0.5), &options).unwrap());
    assert_eq!(selection.chosen.len(), 1500);
    let mut before = 3000;
    for layer in &selection.layers {
        assert_eq!(layer.n_before, before);
        before = layer.n_after;
    }
    assert_eq!(before, 1500);
    let other = SelectionOptions { seed: truing_types::Seed(9), ..options };
    assert_ne!(select(vectors, None, Target::Ratio(0.5), &other).unwrap().chosen, selection.chosen);
}

#[test]
fn quality_decides_who_stays() {
    let data = [1.0, 0.0, 1.0, 0.01, 0.0, 1.0];
    let vectors = Vectors::new(&data, 2).unwrap();
    let chosen = |qualities: Option<&[f32]>| {
        select(vectors, qualities, Target::Size(2), &SelectionOptions::default()).unwrap().chosen
    };
    assert_eq!(chosen(None), [0, 2]);
    assert_eq!(chosen(Some(&[1.0, 2.0, 0.0])), [1, 2]);
}

#[test]
fn farthest_points_cover() {
    let data = [1.0, 0.0, 0.999, 0.01, 0.0, 1.0, -1.0, 0.0];
    let vectors = Vectors::new(&data, 2).unwrap();
    assert_eq!(farthest_points(vectors, None, 2).unwrap(), [0, 3]);
    assert_eq!(farthest_points(vectors, None, 3).unwrap(), [0, 2, 3]);
    assert_eq!(farthest_points(vectors, None, 9).unwrap(), [0, 1, 2, 3]);
    assert!(farthest_points(Vectors::new(&[], 2).unwrap(), None, 3).unwrap().is_empty());
}

#[test]
fn bad_input_is_named() {
    let data = [1.0, 0.0, 0.0, 1.0];
    let vectors = Vectors::new(&data, 2).unwrap();
    let check = |target: Target<'_>, options: SelectionOptions, expect: &str| {
        assert_eq!(select(vectors, None, target, &options).unwrap_err().to_string(), expect);
    };
    let all = SelectionOptions::default;
    check(Target::Size(0), all(), "`size` is 0, expected at least 1");
    check(Target::Ratio(1.5), all(), "`ratio` is 1.5, expected above 0, at most 1");
    check(
        Target::Thresholds,
        SelectionOptions { thresholds: vec![0.3, 0.2], ..all() },
        "`thresholds` is [0.3, 0.2], expected numbers above 0, each larger than the one before",
    );
    let sizes = BTreeMap::from([(0, 1)]);
    check(
        Target::Quotas { labels: &[0, 7], sizes: &sizes },
        all(),
        "`label` is 7, expected a label with a quota",
    );
    check(
        Target::Quotas { labels: &[0], sizes: &sizes },
        all(),
        "labels has 1 entries, expected 2: one for each row",
    );
    let error = Vectors::new(&[1.0, f32::INFINITY], 1).unwrap_err();
    assert_eq!(error.to_string(), "the vector of row 1 holds inf at index 0, expected a finite number");
}
