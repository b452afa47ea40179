//! Prompts to be compared, in buckets with anchors.

use serde_json::{Map, Value};
use truing_types::{RowOrigin, Seed};

/// One prompt to be judged.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityPrompt {
    /// As a judge reads it.
    pub text: String,
    /// Its row.
    pub columns: Map<String, Value>,
    /// Its bucket's label.
    pub bucket: String,
    /// Where it came from.
    pub origin: RowOrigin,
}

/// Prompts that are compared with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its label.
    pub name: String,
    /// Places among the inputs' prompts, the anchors first, each part in the order of the files.
    pub members: Vec<usize>,
    /// How many of them are anchors.
    pub n_anchors: usize,
}

impl Bucket {
    /// Samples up to `n_anchors` of the members as anchors, by seed and the bucket's name: other buckets and their
    /// sizes change nothing.
    #[must_use]
    pub fn sample_anchors(name: &str, mut members: Vec<usize>, n_anchors: usize, seed: Seed) -> Self {
        let n_anchors = n_anchors.min(members.len());
        if n_anchors < members.len() {
            seed.sample_to_front(&mut members, n_anchors, &format!("anchors of {name}"), &[]);
            members[..n_anchors].sort_unstable();
            members[n_anchors..].sort_unstable();
        }
        Self { name: name.to_owned(), members, n_anchors }
    }

    /// Whether it has too few prompts for anchors: all are compared with all.
    #[must_use]
    pub fn is_small(&self) -> bool {
        self.n_anchors == self.members.len()
    }

    /// Who meets whom, as places among the members; the second is always an anchor.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let samples =
            if self.is_small() { 0..self.members.len() } else { self.n_anchors..self.members.len() };
        let opponents = move |sample: usize| if self.is_small() { 0..sample } else { 0..self.n_anchors };
        samples.flat_map(move |sample| opponents(sample).map(move |anchor| (sample, anchor)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_sample_meets_every_anchor_once() {
        let bucket = Bucket::sample_anchors("x", (100..150).collect(), 30, Seed(1));
        assert_eq!((bucket.n_anchors, bucket.is_small()), (30, false));
        let pairs: Vec<_> = bucket.pairs().collect();
        assert_eq!(pairs.len(), 20 * 30);
        assert!(pairs.iter().all(|&(sample, anchor)| sample >= 30 && anchor < 30));
        assert_eq!(pairs.iter().collect::<BTreeSet<_>>().len(), pairs.len());
        let members: BTreeSet<_> = bucket.members.iter().collect();
        assert_eq!(members.len(), 50);
        assert_eq!(Bucket::sample_anchors("x", (100..150).collect(), 30, Seed(1)), bucket);
        assert_ne!(Bucket::sample_anchors("x", (100..150).collect(), 30, Seed(2)).members, bucket.members);
        assert_ne!(Bucket::sample_anchors("y", (100..150).collect(), 30, Seed(1)).members, bucket.members);
    }

    #[test]
    fn a_small_bucket_compares_all_with_all() {
        for (n, n_pairs) in [(1, 0), (2, 1), (7, 21), (30, 435)] {
            let bucket = Bucket::sample_anchors("x", (0..n).collect(), 30, Seed(1));
            assert!(bucket.is_small());
            assert_eq!(bucket.pairs().count(), n_pairs);
            assert!(bucket.pairs().all(|(one, other)| other < one));
        }
    }
}
