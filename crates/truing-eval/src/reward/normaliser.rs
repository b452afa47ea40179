//! Absolute scores of different sources on one scale: fitted on the training data, stored with the model, undone on
//! request.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::ResponseDataset;
use truing_run::RunError;
use truing_run::source_names::{file_names, find_name};
use truing_statistics::mean_and_deviation;

/// How scores become comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Mean 0 and standard deviation 1 in each source.
    #[default]
    ZScore,
    /// From -1 for the lowest to 1 for the highest score of each source.
    MinMax,
    /// No normalisation.
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
    /// By the file's name, with as many of its folders as tell it from the other sources.
    pub sources: BTreeMap<String, SourceScale>,
    /// All sources together, for others.
    pub all: Option<SourceScale>,
}

impl ScoreNormaliser {
    /// The file in the model's directory.
    pub const FILE_NAME: &'static str = "reward_model.json";

    /// Looks at the scores of a data set.
    #[must_use]
    pub fn fit(kind: Normalisation, data: &ResponseDataset) -> Self {
        let mut by_path: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for source in data.sources() {
            let groups = &data.groups()[source.samples.clone()];
            let responses = groups.iter().flat_map(|group| &group.responses);
            by_path.entry(&source.name).or_default().extend(responses.filter_map(|response| response.score));
        }
        let names = file_names(by_path.keys().copied());
        let scales = by_path
            .iter()
            .filter_map(|(path, scores)| Some((names.get(path)?.clone(), scale_of(kind, scores)?)));
        let all: Vec<f64> = by_path.values().flatten().copied().collect();
        Self { kind, sources: scales.collect(), all: scale_of(kind, &all) }
    }

    /// The scale of a source; that of all together where it was never seen.
    #[must_use]
    pub fn scale(&self, source: &str) -> Option<SourceScale> {
        let name = find_name(self.sources.keys().map(String::as_str), source);
        name.and_then(|name| self.sources.get(name)).copied().or(self.all)
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
    pub fn open(model: &Path) -> Result<Self, RunError> {
        let path = model.join(Self::FILE_NAME);
        if !path.is_file() {
            return Ok(Self { kind: Normalisation::None, ..Self::default() });
        }
        let failed = |source| RunError::Read { path: path.clone(), source };
        let bytes = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))
    }

    /// The file's content.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, RunError> {
        serde_json::to_vec_pretty(self).map_err(|source| RunError::Json { name: Self::FILE_NAME, source })
    }
}

fn scale_of(kind: Normalisation, scores: &[f64]) -> Option<SourceScale> {
    if scores.is_empty() {
        return None;
    }
    let (center, scale) = match kind {
        Normalisation::None => (0.0, 1.0),
        Normalisation::ZScore => mean_and_deviation(scores),
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
    fn files_of_one_name_in_two_folders_have_their_own_scales() {
        let data = data(&[("a/train.jsonl", &[0.0, 4.0]), ("b/train.jsonl", &[50.0, 94.0])]);
        let normaliser = ScoreNormaliser::fit(Normalisation::ZScore, &data);
        assert_eq!(normaliser.sources.keys().collect::<Vec<_>>(), ["a/train.jsonl", "b/train.jsonl"]);
        for source in ["a/train.jsonl", "/moved/a/train.jsonl"] {
            assert_eq!([0.0, 4.0].map(|score| normaliser.normalise(source, score)), [-1.0, 1.0]);
        }
        assert_eq!([50.0, 94.0].map(|score| normaliser.normalise("b/train.jsonl", score)), [-1.0, 1.0]);
        assert_eq!(normaliser.scale("c/train.jsonl"), normaliser.all, "it may be either of them");
        // As earlier versions stored it.
        let older = ScoreNormaliser {
            sources: [("train.jsonl".to_owned(), normaliser.sources["a/train.jsonl"])].into(),
            ..normaliser
        };
        assert_eq!(older.normalise("x/train.jsonl", 4.0), 1.0);
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
        fs::write(folder.path().join(ScoreNormaliser::FILE_NAME), normaliser.to_json().unwrap()).unwrap();
        assert_eq!(ScoreNormaliser::open(folder.path()).unwrap(), normaliser);
    }
}
