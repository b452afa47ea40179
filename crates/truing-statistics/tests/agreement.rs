//! Agreement statistics against other packages (`golden/make.py` writes what they give), on simulated annotators, and
//! the coverage of the bootstrap interval of alpha.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde_json::Value;
use truing_statistics::{
    Bootstrap, KappaWeights, Level, Span, cohen_kappa, dawid_skene, fleiss_kappa, kendall_w,
    krippendorff_alpha, span_f1,
};
use truing_types::Seed;

/// The cases of a statistic, at least twelve.
fn cases(statistic: &str) -> Vec<Value> {
    let mut golden: Value = serde_json::from_str(include_str!("golden/agreement.json")).expect("valid JSON");
    let cases: Vec<Value> = serde_json::from_value(golden[statistic].take()).expect("a list of cases");
    assert!(cases.len() >= 12, "{statistic}: {}", cases.len());
    cases
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("the shape that make.py writes")
}

/// Both undefined, or equal to 1e-9.
fn check(found: Option<f64>, expected: &Value, case: &str) {
    match (found, expected.as_f64()) {
        (Some(found), Some(expected)) => {
            assert!((found - expected).abs() < 1e-9, "{case}: {found} {expected}")
        }
        (found, expected) => assert_eq!(found, expected, "{case}"),
    }
}

/// Equal to 1e-9 in every number, with the same shape.
fn check_numbers(found: &Value, expected: &Value, case: &str) {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{case}");
            found.iter().zip(expected).for_each(|(found, expected)| check_numbers(found, expected, case));
        }
        _ => check(found.as_f64(), expected, case),
    }
}

#[test]
fn alphas_are_those_of_krippendorff() {
    for (i, case) in cases("krippendorff_alpha").iter().enumerate() {
        let ratings: Vec<Vec<Option<f64>>> = read(&case["ratings"]);
        for (level, name) in
            [(Level::Nominal, "nominal"), (Level::Ordinal, "ordinal"), (Level::Interval, "interval")]
        {
            check(krippendorff_alpha(&ratings, level), &case["alpha"][name], &format!("{i} {name}"));
        }
    }
}

#[test]
fn coefficients_of_concordance_are_those_of_scipy() {
    for (i, case) in cases("kendall_w").iter().enumerate() {
        check(kendall_w(&read::<Vec<Vec<f64>>>(&case["ranks"])), &case["w"], &i.to_string());
    }
}

#[test]
fn kappas_are_those_of_scikit_learn_and_statsmodels() {
    for (i, case) in cases("cohen_kappa").iter().enumerate() {
        let pairs: Vec<(usize, usize)> = read(&case["pairs"]);
        for (weights, name) in [
            (KappaWeights::Unweighted, "unweighted"),
            (KappaWeights::Linear, "linear"),
            (KappaWeights::Quadratic, "quadratic"),
        ] {
            let found = cohen_kappa(pairs.iter().copied(), weights);
            check(found, &case["kappa"][name], &format!("{i} {name}"));
        }
    }
    for (i, case) in cases("fleiss_kappa").iter().enumerate() {
        check(fleiss_kappa(&read::<Vec<Vec<usize>>>(&case["counts"])), &case["kappa"], &i.to_string());
    }
}

#[test]
fn f1_scores_of_spans_are_those_of_scikit_learn() {
    let spans = |value: &Value| -> Vec<Span> {
        let rows: Vec<(usize, usize, u32)> = read(value);
        rows.into_iter().map(|(start, end, label)| Span { start, end, label }).collect()
    };
    for (i, case) in cases("span_f1").iter().enumerate() {
        check(Some(span_f1(&spans(&case["a"]), &spans(&case["b"]))), &case["f1"], &i.to_string());
    }
}

#[test]
fn dawid_skene_is_that_of_the_dense_computation() {
    let number = |case: &Value, name: &str| -> usize { read(&case[name]) };
    for (i, case) in cases("dawid_skene").iter().enumerate() {
        let votes: Vec<Vec<(usize, usize)>> = read(&case["votes"]);
        let n_raters = number(case, "n_raters");
        let found = dawid_skene(&votes, n_raters, number(case, "n_classes"));
        assert_eq!(found.n_iterations, number(case, "n_iterations"), "{i}");
        assert_eq!(found.has_converged, found.n_iterations < 1_000, "{i}");
        let competence: Vec<f64> = (0..n_raters).map(|rater| found.competence(rater)).collect();
        check_numbers(&competence.into(), &case["competence"], &format!("{i} competence"));
        let found = serde_json::to_value(found).unwrap();
        for name in ["posteriors", "confusion", "prevalence"] {
            check_numbers(&found[name], &case[name], &format!("{i} {name}"));
        }
    }
}

