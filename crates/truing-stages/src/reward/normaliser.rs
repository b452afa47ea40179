//! Absolute scores of different sources on one scale: fitted on the training data, stored with the model, undone on
//! request.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use truing_data::ResponseDataset;

use crate::StageError;
use crate::source_names::{distinct_ends, n_common_parts};

/// The file in the model's directory.
pub(super) const FILE: &str = "reward_model.json";

/// How scores become comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// By mean and deviation of each source.
    #[default]
    ZScore,
    /// From -1 to 1 between the least and the greatest of each source.
    MinMax,
    /// Not at all.
    None,
}

/// Scores of one source in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SourceScale {
    /// Scores seen.
    pub n: u64,
    /// What becomes 0.
    pub center: f64,
    /// What becomes 1, counted from there.
    pub scale: f64,
}

/// The scales of all sources.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ScoreNormaliser {
    /// How they were found.
    pub kind: Normalisation,
    /// By as much of the source's path as tells it from the others: the file's name where that is unique, `a/train.jsonl`
    /// beside `b/train.jsonl` where it is not. (Older files have names of files alone.)
    pub sources: BTreeMap<String, SourceScale>,
    /// All sources together, for others.
    pub all: Option<SourceScale>,
}

impl ScoreNormaliser {
    /// Looks at the scores of a data set.
    #[must_use]
    pub fn fit(kind: Normalisation, data: &ResponseDataset) -> Self {
        let keys = distinct_ends(data.sources().iter().map(|source| &*source.name));
        let (mut sources, mut all) = (BTreeMap::new(), Vec::new());
        for source in data.sources() {
            let groups = &data.groups()[source.samples.clone()];
            let responses = groups.iter().flat_map(|group| &group.responses);
            let scores: Vec<f64> = responses.filter_map(|response| response.score).collect();
            if let Some(scale) = scale_of(kind, &scores) {
                sources.insert(keys[&*source.name].clone(), scale);
            }
            all.extend(scores);
        }
        Self { kind, sources, all: scale_of(kind, &all) }
    }

    /// The scale of a source: the known one whose path ends most like its own, wherever the folders of both lie now. That of
    /// all together where none has the file's name, and where several end alike, so that it is unclear which is meant.
    #[must_use]
    pub fn scale(&self, source: &str) -> Option<SourceScale> {
        if let Some(&scale) = self.sources.get(source) {
            return Some(scale);
        }
        let n_parts = |key: &String| n_common_parts(key, source);
        let most = self.sources.keys().map(n_parts).max().filter(|&most| most > 0);
        let mut nearest = self.sources.iter().filter(|(key, _)| Some(n_parts(key)) == most);
        match (nearest.next(), nearest.next()) {
            (Some((_, &scale)), None) => Some(scale),
            _ => self.all,
        }
    }

    /// A score in the model's unit.
    #[must_use]
    pub fn normalise(&self, source: &str, score: f64) -> f64 {
        self.scale(source).map_or(score, |scale| (score - scale.center) / scale.scale)
    }

    /// A reward in the source's own unit.
    #[must_use]
    pub fn undo(&self, source: &str, reward: f64) -> f64 {
        self.scale(source).map_or(reward, |scale| reward * scale.scale + scale.center)
    }

    /// What a model directory holds; nothing is normalised where it holds none.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn open(model: &Path) -> Result<Self, StageError> {
        let path = model.join(FILE);
        if !path.is_file() {
            return Ok(Self { kind: Normalisation::None, ..Self::default() });
        }
        let failed = |source| StageError::Read { path: path.clone(), source };
        let bytes = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, StageError> {
        serde_json::to_vec_pretty(self).map_err(|source| StageError::Json { name: FILE, source })
    }
}

