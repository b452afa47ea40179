//! What a merge reports: every tensor, and the whole in a few figures.

use std::path::PathBuf;

use serde::Serialize;

use super::MergeRecipe;
use super::rule::Figures;

/// The report's file in the merged model's folder.
pub const REPORT_FILE: &str = "merge.json";
/// What was merged. Saved beside the weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergeReport {
    /// The method.
    pub method: &'static str,
    /// The recipe, with the models' paths.
    pub recipe: MergeRecipe,
    /// What a user should know.
    pub remarks: Vec<String>,
    /// Every tensor of the merged model, in the order of the forward pass.
    pub tensors: Vec<MergedTensor>,
    /// Bytes of all values that were written.
    pub bytes_out: u64,
}

/// A tensor of the merged model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The models that its entries of [`Figures::kept`] are of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<PathBuf>,
    /// What the method reports of it.
    #[serde(flatten)]
    pub figures: Figures,
}

impl MergedTensor {
    /// Number of its values.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The figures of a merge over all its tensors, weighted by their values. What does not apply is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MergeSummary {
    /// The share of each model's delta that was kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptShare>,
    /// The share of places with entries of unequal sign, of those where any model keeps one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_conflicts: Option<f64>,
    /// The cosine: of SLERP's two tensors, or c of Model Stock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<Spread>,
    /// t of Model Stock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Spread>,
    /// The share of Model Stock's ratios that were set to 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_guarded: Option<f64>,
    /// The share of the squared difference from the base that a saved adapter has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured: Option<f64>,
    /// Tensors that SLERP interpolated linearly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_linear: Option<usize>,
}

/// How much of a model's delta was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptShare {
    /// The model.
    pub model: PathBuf,
    /// The share of its entries.
    pub share: f64,
}

/// A figure over tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// Its mean, weighted by the tensors' values.
    pub mean: f64,
    /// The smallest.
    pub lowest: f64,
    /// The tensor that has it.
    pub lowest_tensor: String,
    /// The largest.
    pub highest: f64,
    /// The tensor that has it.
    pub highest_tensor: String,
}

impl MergeReport {
    /// The figures over all tensors.
    #[must_use]
    pub fn summary(&self) -> MergeSummary {
        let mut kept: Vec<(PathBuf, f64, f64)> = Vec::new();
        for tensor in &self.tensors {
            for (model, share) in tensor.models.iter().zip(&tensor.figures.kept) {
                let n = tensor.n_values() as f64;
                match kept.iter_mut().find(|(known, ..)| known == model) {
                    Some((_, sum, all)) => {
                        *sum += share * n;
                        *all += n;
                    }
                    None => kept.push((model.clone(), share * n, n)),
                }
            }
        }
        let kept = kept.into_iter().map(|(model, sum, all)| KeptShare { model, share: sum / all }).collect();
        let linear: Vec<bool> = self.tensors.iter().filter_map(|tensor| tensor.figures.is_linear).collect();
        MergeSummary {
            kept,
            sign_conflicts: self.spread(|figures| figures.sign_conflicts).map(|spread| spread.mean),
            cosine: self.spread(|figures| figures.cosine),
            ratio: self.spread(|figures| figures.ratio),
            share_guarded: self.spread(|figures| figures.share_guarded).map(|spread| spread.mean),
            captured: self.captured(),
            n_linear: (!linear.is_empty()).then(|| linear.iter().filter(|is_linear| **is_linear).count()),
        }
    }

    fn captured(&self) -> Option<f64> {
        let parts =
            self.tensors.iter().filter_map(|tensor| tensor.figures.captured.zip(tensor.figures.difference));
        let (captured, all) = parts.fold((0.0, 0.0), |(captured, all), (share, difference)| {
            (captured + share * difference, all + difference)
        });
        let is_adapter = self.tensors.iter().any(|tensor| tensor.figures.captured.is_some());
        is_adapter.then(|| if all == 0.0 { 1.0 } else { captured / all })
    }

    fn spread(&self, of: impl Fn(&Figures) -> Option<f64>) -> Option<Spread> {
        let found: Vec<(&MergedTensor, f64)> =
            self.tensors.iter().filter_map(|tensor| Some((tensor, of(&tensor.figures)?))).collect();
        let all: f64 = found.iter().map(|(tensor, _)| tensor.n_values() as f64).sum();
        let sum: f64 = found.iter().map(|(tensor, value)| tensor.n_values() as f64 * value).sum();
        let (lowest_tensor, lowest) = found.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        let (highest_tensor, highest) = found.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Spread {
            mean: sum / all,
            lowest: *lowest,
            lowest_tensor: lowest_tensor.name.clone(),
            highest: *highest,
            highest_tensor: highest_tensor.name.clone(),
        })
    }
}