/// A class drawn with these probabilities.
fn draw(generator: &mut ChaCha8Rng, probabilities: &[f64]) -> usize {
    let mut left = (generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    for (class, probability) in probabilities.iter().enumerate() {
        left -= probability;
        if left < 0.0 {
            return class;
        }
    }
    probabilities.len() - 1
}

#[test]
fn dawid_skene_recovers_planted_annotators() {
    const PREVALENCE: [f64; 3] = [0.5, 0.3, 0.2];
    // Careful; good; confuses 1 with 2; guesses; prefers 0.
    const PLANTED: [[[f64; 3]; 3]; 5] = [
        [[0.95, 0.03, 0.02], [0.03, 0.94, 0.03], [0.02, 0.04, 0.94]],
        [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.15, 0.05, 0.8]],
        [[0.9, 0.05, 0.05], [0.05, 0.5, 0.45], [0.05, 0.4, 0.55]],
        [[0.33, 0.33, 0.34], [0.33, 0.33, 0.34], [0.33, 0.33, 0.34]],
        [[0.9, 0.05, 0.05], [0.5, 0.45, 0.05], [0.5, 0.05, 0.45]],
    ];
    let mut generator = Seed(18).generator("planted annotators", &[]);
    let truth: Vec<usize> = (0..4_000).map(|_| draw(&mut generator, &PREVALENCE)).collect();
    let votes: Vec<Vec<(usize, usize)>> = truth
        .iter()
        .map(|&class| {
            let vote = |(rater, rows): (usize, &[[f64; 3]; 3])| (rater, draw(&mut generator, &rows[class]));
            PLANTED.iter().enumerate().map(vote).collect()
        })
        .collect();
    let found = dawid_skene(&votes, 5, 3);
    assert!(found.has_converged);
    for (rater, rows) in PLANTED.iter().enumerate() {
        for (row, found) in rows.iter().flatten().zip(found.confusion[rater].iter().flatten()) {
            // Three and a half standard errors of a share of 800 items, and some for unknown classes.
            assert!((row - found).abs() < 0.065, "rater {rater}: {row} {found}");
        }
        let planted: f64 = (0..3).map(|class| PREVALENCE[class] * rows[class][class]).sum();
        assert!((found.competence(rater) - planted).abs() < 0.03, "rater {rater}: {planted}");
    }
    assert!(PREVALENCE.iter().zip(&found.prevalence).all(|(planted, found)| (planted - found).abs() < 0.03));
    let n_right =
        |classes: &[usize]| classes.iter().zip(&truth).filter(|(found, true_)| found == true_).count();
    let largest = |weights: &[f64]| (0..3).max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap();
    let estimated: Vec<usize> = found.posteriors.iter().map(|posterior| largest(posterior)).collect();
    let majority: Vec<usize> = votes
        .iter()
        .map(|votes| {
            let counts = [0, 1, 2].map(|class| votes.iter().filter(|vote| vote.1 == class).count() as f64);
            largest(&counts)
        })
        .collect();
    assert!(n_right(&estimated) > n_right(&majority) + 100, "{} {}", n_right(&estimated), n_right(&majority));
}

/// Ratings of `n_units` by three raters, whose alpha is 1 / (1 + 0.5): the variance of the units is 1, that of the
/// raters' errors 0.5.
fn normal_ratings(n_units: usize, seed: u64) -> Vec<Vec<Option<f64>>> {
    let truths = Seed(seed).normals("truths", n_units, 1.0);
    let errors = Seed(seed).normals("errors", 3 * n_units, 0.5_f32.sqrt());
    let ratings = |(truth, errors): (&f32, &[f32])| {
        errors.iter().map(|error| Some(f64::from(truth + error))).collect::<Vec<_>>()
    };
    truths.iter().zip(errors.chunks_exact(3)).map(ratings).collect()
}

fn alpha_of_units(ratings: &[Vec<Option<f64>>], drawn: &[usize]) -> Option<f64> {
    let units: Vec<&Vec<Option<f64>>> = drawn.iter().map(|&unit| &ratings[unit]).collect();
    krippendorff_alpha(&units, Level::Interval)
}

#[test]
fn the_bootstrap_interval_of_alpha_holds_the_truth() {
    const N: u64 = 300;
    let settings = Bootstrap { n_resamples: 300, ..Bootstrap::default() };
    let held = (0..N).filter(|&seed| {
        let ratings = normal_ratings(100, seed);
        let settings = Bootstrap { seed: Seed(seed), ..settings };
        let found = settings.estimate(100, |drawn| alpha_of_units(&ratings, drawn)).unwrap();
        assert_eq!((found.n_units, found.share_defined), (100, 1.0));
        (found.interval.low..=found.interval.high).contains(&(1.0 / 1.5))
    });
    let share = held.count() as f64 / N as f64;
    // The percentile interval of 100 units is a little narrow; 3.5 standard errors around 0.94.
    assert!((0.89..=0.985).contains(&share), "{share}");
}

#[test]
fn the_labels_that_are_needed_give_the_width_that_was_asked_for() {
    let settings = Bootstrap { n_resamples: 1_000, ..Bootstrap::default() };
    let estimate = |ratings: &[Vec<Option<f64>>]| {
        settings.estimate(ratings.len(), |drawn| alpha_of_units(ratings, drawn)).unwrap()
    };
    let ratings = normal_ratings(1_500, 7);
    let n_labelled = 150;
    let needed = estimate(&ratings[..n_labelled]).labels_needed(0.04).unwrap();
    assert!((150..1_350).contains(&needed), "{needed}");
    let found = estimate(&ratings[..n_labelled + needed]).interval;
    let half_width = (found.high - found.low) / 2.0;
    assert!((0.033..0.047).contains(&half_width), "{half_width} after {needed}");
}
