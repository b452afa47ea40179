//! Every check of a selection that can be made before work starts.

use std::path::PathBuf;

use truing_data::vectors::NpyFile;
use truing_model::{EncoderFiles, ModelFiles};
use truing_prompts::clean::Cleaner;
use truing_prompts::clustering::{CoarseAndFine, Vectors};
use truing_prompts::decontamination::{DecontaminationOptions, EvaluationIndex};
use truing_prompts::duplicates::{NearDuplicateOptions, near_duplicates};
use truing_prompts::selection::{SelectionOptions, Target, select};
use truing_prompts::templates::mine_templates;
use truing_prompts::tokens::TokenPool;
use truing_prompts::triplets::{TripletOptions, mine_triplets};
use truing_run::checks::{require_data, require_given, require_output_dir};
use truing_run::recipe::Scope;
use truing_run::{Machine, Recipe, RunError, inputs, recipe, resume};
use truing_stages::embed;
use truing_stages::embed::train::EmbedTrainConfig;
use truing_stages::training::{EvaluationSettings, ScheduleSettings};
use truing_store::{Digest, RunDirectory, RunInputs};
use truing_train::PlanRow;
use truing_types::PromptRow;

use super::{SelectConfig, TaskEmbeddingConfig};
use crate::{StageError, StagePlan};

/// Settings of the encoder's training that a recipe can have out of range.
const TASK_EMBEDDING: [&str; 5] = [
    "task_embedding.batch_size",
    "task_embedding.num_train_epochs",
    "task_embedding.max_steps",
    "task_embedding.learning_rate",
    "task_embedding.eval_fraction",
];

/// A selection that can begin.
#[derive(Debug)]
pub struct SelectPlan {
    /// What was typed.
    pub config: SelectConfig,
    /// What may be used.
    pub machine: Machine,
    /// The files of the model that makes vectors.
    model_files: Vec<PathBuf>,
}

impl SelectPlan {
    /// Checks settings, files and model.
    ///
    /// # Errors
    /// When a setting is missing, invalid, or excludes another, or a file cannot be used.
    pub fn resolve(config: SelectConfig, machine: Machine) -> Result<Self, StageError> {
        check(&config)?;
        let model_files = open_embedding(&config)?;
        Ok(Self { config, machine, model_files })
    }

    /// What will be done, part by part, as a person reads it.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        let config = &self.config;
        let mut parts = vec![format!("read {} source(s) and clean their prompts", config.data.len())];
        parts.push(match config.evaluation_data.len() {
            0 => "drop exact duplicates, and prompts that hold text of the bundled evaluation sets".into(),
            n => format!(
                "drop exact duplicates, and prompts that hold text of {n} given or of the bundled evaluation \
                 sets"
            ),
        });
        parts
            .push(format!("drop near duplicates (Jaccard of at least {})", config.near_duplicates.threshold));
        parts.push(format!("find task templates of at least {} prompts", config.templates.min_prompts));
        parts.push(match &config.embedding.vectors {
            Some(path) => format!("read the vectors of {}", path.display()),
            None => format!("embed with {}", config.embedding.model_name_or_path),
        });
        parts.push("cluster coarse and fine, mine hard positives and hard negatives".into());
        if let Some(task) = &config.task_embedding {
            let length = match task.max_steps {
                Some(steps) => format!("{steps} steps"),
                None => format!("{} epoch(s)", task.num_train_epochs),
            };
            parts.push(format!(
                "fine-tune the encoder on {length} of {} triplets, then embed again",
                task.batch_size
            ));
        }
        let selection = &config.selection;
        parts.push(match (selection.target_size, selection.target_ratio, &selection.quota_column) {
            (Some(size), _, _) => format!("select {size} prompts, layer by layer"),
            (None, Some(ratio), _) => format!("select {:.1} % of the prompts, layer by layer", 100.0 * ratio),
            (None, None, Some(column)) => format!("select by quotas of `{column}`, layer by layer"),
            (None, None, None) => {
                let last = selection.thresholds.last().copied().unwrap_or_default();
                format!("select layer by layer up to a distance of {last}")
            }
        });
        parts.push(format!("write {}", config.output_dir.display()));
        parts
    }

    /// Threads to compute with.
    pub(super) fn n_threads(&self) -> usize {
        self.config.threads.unwrap_or(self.machine.n_threads)
    }

    /// Versions, seeds and digests of all files, those of folders one by one.
    pub(super) fn record(&self) -> Result<RunInputs, StageError> {
        let config = &self.config;
        let paths = |sources: &[truing_data::SourceConfig]| -> Result<Vec<PathBuf>, StageError> {
            let files = sources.iter().map(|source| source.in_folder(&config.data_dir).files());
            Ok(files.collect::<Result<Vec<_>, _>>()?.concat())
        };
        let model = self.model_files.iter().cloned().map(|path| ("model", path));
        let data = paths(&config.data)?.into_iter().map(|path| ("data", path));
        let vectors = config.embedding.vectors.iter().cloned().map(|path| ("vectors", path));
        let evaluation = paths(&config.evaluation_data)?.into_iter().map(|path| ("evaluation", path));
        let files = model.chain(data).chain(vectors).chain(evaluation);
        Ok(inputs::run_inputs(config.stage, config.seed, files)?)
    }

    /// What decides a model's vectors, but for the texts.
    pub(super) fn model_digest(&self) -> Result<Digest, StageError> {
        let mut parts = vec![format!("{:?}", self.config.embedding.max_tokens)];
        for path in &self.model_files {
            parts.push(Digest::of_file(path)?.to_string());
        }
        Ok(Digest::of_bytes(parts.join("\n").as_bytes()))
    }

    /// A run is resumed with the recipe and the files that it was begun with.
    pub(super) fn check_same_run(&self, folder: &RunDirectory) -> Result<(), StageError> {
        let decisive =
            |text: &str| recipe::decisive_of::<SelectConfig>(text, &folder.recipe_path(), Scope::Resume);
        resume::check_same_recipe(&decisive(&folder.recipe()?)?, &decisive(&self.config.to_toml())?)?;
        Ok(resume::check_same_files(&folder.inputs()?, &self.record()?)?)
    }
}

