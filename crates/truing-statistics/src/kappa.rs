//! Kappas on classes with numbers: Cohen's of two raters, weighted or not, and Fleiss' of many.
//!
//! [`agreement`](crate::agreement) compares two raters whose answers are of any type.

use std::collections::BTreeMap;

/// How much two different classes disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KappaWeights {
    /// All different classes disagree alike.
    Unweighted,
    /// By the difference of the class numbers.
    Linear,
    /// By the square of the difference of the class numbers.
    Quadratic,
}

impl KappaWeights {
    fn disagreement(self, one: usize, other: usize) -> f64 {
        let difference = one.abs_diff(other) as f64;
        match self {
            Self::Unweighted => f64::from(one != other),
            Self::Linear => difference,
            Self::Quadratic => difference * difference,
        }
    }
}

/// Cohen's kappa of the classes that two raters gave to the same units (Cohen 1960; weighted: Cohen 1968): 1 less the
/// observed over the expected mean disagreement. The class numbers are places on the scale, so that a class that nobody
/// uses still counts as a step. `None` where no disagreement is expected: without pairs, or if both raters
/// gave one and the same class to everything.
#[must_use]
pub fn cohen_kappa(pairs: impl IntoIterator<Item = (usize, usize)>, weights: KappaWeights) -> Option<f64> {
    let (mut n, mut observed) = (0.0, 0.0);
    // How often each of the two gives a class.
    let mut given: [BTreeMap<usize, f64>; 2] = [BTreeMap::new(), BTreeMap::new()];
    for (one, other) in pairs {
        n += 1.0;
        observed += weights.disagreement(one, other);
        *given[0].entry(one).or_default() += 1.0;
        *given[1].entry(other).or_default() += 1.0;
    }
    let mut expected = 0.0;
    for (&one, n_one) in &given[0] {
        for (&other, n_other) in &given[1] {
            expected += n_one * n_other * weights.disagreement(one, other);
        }
    }
    (expected > 0.0).then(|| 1.0 - n * observed / expected)
}

/// Fleiss' kappa of `counts[unit][class]`, the number of raters that gave the class to the unit (Fleiss 1971). `None`
/// unless all units have the same number of classes and the same number of raters, at least two, and more than
/// one class was given. For missing ratings see [`krippendorff_alpha`](crate::krippendorff_alpha).
#[must_use]
pub fn fleiss_kappa<Unit: AsRef<[usize]>>(counts: &[Unit]) -> Option<f64> {
    let first = counts.first()?.as_ref();
    let (n_classes, n_raters) = (first.len(), first.iter().sum::<usize>());
    let is_valid = |unit: &[usize]| unit.len() == n_classes && unit.iter().sum::<usize>() == n_raters;
    if n_raters < 2 || !counts.iter().all(|unit| is_valid(unit.as_ref())) {
        return None;
    }
    let mut totals = vec![0_usize; n_classes];
    let mut n_equal_pairs = 0_usize;
    for unit in counts {
        for (total, &n) in totals.iter_mut().zip(unit.as_ref()) {
            *total += n;
            n_equal_pairs += n * n.saturating_sub(1);
        }
    }
    let n_pairs = counts.len() * n_raters * (n_raters - 1);
    let observed = n_equal_pairs as f64 / n_pairs as f64;
    let n_ratings = (counts.len() * n_raters) as f64;
    let by_chance: f64 = totals.iter().map(|&total| (total as f64 / n_ratings).powi(2)).sum();
    (by_chance < 1.0).then(|| (observed - by_chance) / (1.0 - by_chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unweighted_kappa_is_that_of_agreement_and_of_two_classes_with_any_weights() {
        let pairs = [(0, 0), (1, 1), (0, 1), (1, 1), (1, 0), (0, 0), (1, 1)];
        let expected = crate::agreement(pairs).unwrap().kappa.unwrap();
        for weights in [KappaWeights::Unweighted, KappaWeights::Linear, KappaWeights::Quadratic] {
            assert!((cohen_kappa(pairs, weights).unwrap() - expected).abs() < 1e-12, "{weights:?}");
        }
    }

    #[test]
    fn weights_forgive_neighbours_and_the_sides_are_alike() {
        let near = [(0, 1), (1, 1), (2, 3), (3, 3), (4, 3), (0, 0), (4, 4)];
        let kappas = [KappaWeights::Unweighted, KappaWeights::Linear, KappaWeights::Quadratic]
            .map(|weights| cohen_kappa(near, weights).unwrap());
        assert!(kappas.is_sorted(), "{kappas:?}");
        let swapped = near.map(|(one, other)| (other, one));
        assert_eq!(Some(kappas[2]), cohen_kappa(swapped, KappaWeights::Quadratic));
    }

    #[test]
    fn fleiss_own_example() {
        // Fleiss 1971, table 1 as it is often reprinted: ten units, five classes, fourteen raters, kappa 0.210.
        let counts = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ];
        let kappa = fleiss_kappa(&counts).unwrap();
        assert!((kappa - 0.210).abs() < 5e-4, "{kappa}");
        let mut reversed = counts;
        reversed.reverse();
        reversed.iter_mut().for_each(|unit| unit.rotate_left(3));
        assert!((fleiss_kappa(&reversed).unwrap() - kappa).abs() < 1e-12);
    }

    #[test]
    fn no_kappa_where_it_is_undefined() {
        assert_eq!(cohen_kappa([], KappaWeights::Linear), None);
        assert_eq!(cohen_kappa([(2, 2); 5], KappaWeights::Unweighted), None);
        assert_eq!(fleiss_kappa::<[usize; 2]>(&[]), None);
        assert_eq!(fleiss_kappa(&[[1, 0], [0, 1]]), None);
        assert_eq!(fleiss_kappa(&[[2, 0], [1, 2]]), None);
        assert_eq!(fleiss_kappa(&[vec![2, 0], vec![1, 1, 0]]), None);
        assert_eq!(fleiss_kappa(&[[3, 0], [3, 0]]), None);
    }
}