fn scale_of(kind: Normalisation, scores: &[f64]) -> Option<SourceScale> {
    if scores.is_empty() {
        return None;
    }
    let n = scores.len() as f64;
    let (center, scale) = match kind {
        Normalisation::None => (0.0, 1.0),
        Normalisation::ZScore => {
            let mean = scores.iter().sum::<f64>() / n;
            (mean, (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n).sqrt())
        }
        Normalisation::MinMax => {
            let low = scores.iter().copied().fold(f64::INFINITY, f64::min);
            let high = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (f64::midpoint(low, high), (high - low) / 2.0)
        }
    };
    // Equal scores say nothing; they all become 0.
    let scale = if scale > 0.0 { scale } else { 1.0 };
    Some(SourceScale { n: scores.len() as u64, center, scale })
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_data::{LongSamplePolicy, ResponseGroup, TokenizedResponse};
    use truing_types::RowOrigin;

    fn data(scores: &[(&str, &[f64])]) -> ResponseDataset {
        let mut builder = ResponseDataset::builder(100, LongSamplePolicy::Error);
        for (source, scores) in scores {
            builder.begin_source(*source, 1.0);
            let response = |&score: &f64| TokenizedResponse {
                tokens: vec![1, 2],
                loss_weights: vec![0.0, 1.0],
                score: Some(score),
                ..TokenizedResponse::default()
            };
            let origin = RowOrigin { source: (*source).into(), line: 1 };
            builder.push(ResponseGroup::new(scores.iter().map(response).collect(), None, origin));
        }
        builder.finish().unwrap().0
    }

    #[test]
    fn every_source_gets_mean_zero_and_deviation_one() {
        let data = data(&[("x/a.jsonl", &[1.0, 3.0]), ("x/b.jsonl", &[10.0, 20.0, 30.0])]);
        let normaliser = ScoreNormaliser::fit(Normalisation::ZScore, &data);
        assert_eq!(normaliser.normalise("x/a.jsonl", 3.0), 1.0);
        assert_eq!(normaliser.normalise("elsewhere/b.jsonl", 20.0), 0.0);
        for score in [1.0, 2.5, 30.0] {
            let there = normaliser.normalise("x/b.jsonl", score);
            assert!((normaliser.undo("x/b.jsonl", there) - score).abs() < 1e-12);
        }
        assert_eq!(normaliser.scale("never seen"), normaliser.all);
        let min_max = ScoreNormaliser::fit(Normalisation::MinMax, &data);
        assert_eq!([10.0, 30.0].map(|score| min_max.normalise("b.jsonl", score)), [-1.0, 1.0]);
    }

    #[test]
    fn sources_of_one_file_name_keep_their_own_scales() {
        let scores = [("/r/a/train.jsonl", &[0.0, 4.0][..]), ("/r/b/train.jsonl", &[50.0, 94.0])];
        let normaliser = ScoreNormaliser::fit(Normalisation::ZScore, &data(&scores));
        let keys: Vec<&str> = normaliser.sources.keys().map(String::as_str).collect();
        assert_eq!(keys, ["a/train.jsonl", "b/train.jsonl"]);
        for (source, low, high) in [("/r/a/train.jsonl", 0.0, 4.0), ("/r/b/train.jsonl", 50.0, 94.0)] {
            assert_eq!(normaliser.normalise(source, low), -1.0);
            assert_eq!(normaliser.normalise(source, high), 1.0);
        }
        // Moved as a whole they are still told apart; of a third folder nobody knows which is meant.
        assert_eq!(normaliser.normalise("elsewhere/a/train.jsonl", 4.0), 1.0);
        assert_eq!(normaliser.scale("/r/c/train.jsonl"), normaliser.all);
    }

    #[test]
    fn a_file_of_an_older_version_is_read_and_its_names_are_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let json =
            r#"{"kind":"z_score","sources":{"train.jsonl":{"n":2,"center":5.0,"scale":2.0}},"all":null}"#;
        fs::write(folder.path().join(FILE), json).unwrap();
        let normaliser = ScoreNormaliser::open(folder.path()).unwrap();
        assert_eq!(normaliser.normalise("any/where/train.jsonl", 7.0), 1.0);
        assert_eq!(normaliser.scale("other.jsonl"), None);
    }

    #[test]
    fn equal_scores_become_zero_and_none_stay_as_they_are() {
        let data = data(&[("a", &[4.0, 4.0])]);
        assert_eq!(ScoreNormaliser::fit(Normalisation::ZScore, &data).normalise("a", 4.0), 0.0);
        let none = ScoreNormaliser::fit(Normalisation::None, &data);
        assert_eq!((none.normalise("a", 4.0), none.undo("a", 4.0)), (4.0, 4.0));
        assert_eq!(ScoreNormaliser::default().normalise("a", 7.0), 7.0);
    }

    #[test]
    fn it_is_stored_with_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let normaliser = ScoreNormaliser::fit(Normalisation::ZScore, &data(&[("a", &[1.0, 2.0])]));
        fs::write(folder.path().join(FILE), normaliser.to_json().unwrap()).unwrap();
        assert_eq!(ScoreNormaliser::open(folder.path()).unwrap(), normaliser);
    }
}
