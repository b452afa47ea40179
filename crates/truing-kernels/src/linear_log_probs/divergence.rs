//! Divergences of the model's distribution from a reference over some tokens; the formulas are in the parent module.

/// A reference distribution over some tokens at every row.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceRows<'a> {
    /// Tokens a row holds, at least 1.
    pub k: usize,
    /// The tokens `[n, k]`.
    pub tokens: &'a [u32],
    /// Their log-probabilities, which sum to 1 over the row `[n, k]`.
    pub log_probs: &'a [f32],
}

/// Which divergence of the model's distribution p from the reference q.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum DivergenceKind {
    /// KL(p, q): p avoids what q finds unlikely.
    #[default]
    ReverseKl,
    /// KL(q, p): p covers what q finds likely.
    ForwardKl,
    /// The generalised Jensen-Shannon divergence with this weight of q in the mixture, between 0 and 1
    /// (arXiv 2306.13649).
    JensenShannon(f64),
}

/// The divergence from a reference: what is given, and where it goes.
#[derive(Debug)]
pub struct Divergence<'a> {
    /// The reference.
    pub reference: ReferenceRows<'a>,
    /// Which divergence.
    pub kind: DivergenceKind,
    /// The divergence at each row, in nats, never negative `[n]`.
    pub kl: &'a mut [f32],
    /// Gradient with respect to it `[n]`; empty for zero.
    pub d_kl: &'a [f32],
}

impl DivergenceKind {
    /// The divergence of one row and its gradient with respect to the logits; `terms` are the pairs
    /// `(log p_v, log q_v)`.
    pub(super) fn of_row<I: Iterator<Item = (f64, f64)>>(
        self,
        terms: impl Fn() -> I,
        gradient: &mut [f32],
    ) -> f64 {
        let put = |gradient: &mut [f32], values: &mut dyn Iterator<Item = f64>| {
            gradient.iter_mut().zip(values).for_each(|(gradient, value)| *gradient = value as f32);
        };
        match self {
            Self::ReverseKl => {
                let divergence: f64 = terms().map(|(log_p, log_q)| log_p.exp() * (log_p - log_q)).sum();
                let of = |(log_p, log_q): (f64, f64)| log_p.exp() * (log_p - log_q - divergence);
                put(gradient, &mut terms().map(of));
                divergence
            }
            Self::ForwardKl => {
                put(gradient, &mut terms().map(|(log_p, log_q)| log_p.exp() - log_q.exp()));
                terms().map(|(log_p, log_q)| log_q.exp() * (log_q - log_p)).sum()
            }
            Self::JensenShannon(beta) => {
                // Where both are equal, so is the mixture, to the bit.
                let log_m = |log_p: f64, log_q: f64| match log_p == log_q {
                    true => log_p,
                    false => {
                        let (q, p) = (beta.ln() + log_q, (1.0 - beta).ln() + log_p);
                        p.max(q) + (-(p - q).abs()).exp().ln_1p()
                    }
                };
                let from_p: f64 =
                    terms().map(|(log_p, log_q)| log_p.exp() * (log_p - log_m(log_p, log_q))).sum();
                let from_q: f64 =
                    terms().map(|(log_p, log_q)| log_q.exp() * (log_q - log_m(log_p, log_q))).sum();
                let of = |(log_p, log_q): (f64, f64)| {
                    (1.0 - beta) * log_p.exp() * (log_p - log_m(log_p, log_q) - from_p)
                };
                put(gradient, &mut terms().map(of));
                beta * from_q + (1.0 - beta) * from_p
            }
        }
    }
}
