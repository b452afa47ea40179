//! The settings of a selection.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::{OnBadRow, SourceConfig};
use truing_prompts::clean::CleanOptions;
use truing_prompts::clustering::Linkage;
use truing_prompts::duplicates::NearDuplicateOptions;
use truing_prompts::selection::SelectionOptions;
use truing_prompts::templates::TemplateOptions;
use truing_prompts::triplets::TripletOptions;
use truing_run::{Recipe, recipe};
use truing_stages::embed::train::EmbeddingLossKind;
use truing_types::StageName;

/// Settings of the run, then one table per step, in the order in which the steps run.
///
/// The report states no thresholds; all defaults are ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelectConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run: the selected rows, the decision about every row, templates, triplets, vectors and the
    /// coverage page.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed. It is added to the seed of each table.
    pub seed: u64,
    /// What to do with invalid rows: rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Column with a quality score: of duplicates and of similar prompts the one with the highest score is kept. `a.b`
    /// names nested fields. Rows without a value, or with null, come last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_column: Option<String>,
    /// Columns with labels, for quotas and the coverage page.
    pub label_columns: Vec<String>,
    /// CPU threads of the embedding model. Default: all. Other steps use `--threads`. It never changes a result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub threads: Option<usize>,

    /// Filters of single prompts.
    pub clean: CleanOptions,
    /// Removal of prompts that overlap with evaluation data.
    pub decontamination: DecontaminationConfig,
    /// Removal of near duplicates (MinHash).
    pub near_duplicates: NearDuplicateOptions,
    /// Detection of task templates.
    pub templates: TemplateOptions,
    /// Embeddings of the prompts.
    pub embedding: EmbeddingConfig,
    /// Coarse and fine clusters, for mining triplets and for the coverage page.
    pub clusters: ClusterConfig,
    /// Mining of hard positives and hard negatives.
    pub triplets: TripletOptions,
    /// Fine-tuning of the encoder on the mined triplets. Without this table the encoder is used as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_embedding: Option<TaskEmbeddingConfig>,
    /// Selection of a diverse subset.
    pub selection: DiversityConfig,
    /// The map of the coverage page.
    pub map: MapConfig,
    /// The prompts to select from.
    pub data: Vec<SourceConfig>,
    /// Evaluation data to decontaminate against, in addition to the evaluation sets in this repository.
    pub evaluation_data: Vec<SourceConfig>,
}

/// Exact n-grams of words that prompt and evaluation share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecontaminationConfig {
    /// Words per n-gram.
    pub ngram_words: usize,
    /// Evaluation items with fewer words are not checked.
    pub min_item_words: usize,
}

/// Vectors of prompts, made here or elsewhere.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// An encoder or a causal language model: a path or a name.
    #[schemars(extend("x-decides" = "content"))]
    pub model_name_or_path: String,
    /// Maximum tokens of a prompt; longer ones are truncated. Default: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// A float32 `.npy` file with one vector per valid row of `data`, in order. It replaces the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "content"))]
    pub vectors: Option<PathBuf>,
}

/// Two grains of clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Number of coarse clusters. Default: about the square root of a quarter of the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_coarse: Option<usize>,
    /// Average rows per fine cluster.
    pub rows_per_fine_cluster: usize,
    /// Random seed of the clustering.
    pub seed: u64,
}

/// The encoder's training on mined triplets. Its run lies in `encoder/`; every setting of `truing embed train` that is
/// not here has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskEmbeddingConfig {
    /// The loss.
    pub loss: EmbeddingLossKind,
    /// Triplets per optimiser step.
    pub batch_size: usize,
    /// Epochs over the triplets.
    pub num_train_epochs: f64,
    /// Number of optimiser steps. It replaces `num_train_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Maximum tokens of a text in training; longer ones are truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seq_length: Option<usize>,
    /// Fraction of the triplets that is held out for evaluation.
    pub eval_fraction: f64,
    /// Maximum triplets per template, so that frequent templates do not dominate.
    pub max_triplets_per_template: usize,
}