impl StagePlan for SelectPlan {
    /// Empty: what the parts take depends on the pool, which the run reads.
    fn table(&self) -> Vec<PlanRow> {
        Vec::new()
    }

    fn summary(&self) -> String {
        self.parts().join("; ")
    }
}

/// Checks the recipe without opening a file.
pub(super) fn check(config: &SelectConfig) -> Result<(), StageError> {
    require_output_dir(&config.output_dir, "a folder for the run")?;
    require_data(&config.data)?;
    for source in config.data.iter().chain(&config.evaluation_data) {
        source.in_folder(&config.data_dir).check_as::<PromptRow>()?;
    }
    check_target(config)?;
    check_options(config)?;
    check_embedding(config)
}

fn check_target(config: &SelectConfig) -> Result<(), StageError> {
    let selection = &config.selection;
    let given = [
        ("selection.target_size", selection.target_size.is_some()),
        ("selection.target_ratio", selection.target_ratio.is_some()),
        ("selection.quotas", !selection.quotas.is_empty()),
    ];
    let given: Vec<&'static str> =
        given.iter().filter(|(_, is_given)| *is_given).map(|(key, _)| *key).collect();
    if let [first, second, ..] = given[..] {
        return Err(
            RunError::Conflict { first, second, reason: "each says how many prompts are kept" }.into()
        );
    }
    let column = selection.quota_column.as_deref();
    if column.is_some() == selection.quotas.is_empty() {
        let (key, expected) = match column {
            Some(_) => ("selection.quotas", "a number for each value of `selection.quota_column`"),
            None => ("selection.quota_column", "the column that `selection.quotas` are for"),
        };
        return Err(RunError::MissingSetting { key, expected }.into());
    }
    if let Some(column) = column.filter(|column| !config.label_columns.iter().any(|known| known == column)) {
        return Err(RunError::BadSetting {
            key: "selection.quota_column",
            found: format!("`{column}`"),
            expected: format!("one of `label_columns`: {:?}", config.label_columns),
        }
        .into());
    }
    Ok(())
}

/// A run over an empty pool looks at every option and does nothing else.
fn check_options(config: &SelectConfig) -> Result<(), StageError> {
    Cleaner::new(config.clean.clone())?;
    EvaluationIndex::new(decontamination_options(config))?;
    let tokens = TokenPool::of(std::iter::empty::<&str>())?;
    near_duplicates(&tokens, None, &near_duplicate_options(config))?;
    let templates = mine_templates(&tokens, &config.templates)?;
    let nothing = CoarseAndFine { coarse: Vec::new(), fine: Vec::new() };
    mine_triplets(&templates, &nothing, Vectors::new(&[], 1)?, &triplet_options(config))?;
    if let Some(task) = &config.task_embedding {
        embed::train::check(&encoder_training(config, task)).map_err(of_task_embedding)?;
    }
    if config.threads == Some(0) {
        let (found, expected) = ("0".to_owned(), "at least 1".to_owned());
        return Err(RunError::BadSetting { key: "threads", found, expected }.into());
    }
    let clusters = &config.clusters;
    if clusters.n_coarse == Some(0) || clusters.rows_per_fine_cluster == 0 {
        return Err(RunError::BadSetting {
            key: if clusters.n_coarse == Some(0) {
                "clusters.n_coarse"
            } else {
                "clusters.rows_per_fine_cluster"
            },
            found: "0".into(),
            expected: "at least 1".into(),
        }
        .into());
    }
    let target = match (config.selection.target_size, config.selection.target_ratio) {
        (Some(size), _) => Target::Size(size),
        (None, Some(ratio)) => Target::Ratio(ratio),
        (None, None) => Target::Thresholds,
    };
    select(Vectors::new(&[], 1)?, None, target, &selection_options(config))?;
    Ok(())
}

