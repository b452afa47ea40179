//! What a GRPO step knows of the tokens that it trains on: one column per quantity, one entry per token, in the order
//! of the packs.

use std::ops::Range;

use truing_model::TopLogProbs;

use crate::completion_packs::CompletionPack;
use crate::{PolicyPack, PolicyPackKind};

/// The tokens with loss of a step's completions, on every rank. A column is empty where the algorithm does not need it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    /// The entries of each completion, by its index in the step; empty for one without loss.
    ranges: Vec<Range<usize>>,
    /// Log-probabilities under the policy at the beginning of the step.
    pub old_log_probs: Vec<f32>,
    /// Log-probabilities under the reference, for the sampled estimator of the KL.
    pub reference_log_probs: Vec<f32>,
    /// KL divergence from the reference.
    pub kl: Vec<f32>,
    /// Truncated importance weights of tokens that a server or the int8 copy of the policy has sampled.
    pub importance_weights: Vec<f32>,
    /// Advantages.
    pub advantages: Vec<f32>,
}

/// What policy and reference say of a pack's targets: log-probabilities under the policy, then the KL and the
/// log-probabilities under the reference, each of all targets or empty.
pub type ComparedTargets = Vec<f32>;

impl Columns {
    /// Of a step of so many completions, none of them compared yet.
    #[must_use]
    pub fn new(n_completions: usize) -> Self {
        Self { ranges: vec![0..0; n_completions], ..Self::default() }
    }

    /// Appends the targets of the next pack, and returns their entries.
    pub fn append(&mut self, pack: &CompletionPack, compared: &ComparedTargets) -> Range<usize> {
        let start = self.old_log_probs.len();
        let mut end = start;
        for &(idx, n_targets) in &pack.completions {
            self.ranges[idx] = end..end + n_targets;
            end += n_targets;
        }
        let mut lists = compared.chunks_exact((end - start).max(1));
        for column in [&mut self.old_log_probs, &mut self.kl, &mut self.reference_log_probs] {
            column.extend(lists.next().unwrap_or_default());
        }
        self.advantages.resize(end, 0.0);
        start..end
    }

    /// The entries of a completion.
    #[must_use]
    pub fn range(&self, completion_idx: usize) -> Range<usize> {
        self.ranges.get(completion_idx).cloned().unwrap_or_default()
    }

    /// A completion's part of a column: empty where the column is.
    #[must_use]
    pub fn part<'a>(&self, column: &'a [f32], completion_idx: usize) -> &'a [f32] {
        column.get(self.range(completion_idx)).unwrap_or_default()
    }

    /// Gives a pack its part of every column.
    pub fn fill(&self, pack: &mut PolicyPack, range: &Range<usize>) {
        let part = |column: &[f32]| column.get(range.clone()).unwrap_or_default().to_vec();
        pack.advantages = part(&self.advantages);
        pack.old_log_probs = part(&self.old_log_probs);
        pack.reference_log_probs = part(&self.reference_log_probs);
        pack.importance_weights = part(&self.importance_weights);
    }
}

/// A pack to learn from, before its columns are known.
#[must_use]
pub fn policy_pack(pack: CompletionPack, reference: Option<TopLogProbs>) -> PolicyPack {
    let places = pack.completions.iter().enumerate();
    PolicyPack {
        kind: PolicyPackKind::Rollouts,
        completions: places.flat_map(|(place, &(_, n))| std::iter::repeat_n(place as u32, n)).collect(),
        batch: pack.batch,
        advantages: Vec::new(),
        old_log_probs: Vec::new(),
        reference_log_probs: Vec::new(),
        importance_weights: Vec::new(),
        reference,
    }
}

#[cfg(test)]
mod tests {
    use truing_types::RowOrigin;

    use super::*;

    #[test]
    fn columns_are_in_pack_order_whatever_the_order_of_completions() {
        let origin = RowOrigin { source: "a.jsonl".into(), line: 1 };
        let pack = |completions: &[(usize, usize)]| {
            let sequences: Vec<_> = completions
                .iter()
                .map(|&(idx, n)| crate::completion_packs::Sequence {
                    prompt: &[1, 2],
                    completion: &[3; 4][..n],
                    origin: &origin,
                    idx,
                    group: 0,
                })
                .collect();
            crate::completion_packs::pack(&sequences, 100, true).unwrap().remove(0)
        };
        let (first, second) = (pack(&[(2, 3), (0, 1)]), pack(&[(3, 2)]));
        let mut columns = Columns::new(4);
        assert_eq!(columns.append(&first, &vec![1.0, 2.0, 3.0, 4.0, 0.1, 0.2, 0.3, 0.4]), 0..4);
        assert_eq!(columns.append(&second, &vec![5.0, 6.0, 0.5, 0.6]), 4..6);
        columns.advantages = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let parts =
            |idx| [&columns.old_log_probs, &columns.kl].map(|column| columns.part(column, idx).to_vec());
        assert_eq!(parts(2), [vec![1.0, 2.0, 3.0], vec![0.1, 0.2, 0.3]]);
        assert_eq!(parts(0), [vec![4.0], vec![0.4]]);
        assert_eq!(parts(3), [vec![5.0, 6.0], vec![0.5, 0.6]]);
        assert!(parts(1).iter().all(Vec::is_empty), "a completion without loss");
        assert!(columns.part(&columns.reference_log_probs, 2).is_empty(), "a column that is not needed");
        let mut packed = policy_pack(second, None);
        columns.fill(&mut packed, &(4..6));
        assert_eq!((packed.old_log_probs, packed.advantages), (vec![5.0, 6.0], vec![4.0, 5.0]));
        assert_eq!((packed.completions, packed.importance_weights), (vec![0, 0], vec![]));
    }
}