/// The layers of the selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiversityConfig {
    /// Number of prompts to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_size: Option<usize>,
    /// Fraction of the prompts to keep, of those left after cleaning and deduplication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ratio: Option<f64>,
    /// Number of prompts to keep for each value of `quota_column`. Values that are not listed are dropped.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<String, usize>,
    /// The column of `quotas`, one of `label_columns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_column: Option<String>,
    /// Distance thresholds of the layers, increasing. Distances are Euclidean, between vectors of length 1.
    pub thresholds: Vec<f32>,
    /// Factor between the thresholds of further layers, if the target is not reached with those listed.
    pub growth: f32,
    /// Linkage: the distance between clusters.
    pub linkage: Linkage,
    /// Prompts whose average distance (by mean cosine, between vectors of length 1) is at most this are one task, and a
    /// target that has room for every task is shared among the tasks. 0 turns this off: clusters are merged by distance
    /// alone.
    pub task_distance: f32,
    /// The share of a task is proportional to its size to this power: 0 gives every task the same share, 1 keeps the
    /// proportions of the pool.
    pub task_exponent: f32,
    /// Maximum rows per block; rows of different blocks are not compared.
    pub block_rows: usize,
    /// Random seed of the blocks.
    pub seed: u64,
}

/// The prompts on a plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MapConfig {
    /// Maximum prompts on the map; 0 makes no map.
    pub max_points: usize,
    /// Random seed of the prompts that are shown.
    pub seed: u64,
}

impl Default for SelectConfig {
    fn default() -> Self {
        Self {
            stage: StageName::Select,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            on_bad_row: OnBadRow::default(),
            quality_column: None,
            label_columns: Vec::new(),
            threads: None,
            clean: CleanOptions::default(),
            decontamination: DecontaminationConfig::default(),
            near_duplicates: NearDuplicateOptions::default(),
            templates: TemplateOptions::default(),
            embedding: EmbeddingConfig::default(),
            clusters: ClusterConfig::default(),
            triplets: TripletOptions::default(),
            task_embedding: None,
            selection: DiversityConfig::default(),
            map: MapConfig::default(),
            data: Vec::new(),
            evaluation_data: Vec::new(),
        }
    }
}

impl Default for DecontaminationConfig {
    fn default() -> Self {
        Self { ngram_words: 13, min_item_words: 6 }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { n_coarse: None, rows_per_fine_cluster: 8, seed: 0 }
    }
}

impl Default for TaskEmbeddingConfig {
    fn default() -> Self {
        Self {
            loss: EmbeddingLossKind::MultipleNegativesRanking,
            batch_size: 16,
            num_train_epochs: 1.0,
            max_steps: None,
            learning_rate: 5e-5,
            max_seq_length: Some(128),
            eval_fraction: 0.0,
            max_triplets_per_template: 64,
        }
    }
}

impl Default for DiversityConfig {
    fn default() -> Self {
        let SelectionOptions { thresholds, growth, linkage, task_distance, task_exponent, block_rows, seed } =
            SelectionOptions::default();
        Self {
            target_size: None,
            target_ratio: None,
            quotas: BTreeMap::new(),
            quota_column: None,
            thresholds,
            growth,
            linkage,
            task_distance,
            task_exponent,
            block_rows,
            seed: seed.0,
        }
    }
}

impl Default for MapConfig {
    fn default() -> Self {
        Self { max_points: 3000, seed: 0 }
    }
}

impl Recipe for SelectConfig {
    const STAGES: &'static [StageName] = &[StageName::Select];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        if let Some(vectors) = &mut self.embedding.vectors {
            *vectors = folder.join(&*vectors);
        }
        recipe::resolve_model(&mut self.embedding.model_name_or_path, folder);
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let sources = self.data.iter_mut().chain(&mut self.evaluation_data);
        recipe::find_sources(sources.map(|source| &mut source.path), &self.data_dir, find)
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        recipe::find_model(&mut self.embedding.model_name_or_path, find)
    }
}

impl SelectConfig {
    /// The seed of a table.
    pub(super) fn seed_of(&self, table: u64) -> truing_types::Seed {
        truing_types::Seed(self.seed.wrapping_add(table))
    }
}
