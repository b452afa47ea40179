//! Kendall's W: agreement of rankings.

use crate::ranks as mid_ranks;

/// Kendall's coefficient of concordance of `ranks[rater][item]`, between 0 (the rank sums of all items are equal) and 1
/// (all raters have the same order), corrected for ties (Kendall and Babington Smith 1939; Kendall 1948).
///
/// The numbers may be ranks or scores: each rater's numbers are replaced by their mid-ranks. W is the sum of squared
/// deviations of the items' rank sums, over what it would be if all raters had the same order: the number of raters
/// times the sum of squared deviations of all ranks.
///
/// `None` for fewer than two raters, raters with different numbers of items, a number that is not finite, and where all
/// raters tie all items.
#[must_use]
pub fn kendall_w<Rater: AsRef<[f64]>>(ranks: &[Rater]) -> Option<f64> {
    let n_items = ranks.first()?.as_ref().len();
    let is_valid = |rater: &[f64]| rater.len() == n_items && rater.iter().all(|number| number.is_finite());
    if ranks.len() < 2 || !ranks.iter().all(|rater| is_valid(rater.as_ref())) {
        return None;
    }
    let n_raters = ranks.len() as f64;
    let middle = (n_items as f64 - 1.0) / 2.0;
    let mut sums = vec![0.0; n_items];
    let mut of_raters = 0.0;
    for rater in ranks {
        for (sum, rank) in sums.iter_mut().zip(mid_ranks(rater.as_ref())) {
            *sum += rank;
            of_raters += (rank - middle).powi(2);
        }
    }
    let of_sums: f64 = sums.iter().map(|sum| (sum - n_raters * middle).powi(2)).sum();
    (of_raters > 0.0).then(|| of_sums / (n_raters * of_raters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w_without_ties_is_twelve_s_over_m2_n3_less_n() {
        // Three raters, six items: rank sums 8, 14, 11, 11, 11, 8 around 10.5 give S = 25.5.
        let ranks =
            [[1.0, 6.0, 3.0, 2.0, 5.0, 4.0], [1.0, 5.0, 6.0, 4.0, 2.0, 3.0], [6.0, 3.0, 2.0, 5.0, 4.0, 1.0]];
        let expected = 12.0 * 25.5 / (9.0 * (216.0 - 6.0));
        assert!((kendall_w(&ranks).unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn same_orders_have_1_opposite_orders_0_and_scores_do_as_well_as_ranks() {
        let scores = vec![vec![0.3, 0.9, 0.1], vec![30.0, 31.0, -5.0]];
        assert_eq!(kendall_w(&scores), Some(1.0));
        assert_eq!(kendall_w(&[vec![1.0, 2.0, 3.0], vec![3.0, 2.0, 1.0]]), Some(0.0));
        // The same ties in all rankings are full agreement, which the formula without the correction denies.
        assert_eq!(kendall_w(&[vec![1.0, 1.0, 2.0], vec![5.0, 5.0, 9.0]]), Some(1.0));
    }

    #[test]
    fn the_order_of_raters_and_items_has_no_influence() {
        let ranks = [vec![1.0, 2.0, 2.0, 4.0], vec![2.0, 1.0, 3.0, 3.0], vec![4.0, 1.0, 2.0, 3.0]];
        let mut changed = ranks.clone();
        changed.rotate_left(1);
        changed.iter_mut().for_each(|rater| rater.rotate_left(2));
        assert_eq!(kendall_w(&ranks), kendall_w(&changed));
    }

    #[test]
    fn no_w_where_it_is_undefined() {
        assert_eq!(kendall_w::<Vec<f64>>(&[]), None);
        assert_eq!(kendall_w(&[vec![1.0, 2.0]]), None);
        assert_eq!(kendall_w(&[vec![1.0, 2.0], vec![1.0]]), None);
        assert_eq!(kendall_w(&[vec![1.0, f64::NAN], vec![1.0, 2.0]]), None);
        assert_eq!(kendall_w(&[vec![3.0, 3.0], vec![1.0, 1.0]]), None);
        assert_eq!(kendall_w(&[vec![1.0], vec![1.0]]), None);
    }
}