/// The keys of the encoder's training as they are in the recipe of a selection.
fn of_task_embedding(error: StageError) -> StageError {
    match error {
        StageError::Run(RunError::BadSetting { key, found, expected }) => {
            let key =
                TASK_EMBEDDING.into_iter().find(|known| known.ends_with(&format!(".{key}"))).unwrap_or(key);
            RunError::BadSetting { key, found, expected }.into()
        }
        error => error,
    }
}

/// Vectors are made by a model, or they are given.
fn check_embedding(config: &SelectConfig) -> Result<(), StageError> {
    let embedding = &config.embedding;
    let name = &embedding.model_name_or_path;
    if embedding.vectors.is_some() {
        if !name.is_empty() {
            let (first, second) = ("embedding.model_name_or_path", "embedding.vectors");
            return Err(
                RunError::Conflict { first, second, reason: "vectors are made, or they are given" }.into()
            );
        }
        if config.task_embedding.is_some() {
            let (first, second) = ("embedding.vectors", "task_embedding");
            return Err(RunError::Conflict {
                first,
                second,
                reason: "`embedding.vectors` gives vectors without an encoder, so there is nothing to fine-tune",
            }.into());
        }
        return Ok(());
    }
    let expected = "an encoder's or a decoder's folder or name; or `embedding.vectors`";
    Ok(require_given(!name.is_empty(), "embedding.model_name_or_path", expected)?)
}

/// The files of the model that makes vectors; none where vectors are given.
fn open_embedding(config: &SelectConfig) -> Result<Vec<PathBuf>, StageError> {
    if let Some(vectors) = &config.embedding.vectors {
        // Whether they can be read at all.
        NpyFile::open(vectors)?;
        return Ok(Vec::new());
    }
    let name = &config.embedding.model_name_or_path;
    let path: &std::path::Path = name.as_ref();
    if EncoderFiles::is_encoder(path) {
        return Ok(EncoderFiles::open(path)?.deciding_files());
    }
    if config.task_embedding.is_some() {
        return Err(RunError::BadSetting {
            key: "embedding.model_name_or_path",
            found: format!("a decoder ({name})"),
            expected: "an encoder: `task_embedding` fine-tunes no other model".into(),
        }
        .into());
    }
    Ok(inputs::model_files(&ModelFiles::open(path)?))
}

pub(super) fn decontamination_options(config: &SelectConfig) -> DecontaminationOptions {
    let given = &config.decontamination;
    DecontaminationOptions { ngram_words: given.ngram_words, min_item_words: given.min_item_words }
}

pub(super) fn near_duplicate_options(config: &SelectConfig) -> NearDuplicateOptions {
    NearDuplicateOptions {
        seed: config.seed_of(config.near_duplicates.seed.0),
        ..config.near_duplicates.clone()
    }
}

/// The settings of the encoder's training, but for its files.
pub(super) fn encoder_training(config: &SelectConfig, task: &TaskEmbeddingConfig) -> EmbedTrainConfig {
    let defaults = EmbedTrainConfig::default();
    EmbedTrainConfig {
        model_name_or_path: config.embedding.model_name_or_path.clone(),
        seed: config.seed,
        max_seq_length: task.max_seq_length,
        loss: task.loss,
        batch_size: task.batch_size,
        schedule: ScheduleSettings {
            num_train_epochs: task.num_train_epochs,
            max_steps: task.max_steps,
            learning_rate: task.learning_rate,
            ..defaults.schedule
        },
        evaluation: EvaluationSettings { eval_fraction: task.eval_fraction, ..defaults.evaluation },
        ..defaults
    }
}

pub(super) fn triplet_options(config: &SelectConfig) -> TripletOptions {
    TripletOptions { seed: config.seed_of(config.triplets.seed.0), ..config.triplets.clone() }
}

pub(super) fn selection_options(config: &SelectConfig) -> SelectionOptions {
    let given = &config.selection;
    SelectionOptions {
        thresholds: given.thresholds.clone(),
        growth: given.growth,
        linkage: given.linkage,
        task_distance: given.task_distance,
        task_exponent: given.task_exponent,
        block_rows: given.block_rows,
        seed: config.seed_of(given.seed),
    }
}
