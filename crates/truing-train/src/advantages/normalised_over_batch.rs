//! The group's mean taken off, then one deviation for the whole batch (REINFORCE++ with baseline,
//! arXiv 2501.03262): groups that hardly differ are not blown up.

use super::{Scale, group_normalised};

/// `is_equal` says of each group whether its rewards are all equal: what differs in it is KL alone, which enters
/// neither the deviation nor is divided by it.
pub(super) fn normalise(
    groups: &[Vec<Option<f64>>],
    is_equal: &[bool],
    epsilon: f64,
) -> Vec<Vec<Option<f64>>> {
    let mut centred: Vec<Vec<Option<f64>>> =
        groups.iter().map(|group| group_normalised::normalise(group, Scale::None, 0.0)).collect();
    // Centred rewards have mean 0, so their mean square is their variance.
    let (mut sum, mut n) = (0.0, 0.0);
    for (group, is_equal) in centred.iter().zip(is_equal) {
        for advantage in group.iter().flatten() {
            sum += if *is_equal { 0.0 } else { advantage * advantage };
            n += 1.0;
        }
    }
    if sum > 0.0 {
        let divisor = (sum / n).sqrt() + epsilon;
        let unequal = centred.iter_mut().zip(is_equal).filter(|(_, is_equal)| !**is_equal);
        unequal.flat_map(|(group, _)| group.iter_mut().flatten()).for_each(|advantage| *advantage /= divisor);
    }
    centred
}
