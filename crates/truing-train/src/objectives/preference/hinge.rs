//! SLiC's hinge on DPO's log-ratio: `max(0, 1 - beta h)`.

use super::{PairLoss, Preference, ResponseLogProbs};

pub(super) fn loss(c: &Preference, chosen: ResponseLogProbs, rejected: ResponseLogProbs) -> PairLoss {
    let rest = 1.0 - c.beta * (chosen.log_ratio() - rejected.log_ratio());
    if rest <= 0.0 {
        return PairLoss::default();
    }
    PairLoss { loss: rest, d_chosen: -c.beta, d_rejected: c.beta }
}
