//! Triplets for an encoder that should tell tasks apart rather than topics.
//!
//! After section 3.1.2 of the Baichuan Alignment report (arXiv 2410.14940), whose rules are not stated; ours:
//!
//! - An anchor is a row with a template.
//! - A **hard positive** has the anchor's template and lies in another fine cluster: same task, other content. The LCS
//!   of the two rows' fixed text must be at least [`TripletOptions::min_positive_share`] of the longer, and both must
//!   begin and end alike. Of several the one farthest from the anchor is taken.
//! - A **hard negative** lies in the anchor's coarse cluster and has another template: same topic, other task. The LCS
//!   of the two rows' fixed text, and that of the two templates', must be at most
//!   [`TripletOptions::max_negative_share`] of the shorter. Of several the one nearest to the anchor is taken. A row
//!   without a template is no negative: its task is not known.
//! - What lies between the two shares is neither: wordings of one task among them.

use rand_chacha::rand_core::Rng;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::Seed;

use crate::PromptsError;
use crate::clustering::{CoarseAndFine, Vectors, dot};
use crate::error::{check_length, check_option};
use crate::lcs::{LcsMatcher, ShareOf};
use crate::templates::TemplateSet;

/// The thresholds of the rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TripletOptions {
    /// Minimum LCS of the fixed texts of a positive and the anchor, as a fraction of the longer one.
    pub min_positive_share: f64,
    /// Maximum LCS of the fixed texts of a negative and the anchor, as a fraction of the shorter one.
    pub max_negative_share: f64,
    /// Candidates sampled per anchor for the positive and for the negative; the hardest is taken.
    pub n_candidates: usize,
    /// Random seed of the candidates.
    pub seed: Seed,
}

impl Default for TripletOptions {
    fn default() -> Self {
        TripletOptions { min_positive_share: 0.75, max_negative_share: 0.5, n_candidates: 32, seed: Seed(0) }
    }
}

/// Three rows and why they are what they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Triplet {
    /// The row to compare with.
    pub anchor: u32,
    /// Same task, other content.
    pub positive: u32,
    /// Same topic, other task.
    pub negative: u32,
    /// Template of anchor and positive.
    pub template: u32,
    /// Template of the negative.
    pub negative_template: u32,
    /// LCS of the anchor's and the positive's fixed text, as a share of the longer.
    pub positive_share: f64,
    /// LCS of the anchor's and the negative's fixed text, as a share of the shorter.
    pub negative_share: f64,
    /// Fine clusters of anchor and positive, which differ.
    pub fine_clusters: [u32; 2],
    /// The coarse cluster that anchor and negative share.
    pub coarse_cluster: u32,
}

/// Triplets, and how many anchors had none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Triplets {
    /// At most one for each anchor, by anchor.
    pub triplets: Vec<Triplet>,
    /// Rows without a template.
    pub n_without_template: usize,
    /// Anchors without a positive.
    pub n_without_positive: usize,
    /// Anchors with a positive and without a negative.
    pub n_without_negative: usize,
}

/// Mines one triplet for every row that allows it.
///
/// # Errors
/// When an option is outside its range or an input has not one entry per row.
pub fn mine_triplets(
    set: &TemplateSet,
    clusters: &CoarseAndFine,
    vectors: Vectors<'_>,
    options: &TripletOptions,
) -> Result<Triplets, PromptsError> {
    let share = 0.0..=1.0;
    let (positive, negative) = (options.min_positive_share, options.max_negative_share);
    check_option(share.contains(&positive), "min_positive_share", positive, "0 to 1")?;
    check_option(share.contains(&negative), "max_negative_share", negative, "0 to 1")?;
    check_option(options.n_candidates > 0, "n_candidates", options.n_candidates, "at least 1")?;
    let n = set.template_of_row.len();
    check_length("coarse", n, clusters.coarse.len())?;
    check_length("fine", n, clusters.fine.len())?;
    check_length("vectors", n, vectors.len())?;
    let miner = Miner::new(set, clusters, vectors, options);
    // Anchors of one topic look at the same rows: one after another they find them in the cache.
    let mut anchors: Vec<(u32, u32, u32)> = (0..n as u32)
        .filter_map(|row| Some((clusters.coarse[row as usize], set.template_of_row[row as usize]?, row)))
        .collect();
    anchors.par_sort_unstable();
    let outcomes: Vec<Outcome> = anchors
        .par_iter()
        .map_init(LcsMatcher::default, |matcher, &(_, template, row)| {
            miner.mine(row as usize, template, matcher)
        })
        .collect();
    let mut found = Triplets { n_without_template: n - anchors.len(), ..Default::default() };
    for outcome in outcomes {
        match outcome {
            Outcome::Found(triplet) => found.triplets.push(triplet),
            Outcome::NoPositive => found.n_without_positive += 1,
            Outcome::NoNegative => found.n_without_negative += 1,
        }
    }
    found.triplets.par_sort_unstable_by_key(|triplet| triplet.anchor);
    Ok(found)
}

enum Outcome {
    Found(Triplet),
    NoPositive,
    NoNegative,
}

struct Miner<'a> {
    set: &'a TemplateSet,
    clusters: &'a CoarseAndFine,
    vectors: Vectors<'a>,
    /// Of each row's vector.
    lengths: Vec<f32>,
    options: &'a TripletOptions,
    rows_of_template: Vec<Vec<u32>>,
    /// Rows with a template, by coarse cluster.
    rows_of_coarse: FxHashMap<u32, Vec<u32>>,
    /// Fixed text of each template.
    fixed: Vec<Vec<u32>>,
}

