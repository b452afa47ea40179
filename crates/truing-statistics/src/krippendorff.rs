//! Krippendorff's alpha: agreement of any number of raters, with missing ratings.

use serde::Serialize;

use crate::ranks;

/// What the numbers of a rating mean, and with it how far apart two of them are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Names of classes: two ratings are equal or not.
    Nominal,
    /// An order without distances: how many ratings of the data lie between two ratings.
    Ordinal,
    /// Numbers: their difference.
    Interval,
}

/// Krippendorff's alpha of `ratings[unit][rater]`: 1 for full agreement, 0 for agreement by chance, below 0 for less
/// than that (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").
///
/// With `d(V)` the sum of squared distances over all ordered pairs of the ratings `V`, divided by one less than their
/// number, alpha is `1 - (sum of d over units) / d(all ratings)`. A rating that is `None` or not finite is missing. A
/// unit with fewer than two ratings counts nowhere. The order of units and of raters has no influence.
///
/// `None` where alpha is undefined: no unit has two ratings, or all the ratings that count are equal, so that no
/// disagreement can be expected.
#[must_use]
pub fn krippendorff_alpha<Unit: AsRef<[Option<f64>]>>(ratings: &[Unit], level: Level) -> Option<f64> {
    // The ratings of all units, one after the other, and how many are of each unit.
    let mut values: Vec<f64> = Vec::new();
    let mut lengths = Vec::with_capacity(ratings.len());
    for unit in ratings {
        let start = values.len();
        values.extend(unit.as_ref().iter().flatten().filter(|rating| rating.is_finite()));
        if values.len() - start < 2 {
            values.truncate(start);
        } else {
            lengths.push(values.len() - start);
        }
    }
    let first = *values.first()?;
    if values.iter().all(|&value| value == first) {
        return None;
    }
    if level == Level::Ordinal {
        // The ordinal distance of two ratings is the difference of their mid-ranks.
        values = ranks(&values);
    }
    let mut observed = 0.0;
    let mut rest = values.as_slice();
    for n in lengths {
        let (unit, others) = rest.split_at(n);
        observed += disagreement(unit, level);
        rest = others;
    }
    Some(1.0 - observed / disagreement(&values, level))
}

/// The squared distances of all ordered pairs of at least two values, over one less than the number of values.
fn disagreement(values: &[f64], level: Level) -> f64 {
    let n = values.len() as f64;
    let of_pairs = match level {
        Level::Nominal => {
            let mut sorted = values.to_vec();
            sorted.sort_unstable_by(f64::total_cmp);
            let equal: usize = sorted.chunk_by(|a, b| a == b).map(|run| run.len() * run.len()).sum();
            n * n - equal as f64
        }
        Level::Ordinal | Level::Interval => {
            let mean = values.iter().sum::<f64>() / n;
            2.0 * n * values.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
        }
    };
    of_pairs / (n - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Krippendorff 2011: 12 units, 4 observers.
    fn example() -> Vec<Vec<Option<f64>>> {
        let observers = ["123321412***", "1233224125*3", "*3332342251*", "12332441251*"];
        let rating = |observer: &str, unit: usize| observer[unit..=unit].parse().ok();
        (0..12).map(|unit| observers.iter().map(|observer| rating(observer, unit)).collect()).collect()
    }

    #[test]
    fn the_example_of_krippendorff_has_the_published_alphas() {
        for (level, expected) in [(Level::Nominal, 0.743), (Level::Ordinal, 0.815), (Level::Interval, 0.849)]
        {
            let found = krippendorff_alpha(&example(), level).unwrap();
            assert!((found - expected).abs() < 5e-4, "{level:?}: {found}");
        }
    }

    #[test]
    fn alpha_is_one_less_observed_over_expected_disagreement_of_pairs() {
        type Distance<'a> = &'a dyn Fn(f64, f64) -> f64;
        // The definition, pair by pair, on a table with a value that only a unit without pairs has.
        let table: [&[f64]; 5] = [&[1.0, 2.0, 2.0], &[5.0, 3.0], &[9.0], &[1.0, 1.0, 5.0, 2.0], &[]];
        let ratings: Vec<Vec<Option<f64>>> =
            table.iter().map(|unit| unit.iter().copied().map(Some).collect()).collect();
        let all: Vec<f64> =
            table.iter().filter(|unit| unit.len() > 1).flat_map(|unit| unit.to_vec()).collect();
        let pairs = |values: &[f64], distance: Distance| {
            values.iter().flat_map(|a| values.iter().map(|b| distance(*a, *b))).sum::<f64>()
        };
        let ordinal = |a: f64, b: f64| {
            let count = |value: f64| all.iter().filter(|&&one| one == value).count() as f64;
            let between = all.iter().filter(|&&one| a.min(b) <= one && one <= a.max(b)).count() as f64;
            if a == b { 0.0 } else { (between - f64::midpoint(count(a), count(b))).powi(2) }
        };
        let levels: [(Level, Distance); 3] = [
            (Level::Nominal, &|a, b| f64::from(a != b)),
            (Level::Ordinal, &ordinal),
            (Level::Interval, &|a, b| (a - b).powi(2)),
        ];
        for (level, distance) in levels {
            let n = all.len() as f64;
            let of_units = table.iter().filter(|unit| unit.len() > 1);
            let observed: f64 = of_units.map(|unit| pairs(unit, distance) / (unit.len() - 1) as f64).sum();
            let expected = 1.0 - (observed / n) / (pairs(&all, distance) / (n * (n - 1.0)));
            let found = krippendorff_alpha(&ratings, level).unwrap();
            assert!((found - expected).abs() < 1e-12, "{level:?}: {found} {expected}");
        }
    }

    #[test]
    fn the_order_of_units_and_of_raters_has_no_influence() {
        let mut changed = example();
        changed.rotate_left(5);
        changed.iter_mut().for_each(|unit| unit.reverse());
        for level in [Level::Nominal, Level::Ordinal, Level::Interval] {
            let [one, other] =
                [&example(), &changed].map(|ratings| krippendorff_alpha(ratings, level).unwrap());
            assert!((one - other).abs() < 1e-12, "{level:?}");
        }
    }

    #[test]
    fn no_alpha_without_pairs_or_without_expected_disagreement() {
        for level in [Level::Nominal, Level::Ordinal, Level::Interval] {
            assert_eq!(krippendorff_alpha::<Vec<Option<f64>>>(&[], level), None);
            assert_eq!(krippendorff_alpha(&[vec![Some(1.0), None], vec![Some(2.0)]], level), None);
            assert_eq!(krippendorff_alpha(&[vec![Some(1.0), Some(f64::NAN)]], level), None);
            // 0.1 has no exact mean: rounding must not pass for disagreement.
            assert_eq!(krippendorff_alpha(&vec![vec![Some(0.1); 3]; 7], level), None);
            assert_eq!(krippendorff_alpha(&[vec![Some(0.0), Some(-0.0)]], level), None);
        }
    }
}
