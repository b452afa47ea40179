//! KTO: each response against a reference point `z`, the KL that the policy has moved by.
//!
//! ```text
//! wanted:   w_d (1 - sigma(beta (log pi/ref - z)))
//! unwanted: w_u (1 - sigma(beta (z - log pi/ref)))
//! ```

use super::{Preference, ResponseLogProbs, sigmoid};

/// Loss of one response and its derivative by the summed log-probability.
pub(super) fn loss(c: &Preference, response: ResponseLogProbs, is_wanted: bool) -> (f64, f64) {
    let (sign, weight) = if is_wanted { (1.0, c.desirable_weight) } else { (-1.0, c.undesirable_weight) };
    let value = sigmoid(sign * c.beta * (response.log_ratio() - c.kto_baseline));
    (weight * (1.0 - value), -weight * sign * c.beta * value * (1.0 - value))
}