impl<'a> Miner<'a> {
    fn new(
        set: &'a TemplateSet,
        clusters: &'a CoarseAndFine,
        vectors: Vectors<'a>,
        options: &'a TripletOptions,
    ) -> Self {
        let mut rows_of_coarse: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        for (row, template) in set.template_of_row.iter().enumerate() {
            if template.is_some() {
                rows_of_coarse.entry(clusters.coarse[row]).or_default().push(row as u32);
            }
        }
        let fixed = set.templates.iter().map(crate::templates::Template::fixed_tokens).collect();
        Miner {
            set,
            clusters,
            vectors,
            lengths: vectors.data().par_chunks(vectors.dim()).map(|row| dot(row, row).sqrt()).collect(),
            options,
            rows_of_template: set.rows_by_template(),
            rows_of_coarse,
            fixed,
        }
    }

    fn mine(&self, anchor: usize, template: u32, matcher: &mut LcsMatcher) -> Outcome {
        let own = self.set.skeletons.fixed_tokens(anchor);
        let Some((positive, positive_share)) = self.positive(anchor, template, &own, matcher) else {
            return Outcome::NoPositive;
        };
        let Some((negative, negative_share)) = self.negative(anchor, template, &own, matcher) else {
            return Outcome::NoNegative;
        };
        Outcome::Found(Triplet {
            anchor: anchor as u32,
            positive,
            negative,
            template,
            negative_template: self.set.template_of_row[negative as usize].unwrap_or(template),
            positive_share,
            negative_share,
            fine_clusters: [self.clusters.fine[anchor], self.clusters.fine[positive as usize]],
            coarse_cluster: self.clusters.coarse[anchor],
        })
    }

    fn positive(
        &self,
        anchor: usize,
        template: u32,
        own: &[u32],
        matcher: &mut LcsMatcher,
    ) -> Option<(u32, f64)> {
        let fine = &self.clusters.fine;
        let is_candidate =
            |row: u32| fine[row as usize] != fine[anchor] && self.set.ends_agree(anchor, row as usize);
        let rows = self.draw("positive", anchor, &self.rows_of_template[template as usize], is_candidate);
        let shares = self.shares(own, &rows, ShareOf::Longer, matcher);
        let alike =
            rows.into_iter().zip(shares).filter(|(_, share)| *share >= self.options.min_positive_share);
        let with_likeness = alike.map(|(row, share)| (self.likeness(anchor, row), row, share));
        let farthest = with_likeness.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        farthest.map(|(_, row, share)| (row, share))
    }

    fn negative(
        &self,
        anchor: usize,
        template: u32,
        own: &[u32],
        matcher: &mut LcsMatcher,
    ) -> Option<(u32, f64)> {
        let most = self.options.max_negative_share;
        let of_row = &self.set.template_of_row;
        let is_candidate = |row: u32| of_row[row as usize].is_some_and(|other| other != template);
        let rows =
            self.draw("negative", anchor, &self.rows_of_coarse[&self.clusters.coarse[anchor]], is_candidate);
        let shares = self.shares(own, &rows, ShareOf::Shorter, matcher);
        let unlike = rows.into_iter().zip(shares).filter(|(_, share)| *share <= most);
        let mut unlike: Vec<(f32, u32, f64)> =
            unlike.map(|(row, share)| (self.likeness(anchor, row), row, share)).collect();
        unlike.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let fixed = |template: u32| &self.fixed[template as usize];
        let mut by_nearness = unlike.into_iter().map(|(_, row, share)| (row, share));
        by_nearness.find(|(row, _)| {
            of_row[*row as usize].is_some_and(|other| {
                let length = matcher.one_to_many(fixed(template), &[fixed(other)], |_| 0)[0];
                ShareOf::Shorter.share(length, fixed(template).len(), fixed(other).len()) <= most
            })
        })
    }

    /// The LCS of the anchor's fixed text and that of each row.
    fn shares(&self, own: &[u32], rows: &[u32], of: ShareOf, matcher: &mut LcsMatcher) -> Vec<f64> {
        let fixed: Vec<Vec<u32>> =
            rows.iter().map(|&row| self.set.skeletons.fixed_tokens(row as usize)).collect();
        let others: Vec<&[u32]> = fixed.iter().map(Vec::as_slice).collect();
        let lengths = matcher.one_to_many(own, &others, |_| 0);
        others.iter().zip(lengths).map(|(other, length)| of.share(length, own.len(), other.len())).collect()
    }

    /// The cosine of two rows' vectors.
    fn likeness(&self, a: usize, b: u32) -> f32 {
        let lengths = self.lengths[a] * self.lengths[b as usize];
        dot(self.vectors.row(a), self.vectors.row(b as usize)) / lengths.max(f32::MIN_POSITIVE)
    }

    /// Different rows that are candidates, at most as many as the options say: of a short list all, of a long one what
    /// four times as many draws give.
    fn draw(
        &self,
        purpose: &str,
        anchor: usize,
        rows: &[u32],
        is_candidate: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let most = self.options.n_candidates;
        let is_candidate = |row: &u32| *row as usize != anchor && is_candidate(*row);
        if rows.len() <= most {
            return rows.iter().copied().filter(is_candidate).collect();
        }
        let mut generator = self.options.seed.generator(purpose, &[anchor as u64]);
        let mut drawn: Vec<u32> = (0..4 * most)
            .map(|_| rows[(generator.next_u64() % rows.len() as u64) as usize])
            .filter(is_candidate)
            .take(most)
            .collect();
        drawn.sort_unstable();
        drawn.dedup();
        drawn
    }
}
