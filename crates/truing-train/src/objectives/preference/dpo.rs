//! DPO and its forms on the same logistic curve.
//!
//! ```text
//! h = (log pi/ref)_w - (log pi/ref)_l
//! sigmoid: -(1 - e) log sigma(beta h) - e log sigma(-beta h)
//! robust:  (-(1 - e) log sigma(beta h) + e log sigma(-beta h)) / (1 - 2 e)
//! ```

use super::{PairLoss, Preference, ResponseLogProbs, negative_log_sigmoid, sigmoid};

/// Loss and derivative by `h` of `a (-log sigma(beta h)) + b (-log sigma(-beta h))`.
fn logistic(beta: f64, h: f64, a: f64, b: f64) -> (f64, f64) {
    let x = beta * h;
    let loss = a * negative_log_sigmoid(x) + b * negative_log_sigmoid(-x);
    (loss, beta * (b * sigmoid(x) - a * sigmoid(-x)))
}

pub(super) fn sigmoid_loss(c: &Preference, chosen: ResponseLogProbs, rejected: ResponseLogProbs) -> PairLoss {
    let h = chosen.log_ratio() - rejected.log_ratio();
    let (loss, d_h) = logistic(c.beta, h, 1.0 - c.label_smoothing, c.label_smoothing);
    PairLoss { loss, d_chosen: d_h, d_rejected: -d_h }
}

/// The log-ratios divided by their numbers of tokens.
pub(super) fn length_normalised_loss(
    c: &Preference,
    chosen: ResponseLogProbs,
    rejected: ResponseLogProbs,
) -> PairLoss {
    let h = chosen.log_ratio() / chosen.n_tokens - rejected.log_ratio() / rejected.n_tokens;
    let (loss, d_h) = logistic(c.beta, h, 1.0 - c.label_smoothing, c.label_smoothing);
    PairLoss { loss, d_chosen: d_h / chosen.n_tokens, d_rejected: -d_h / rejected.n_tokens }
}

pub(super) fn robust_loss(c: &Preference, chosen: ResponseLogProbs, rejected: ResponseLogProbs) -> PairLoss {
    let (h, e) = (chosen.log_ratio() - rejected.log_ratio(), c.label_smoothing);
    let scale = 1.0 - 2.0 * e;
    let (loss, d_h) = logistic(c.beta, h, (1.0 - e) / scale, -e / scale);
    PairLoss { loss, d_chosen: d_h, d_rejected: -d_h }
}
