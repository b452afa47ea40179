//! How far judges agree, with each other and with themselves when the order is swapped.

use serde::Serialize;

/// A verdict on the first of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is worse.
    Worse,
    /// Neither is better.
    Equal,
    /// It is better.
    Better,
}

impl Verdict {
    /// The share of a win.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Self::Worse => 0.0,
            Self::Equal => 0.5,
            Self::Better => 1.0,
        }
    }

    /// The same from the other side.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::Worse => Self::Better,
            Self::Equal => Self::Equal,
            Self::Better => Self::Worse,
        }
    }
}

/// Agreement of two lists of verdicts on the same comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Comparisons on which both have a verdict.
    pub n: usize,
    /// Share on which they are the same.
    pub share: f64,
    /// The share beyond chance (Cohen 1960); none where chance alone explains everything, as with a judge that always says
    /// the same.
    pub kappa: Option<f64>,
}

/// Compares verdicts pair by pair; `None` where nobody was asked the same.
#[must_use]
pub fn agreement(pairs: impl IntoIterator<Item = (Verdict, Verdict)>) -> Option<Agreement> {
    let mut table = [[0_usize; 3]; 3];
    pairs.into_iter().for_each(|(one, other)| table[one as usize][other as usize] += 1);
    let n: usize = table.iter().flatten().sum();
    if n == 0 {
        return None;
    }
    let total = n as f64;
    let share = (0..3).map(|i| table[i][i]).sum::<usize>() as f64 / total;
    let of_one = |i: usize| table[i].iter().sum::<usize>() as f64 / total;
    let of_other = |i: usize| (0..3).map(|j| table[j][i]).sum::<usize>() as f64 / total;
    let by_chance: f64 = (0..3).map(|i| of_one(i) * of_other(i)).sum();
    let kappa = (by_chance < 1.0).then(|| (share - by_chance) / (1.0 - by_chance));
    Some(Agreement { n, share, kappa })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Better, Equal, Worse};

    #[test]
    fn kappa_of_a_known_table() {
        // 20 and 15 on the diagonal, 5 and 10 beside it: Cohen's share 0.7 against 0.5 by chance.
        let mut pairs = vec![(Better, Better); 20];
        pairs.extend(vec![(Better, Worse); 5]);
        pairs.extend(vec![(Worse, Better); 10]);
        pairs.extend(vec![(Worse, Worse); 15]);
        let found = agreement(pairs).unwrap();
        assert_eq!((found.n, found.share), (50, 0.7));
        assert!((found.kappa.unwrap() - 0.4).abs() < 1e-12);
    }

    #[test]
    fn one_who_always_says_the_same_has_no_kappa_with_itself() {
        let found = agreement(vec![(Equal, Equal); 9]).unwrap();
        assert_eq!((found.share, found.kappa), (1.0, None));
        assert_eq!(agreement(Vec::new()), None);
        let chance = agreement([(Equal, Better), (Equal, Worse), (Equal, Equal)]).unwrap();
        assert!(chance.kappa.unwrap().abs() < 1e-12);
    }

    #[test]
    fn swapping_twice_is_nothing() {
        for verdict in [Worse, Equal, Better] {
            assert_eq!(verdict.swapped().swapped(), verdict);
            assert_eq!(verdict.swapped().share(), 1.0 - verdict.share());
        }
    }
}
