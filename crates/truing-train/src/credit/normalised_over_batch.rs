//! The group's mean taken off, then one deviation for the whole batch (REINFORCE++ with baseline,
//! arXiv 2501.03262): groups that hardly differ are not blown up.

use super::{Scale, group_normalised};

pub(super) fn normalise(groups: &[Vec<Option<f64>>], epsilon: f64, divides: bool) -> Vec<Vec<Option<f64>>> {
    let mut centred: Vec<Vec<Option<f64>>> =
        groups.iter().map(|group| group_normalised::normalise(group, Scale::None, 0.0)).collect();
    // Centred rewards have mean 0, so their mean square is their variance.
    let (sum, n): (f64, f64) = centred
        .iter()
        .flatten()
        .flatten()
        .fold((0.0, 0.0), |(sum, n), advantage| (sum + advantage * advantage, n + 1.0));
    if divides && sum > 0.0 {
        let divisor = (sum / n).sqrt() + epsilon;
        centred.iter_mut().flatten().flatten().for_each(|advantage| *advantage /= divisor);
    }
    centred
}
