//! Inter-annotator agreement.

use std::collections::BTreeMap;

use serde::Serialize;

/// Agreement of two annotators on the questions that both answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Questions that both have answered.
    pub n: usize,
    /// Share on which they say the same.
    pub share: f64,
    /// Cohen's kappa (1960): the share beyond chance. `None` if chance alone explains everything, as with an annotator
    /// who always says the same.
    pub kappa: Option<f64>,
}

/// Compares the two answers to each question; `None` without a question.
#[must_use]
pub fn agreement<Answer: Ord + Clone>(
    pairs: impl IntoIterator<Item = (Answer, Answer)>,
) -> Option<Agreement> {
    let (mut n, mut n_same) = (0_usize, 0_usize);
    // How often each of the two gives an answer.
    let mut given: BTreeMap<Answer, [usize; 2]> = BTreeMap::new();
    for (one, other) in pairs {
        n += 1;
        n_same += usize::from(one == other);
        given.entry(one).or_default()[0] += 1;
        given.entry(other).or_default()[1] += 1;
    }
    if n == 0 {
        return None;
    }
    let total = n as f64;
    let share = n_same as f64 / total;
    let by_chance: f64 =
        given.values().map(|[one, other]| (*one as f64 / total) * (*other as f64 / total)).sum();
    let kappa = (by_chance < 1.0).then(|| (share - by_chance) / (1.0 - by_chance));
    Some(Agreement { n, share, kappa })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_of_a_known_table() {
        // 20 and 15 on the diagonal, 5 and 10 beside it: Cohen's share 0.7 against 0.5 by chance.
        let mut pairs = vec![("yes", "yes"); 20];
        pairs.extend(vec![("yes", "no"); 5]);
        pairs.extend(vec![("no", "yes"); 10]);
        pairs.extend(vec![("no", "no"); 15]);
        let found = agreement(pairs).unwrap();
        assert_eq!((found.n, found.share), (50, 0.7));
        assert!((found.kappa.unwrap() - 0.4).abs() < 1e-12);
    }

    #[test]
    fn one_who_always_says_the_same_has_no_kappa_with_itself() {
        let found = agreement(vec![(1, 1); 9]).unwrap();
        assert_eq!((found.share, found.kappa), (1.0, None));
        assert_eq!(agreement(Vec::<(u8, u8)>::new()), None);
        let chance = agreement([(1, 2), (1, 0), (1, 1)]).unwrap();
        assert!(chance.kappa.unwrap().abs() < 1e-12);
    }
}
