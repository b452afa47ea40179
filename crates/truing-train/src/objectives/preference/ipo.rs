//! IPO: `(h - 1 / (2 beta))^2` on log-ratios a token. The paper sums over tokens; the mean is what its authors
//! recommend and TRL computes.

use super::{PairLoss, Preference, ResponseLogProbs};

pub(super) fn loss(c: &Preference, chosen: ResponseLogProbs, rejected: ResponseLogProbs) -> PairLoss {
    let h = chosen.log_ratio() / chosen.n_tokens - rejected.log_ratio() / rejected.n_tokens;
    let distance = h - 1.0 / (2.0 * c.beta);
    PairLoss {
        loss: distance * distance,
        d_chosen: 2.0 * distance / chosen.n_tokens,
        d_rejected: -2.0 * distance / rejected.n_tokens,
    }
}
