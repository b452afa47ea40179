//! SimPO: `-log sigma(beta (mean log pi_w - mean log pi_l) - gamma)`.

use super::{PairLoss, Preference, ResponseLogProbs, negative_log_sigmoid, sigmoid};

pub(super) fn loss(c: &Preference, chosen: ResponseLogProbs, rejected: ResponseLogProbs) -> PairLoss {
    let x = c.beta * (chosen.mean() - rejected.mean()) - c.gamma;
    let d_x = -sigmoid(-x);
    PairLoss {
        loss: negative_log_sigmoid(x),
        d_chosen: c.beta * d_x / chosen.n_tokens,
        d_rejected: -c.beta * d_x / rejected.n_tokens,
    }
}
