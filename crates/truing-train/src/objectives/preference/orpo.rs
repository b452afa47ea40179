//! ORPO: the mean negative log-likelihood of the better response, and beta times the logistic loss of the log odds
//! ratio.
//!
//! ```text
//! a = mean log pi     log odds = a - log(1 - e^a)
//! L = -a_w - beta log sigma(log odds_w - log odds_l)
//! ```

use super::{PairLoss, Preference, ResponseLogProbs, negative_log_sigmoid, sigmoid};

/// The mean log-probability that odds are clamped at. At 0 the odds are infinite, and near it their derivative grows as
/// `1 / -a`; log-probabilities come in single precision, which does not tell probabilities closer to 1 apart.
const LARGEST_MEAN: f64 = -(f32::EPSILON as f64);

/// `log(p / (1 - p))` of `a = log p`, and its derivative by `a`. Past the clamp the odds are constant and their
/// derivative is 0: a response that certain is not made any more certain, and not less.
fn log_odds(a: f64) -> (f64, f64) {
    if a > LARGEST_MEAN {
        return (LARGEST_MEAN - (-LARGEST_MEAN.exp_m1()).ln(), 0.0);
    }
    let one_minus_p = -a.exp_m1();
    (a - one_minus_p.ln(), 1.0 / one_minus_p)
}

pub(super) fn loss(c: &Preference, chosen: ResponseLogProbs, rejected: ResponseLogProbs) -> PairLoss {
    let (odds_chosen, d_odds_chosen) = log_odds(chosen.mean());
    let (odds_rejected, d_odds_rejected) = log_odds(rejected.mean());
    let x = odds_chosen - odds_rejected;
    let d_x = -c.beta * sigmoid(-x);
    PairLoss {
        loss: -chosen.mean() + c.beta * negative_log_sigmoid(x),
        d_chosen: (d_x * d_odds_chosen - 1.0) / chosen.n_tokens,
        d_rejected: -d_x * d_odds_rejected / rejected.n_tokens,
    }
}
