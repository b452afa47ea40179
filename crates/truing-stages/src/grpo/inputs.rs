//! What a recipe names on disk: the model's files, and the prompts read, rendered and tokenized.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use truing_data::{Dataset, HeldOut, LongSamplePolicy, split_held_out};
use truing_model::ModelFiles;
use truing_run::samples::{Prompt, PromptsRead, RowReader};
use truing_run::{DataReport, RunError, SkippedRow, inputs, model};
use truing_store::{Digest, RunInputs};
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{Event, EventSink, Seed};

use super::{GrpoConfig, check};
use crate::StageError;
use crate::sft::SftInputs;
use crate::training::TrainingConfig;

/// Everything a plan looks at.
#[derive(Debug)]
pub struct GrpoInputs {
    /// The model, not loaded yet.
    pub model: ModelFiles,
    /// Its tokenizer and template.
    pub renderer: ChatRenderer,
    /// What is trained on.
    pub prompts: Vec<Prompt>,
    /// What is evaluated on; may be empty.
    pub eval: Vec<Prompt>,
    /// Fine-tuning data, where it takes part.
    pub ptx: Option<Dataset>,
    /// Rows left out because their prompts are too long.
    pub n_too_long: usize,
    /// Rows left out because they cannot be read or rendered, of all data.
    pub skipped: Vec<SkippedRow>,
    /// Versions, seeds and digests of all files.
    pub record: RunInputs,
}

impl GrpoInputs {
    /// Opens the model and reads, renders and tokenizes the prompts.
    ///
    /// # Errors
    /// When the model is unusable, or a row is and `on_bad_row` is `error`.
    pub fn load(
        config: &GrpoConfig,
        options: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        check::check_recipe(config)?;
        let model = ModelFiles::open(config.model_name_or_path.as_ref())?;
        check::check_with_model(config, &model.spec)?;
        model::continues_adapter(&model, &config.trainable())?;
        let renderer = model::renderer(&model, options.clone())?;
        let reader = RowReader {
            data_dir: &config.data_dir,
            on_bad_row: config.on_bad_row,
            max_length: u32::try_from(config.max_prompt_length).unwrap_or(u32::MAX),
            long_samples: LongSamplePolicy::Drop,
            renderer: &renderer,
            vocab_size: model.spec.vocab_size,
        };
        let PromptsRead { mut prompts, n_too_long, report: data, .. } =
            reader.prompts(&config.data, "data", "the prompts", events)?;
        let held_out = reader.prompts(&config.eval_data, "evaluation", "the evaluation prompts", events)?;
        let (mut eval, evaluation) = (held_out.prompts, held_out.report);
        let n_too_long = n_too_long + held_out.n_too_long;
        if config.evaluation.eval_fraction > 0.0 {
            // Equal prompts fall on the same side.
            let keys: Vec<u64> = prompts.iter().map(Prompt::key).collect();
            let split =
                split_held_out(&keys, HeldOut::Fraction(config.evaluation.eval_fraction), Seed(config.seed));
            let held_out: BTreeSet<u32> = split.held_out.iter().copied().collect();
            let mut kept = Vec::new();
            for (idx, prompt) in prompts.into_iter().enumerate() {
                if held_out.contains(&(idx as u32)) { eval.push(prompt) } else { kept.push(prompt) }
            }
            prompts = kept;
        }
        if n_too_long > 0 {
            let most = config.max_prompt_length;
            let text = format!(
                "{n_too_long} prompts have more than `max_prompt_length = {most}` tokens and are left out"
            );
            events.emit(Event::Warning(text));
        }
        if prompts.is_empty() {
            let expected = "prompts of at most `max_prompt_length` tokens".into();
            return Err(
                RunError::BadSetting { key: "data", found: "without a usable row".into(), expected }.into()
            );
        }
        let (ptx, ptx_report) = match config.uses_ptx() {
            true => read_ptx(config, &model, options, events)?,
            false => (None, DataReport::of("ptx")),
        };
        let reports = [data, evaluation, ptx_report];
        let record = record(config, &model, &reports)?;
        let skipped = reports.into_iter().flat_map(|report| report.skipped).collect();
        Ok(Self { model, renderer, prompts, eval, ptx, n_too_long, skipped, record })
    }

    /// Digest of what the policy and the rewards read, prompt by prompt.
    pub(super) fn prompts_digest(&self) -> Digest {
        digest_of_prompts(&self.prompts)
    }
}

/// What the policy reads and what rewards read, prompt by prompt.
fn digest_of_prompts(prompts: &[Prompt]) -> Digest {
    let mut bytes = Vec::new();
    for prompt in prompts {
        let columns = serde_json::Value::Object(prompt.row.columns.clone()).to_string();
        bytes.extend((prompt.tokens.len() as u64).to_le_bytes());
        bytes.extend(prompt.tokens.iter().flat_map(|token| token.to_le_bytes()));
        bytes.extend(Digest::of_bytes(columns.as_bytes()).as_bytes());
        bytes.extend(prompt.origin.line.to_le_bytes());
    }
    Digest::of_bytes(&bytes)
}

/// Fine-tuning data, read as fine-tuning reads it.
fn read_ptx(
    config: &GrpoConfig,
    model: &ModelFiles,
    options: RenderOptions,
    events: &mut dyn EventSink,
) -> Result<(Option<Dataset>, DataReport), StageError> {
    let as_sft = TrainingConfig {
        model_name_or_path: config.model_name_or_path.clone(),
        output_dir: config.output_dir.clone(),
        data_dir: config.data_dir.clone(),
        max_length: config.max_tokens_per_pack.min(model.spec.max_position_embeddings) as u32,
        on_bad_row: config.on_bad_row,
        data: config.ptx_data.clone(),
        ..TrainingConfig::default()
    };
    let SftInputs { train, train_report: mut report, .. } = SftInputs::load(&as_sft, options, events)?;
    report.role = "ptx";
    report.skipped.iter_mut().for_each(|row| row.role = "ptx".into());
    Ok((Some(train), report))
}

fn record(config: &GrpoConfig, model: &ModelFiles, reports: &[DataReport]) -> Result<RunInputs, StageError> {
    let data = reports
        .iter()
        .flat_map(|report| report.files.iter().map(|file| (report.role, PathBuf::from(&**file))));
    let files = inputs::model_files(model)
        .into_iter()
        .map(|path| ("model", path))
        .chain(config.rewards().files()?)
        .chain(data);
    Ok(inputs::run_inputs(config.stage, config.seed, files)?)
}

/// Names of the prompts' files, for messages.
#[must_use]
pub(super) fn sources(prompts: &[Prompt]) -> BTreeSet<Arc<str>> {
    prompts.iter().map(|prompt| Arc::clone(&prompt.origin.source)).collect()
}
