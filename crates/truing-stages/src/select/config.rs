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
use truing_types::StageName;

use crate::embed::train::EmbeddingLossKind;

/// A few settings of the run, then a table for each part in the order in which they are taken.
///
/// The report states no threshold and no rule of this: all defaults are ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelectConfig {
    /// What the recipe is for. Every recipe says it.
    pub stage: StageName,
    /// Folder of the run: the chosen rows, what became of every row, templates, triplets, vectors and the page.
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to; the recipe's folder when left out.
    pub data_dir: PathBuf,
    /// Added to the seed of every table.
    pub seed: u64,
    /// What happens to rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Column with a number that says how good a prompt is: of two equal or near ones the better stays. `a.b` reaches
    /// inside. A row without a value, or with null, comes after every row with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_column: Option<String>,
    /// Columns whose values are labels, for quotas and for the coverage page.
    pub label_columns: Vec<String>,
    /// Threads of the model that makes vectors, in encoding and in training; the program's choice when left out. Everything
    /// else takes the program's. They never change a result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,

    /// What a prompt must be.
    pub clean: CleanOptions,
    /// When a prompt belongs to an evaluation.
    pub decontamination: DecontaminationConfig,
    /// When two prompts are nearly the same.
    pub near_duplicates: NearDuplicateOptions,
    /// When prompts share a task template.
    pub templates: TemplateOptions,
    /// What makes vectors of prompts.
    pub embedding: EmbeddingConfig,
    /// Coarse and fine clusters, for the triplets and the page.
    pub clusters: ClusterConfig,
    /// When two prompts are a hard positive or a hard negative.
    pub triplets: TripletOptions,
    /// Teaches the encoder what a task is, on the pool's own triplets. Without it the vectors are the encoder's as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_embedding: Option<TaskEmbeddingConfig>,
    /// How many prompts are kept, and how.
    pub selection: DiversityConfig,
    /// The map of the page.
    pub map: MapConfig,
    /// The pool.
    pub data: Vec<SourceConfig>,
    /// Evaluations whose text shall not be in the selection, besides those that come with the program.
    pub evaluation_data: Vec<SourceConfig>,
}

/// Exact n-grams of words that prompt and evaluation share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecontaminationConfig {
    /// Words in a row.
    pub ngram_words: usize,
    /// Evaluation items with fewer words are not looked for.
    pub min_item_words: usize,
}

/// Vectors of prompts, made here or elsewhere.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// An encoder's directory, any decoder, or a name that the program finds.
    pub model_name_or_path: String,
    /// Most tokens of a prompt; the model's own when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// A `.npy` of f32 with one vector for each row of `data` that can be read, in their order, instead of a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vectors: Option<PathBuf>,
}

/// Two grains of clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Coarse clusters; about the square root of a quarter of the rows when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_coarse: Option<usize>,
    /// Rows of a fine cluster, on average.
    pub rows_per_fine_cluster: usize,
    /// Of every draw.
    pub seed: u64,
}

/// The encoder's training on mined triplets. Its run lies in `encoder/`; every setting of `truing embed train` that is not
/// here has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskEmbeddingConfig {
    /// The loss.
    pub loss: EmbeddingLossKind,
    /// Triplets of an optimiser step.
    pub batch_size: usize,
    /// Passes over the triplets.
    pub num_train_epochs: f64,
    /// Optimiser steps instead of epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Tokens of the longest text in training; longer ones are cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seq_length: Option<usize>,
    /// Share of the triplets kept from training and evaluated on.
    pub eval_fraction: f64,
    /// Most triplets of one template, so that a template with many prompts is not all that is learnt.
    pub max_triplets_per_template: usize,
}

/// The layers of the selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiversityConfig {
    /// Prompts to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_size: Option<usize>,
    /// Share of the prompts to keep; of those that cleaning and duplicates have left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ratio: Option<f64>,
    /// Prompts to keep of each value of `quota_column`; values that are not named are dropped.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<String, usize>,
    /// One of `label_columns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_column: Option<String>,
    /// Distances of the layers, increasing: Euclidean, between vectors of length 1.
    pub thresholds: Vec<f32>,
    /// Factor between distances past the last one listed, where a target is not reached.
    pub growth: f32,
    /// The distance between clusters.
    pub linkage: Linkage,
    /// A target with room for every task is shared among tasks. A task is what lies no farther apart than this on the
    /// mean: between vectors of length 1, by the mean cosine. 0 does not look for tasks, and merges by nearness alone.
    pub task_distance: f32,
    /// Tasks get shares in proportion to their sizes to this power: 0 gives each task as much as any other, 1 keeps the
    /// pool's proportions.
    pub task_exponent: f32,
    /// Most rows that are compared with each other at once.
    pub block_rows: usize,
    /// Of the blocks.
    pub seed: u64,
}

/// The prompts on a plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MapConfig {
    /// Most prompts on it; 0 makes none.
    pub max_points: usize,
    /// Of the prompts that are shown.
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
    const FREE: &'static [&'static str] = &["embedding.model_name_or_path", "embedding.vectors"];
    const FILES: &'static [&'static str] = &["evaluation_data.*.path"];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        if !self.output_dir.as_os_str().is_empty() {
            self.output_dir = folder.join(&self.output_dir);
        }
        self.data_dir = folder.join(&self.data_dir);
        if let Some(vectors) = &mut self.embedding.vectors {
            *vectors = folder.join(&*vectors);
        }
        recipe::resolve_model(&mut self.embedding.model_name_or_path, folder);
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        recipe::find_model(&mut self.embedding.model_name_or_path, find)
    }
}

impl SelectConfig {
    /// A source with its path in the data's folder.
    pub(super) fn source(&self, source: &SourceConfig) -> SourceConfig {
        SourceConfig { path: self.data_dir.join(&source.path), ..source.clone() }
    }

    /// The seed of a table.
    pub(super) fn seed_of(&self, table: u64) -> truing_types::Seed {
        truing_types::Seed(self.seed.wrapping_add(table))
    }
}
