//! What a recipe names on disk: the files of student and teacher, and the prompts as either reads them.

use std::collections::BTreeSet;
use std::iter;

use truing_data::{HeldOut, LongSamplePolicy, SourceConfig, SourceRange, split_held_out};
use truing_model::{ComputeDtype, DecoderSpec, Engine, EngineMemory, ModelFiles, TrainableSpec};
use truing_run::samples::{Prompt, PromptsRead};
use truing_run::{DataReport, Machine, Recipe as _, RunError, SkippedRow, inputs, model};
use truing_store::{Digest, RunInputs};
use truing_text::{ChatRenderer, RenderOptions, TextError};
use truing_train::{Decoding, MemoryPart, StepFlops, StepShape};
use truing_types::{EventSink, Message, Role, Seed, TokenId};

use super::config::{DistillationConfig, KlTokens, TeacherConfig, TeacherWeights};
use crate::StageError;
use crate::sampling::bytes_per_weight;
use crate::training::setup::{self, Opened};
use crate::training::time::secs_of;
use crate::training::{
    BesideTraining, ModelToTrain, PackingMode, TrainingConfig, TrainingData, TrainingInputs,
};

/// Bytes of one of the teacher's tokens with its log-probability.
const TOP_TOKEN_BYTES: u64 = 8;
/// Tokens of a block of cached keys and values.
const CACHE_BLOCK: u64 = 64;
/// Bytes of a logit while a token is sampled.
const LOGIT_BYTES: u64 = 4;

/// Everything a plan looks at.
#[derive(Debug)]
pub struct DistillInputs {
    /// The student, not loaded yet.
    pub model: ModelFiles,
    /// Its tokenizer and template.
    pub renderer: ChatRenderer,
    /// The teacher, where it is another model.
    pub teacher: Option<ModelFiles>,
    /// What is trained on.
    pub train: DistillPrompts,
    /// What is evaluated on, if anything.
    pub eval: Option<DistillPrompts>,
    /// What became of the rows of `train`.
    pub train_report: DataReport,
    /// What became of the rows of `eval`, where they are files of their own.
    pub eval_report: Option<DataReport>,
    /// Versions, seeds and digests of all files.
    pub record: RunInputs,
}

/// One prompt as student and teacher read it.
#[derive(Debug, Clone, PartialEq)]
pub struct DistillPrompt {
    /// The row and the student's tokens.
    pub prompt: Prompt,
    /// The teacher's tokens.
    pub teacher: Vec<TokenId>,
}

/// Prompts, and how many tokens their completions may have.
#[derive(Debug, Clone, PartialEq)]
pub struct DistillPrompts {
    /// The prompts.
    pub prompts: Vec<DistillPrompt>,
    /// The sources, each a range of the prompts.
    pub sources: Vec<SourceRange>,
    /// Tokens of all completions of a prompt at most.
    n_completion_tokens: usize,
}

impl DistillPrompts {
    /// Tokens of the longest prompt of the student.
    fn longest(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.prompt.tokens.len()).max().unwrap_or(0)
    }

    /// The prompts at some indices, in their order, with the sources' ranges of them.
    fn subset(&self, chosen: &BTreeSet<u32>) -> Self {
        let mut subset = Self { prompts: Vec::new(), sources: Vec::new(), ..*self };
        for source in &self.sources {
            let start = subset.prompts.len();
            let of_source = source.samples.clone().filter(|&idx| chosen.contains(&(idx as u32)));
            subset.prompts.extend(of_source.map(|idx| self.prompts[idx].clone()));
            subset.sources.push(SourceRange { samples: start..subset.prompts.len(), ..source.clone() });
        }
        subset
    }

    fn split(&self, fraction: f64, seed: Seed) -> (Self, Self) {
        // Equal prompts fall on the same side.
        let keys: Vec<u64> = self.prompts.iter().map(|prompt| prompt.prompt.key()).collect();
        let split = split_held_out(&keys, HeldOut::Fraction(fraction), seed);
        (self.subset(&split.train.into_iter().collect()), self.subset(&split.held_out.into_iter().collect()))
    }
}

impl TrainingData for DistillPrompts {
    /// Tokens of each prompt with its completions, as long as they may become, for student and teacher.
    fn lengths(&self) -> Vec<u32> {
        let length = |prompt: &DistillPrompt| prompt.prompt.tokens.len().max(prompt.teacher.len());
        self.prompts.iter().map(|prompt| (length(prompt) + self.n_completion_tokens) as u32).collect()
    }

    fn sources(&self) -> &[SourceRange] {
        &self.sources
    }

    fn shape(&self, sample: usize) -> StepShape {
        let (prompt, completions) =
            (self.prompts[sample].prompt.tokens.len() as f64, self.n_completion_tokens as f64);
        let length = prompt + completions;
        StepShape { tokens: length, loss_tokens: completions, attention_pairs: length * (length + 1.0) / 2.0 }
    }
}

impl DistillInputs {
    /// Opens student and teacher, and reads, renders and tokenizes the prompts.
    ///
    /// # Errors
    /// When a model is unusable, the two have different tokenizers, or a row is unusable and `on_bad_row` is `error`.
    pub(super) fn load(
        config: &TrainingConfig,
        options: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        let settings = config.distillation.clone().unwrap_or_default();
        let (model, renderer) = setup::open(config, Opened::LanguageModel, options.clone())?;
        let teacher = match &settings.teacher.model_name_or_path {
            Some(path) => {
                let files = ModelFiles::open(path.as_ref())?;
                config.resources.check_heads(&files.spec)?;
                let mut of_teacher = model::renderer(&files, options)?;
                if let Some(path) = &config.chat_template {
                    of_teacher = setup::with_template(of_teacher, path)?;
                }
                check_same_tokenizer(&renderer, &of_teacher)?;
                check_rows(&files, &renderer)?;
                Some((files, of_teacher))
            }
            None => None,
        };
        let reading = Reading {
            config,
            settings: &settings,
            renderer: &renderer,
            teacher: teacher.as_ref().map_or(&renderer, |(_, renderer)| renderer),
            teacher_context: teacher.as_ref().map_or(&model, |(files, _)| files).spec.max_position_embeddings,
            vocab_size: model.spec.vocab_size,
        };
        let (mut train, train_report) = reading.read(&config.data, "data", "the prompts", events)?;
        let (mut eval, mut eval_report) = (None, None);
        if config.evaluation.eval_fraction > 0.0 {
            let split = train.split(config.evaluation.eval_fraction, Seed(config.seed));
            train = split.0;
            eval = Some(split.1).filter(|held_out| !held_out.prompts.is_empty());
        } else if !config.eval_data.is_empty() {
            let found = reading.read(&config.eval_data, "evaluation", "the evaluation prompts", events)?;
            (eval, eval_report) = (Some(found.0), Some(found.1));
        }
        let teacher = teacher.map(|(files, _)| files);
        let record = record(config, &model, teacher.as_ref(), &train_report, eval_report.as_ref())?;
        Ok(Self { model, renderer, teacher, train, eval, train_report, eval_report, record })
    }
}

/// Refuses a teacher whose tokens are others than the student's: a completion would be another text for it.
fn check_same_tokenizer(student: &ChatRenderer, teacher: &ChatRenderer) -> Result<(), StageError> {
    let (student, teacher) = (student.tokenizer(), teacher.tokenizer());
    let n_ids = student.vocab_size().max(teacher.vocab_size()) as TokenId;
    let Some(id) = (0..n_ids).find(|&id| student.token_text(id) != teacher.token_text(id)) else {
        return Ok(());
    };
    let shown =
        |token: Option<String>| token.map_or_else(|| "no token".to_owned(), |token| format!("{token:?}"));
    Err(RunError::BadSetting {
        key: "distillation.teacher.model_name_or_path",
        found: format!(
            "a model with another tokenizer: id {id} is {} there and {} in the student",
            shown(teacher.token_text(id)),
            shown(student.token_text(id))
        ),
        expected: "a teacher with the student's tokenizer".into(),
    }
    .into())
}

/// Refuses a teacher whose head lacks rows of tokens.
fn check_rows(teacher: &ModelFiles, renderer: &ChatRenderer) -> Result<(), StageError> {
    let (n_rows, n_tokens) = (teacher.spec.vocab_size, renderer.tokenizer().vocab_size());
    if n_rows >= n_tokens {
        return Ok(());
    }
    Err(RunError::BadSetting {
        key: "distillation.teacher.model_name_or_path",
        found: format!("a model with {n_rows} rows in its head"),
        expected: format!("one for each of the {n_tokens} tokens"),
    }
    .into())
}

struct Reading<'a> {
    config: &'a TrainingConfig,
    settings: &'a DistillationConfig,
    renderer: &'a ChatRenderer,
    teacher: &'a ChatRenderer,
    teacher_context: usize,
    vocab_size: usize,
}

impl Reading<'_> {
    fn read(
        &self,
        sources: &[SourceConfig],
        role: &'static str,
        what: &str,
        events: &mut dyn EventSink,
    ) -> Result<(DistillPrompts, DataReport), StageError> {
        let reader = setup::row_reader(self.config, self.renderer, self.vocab_size);
        // What is too long is decided here, with the completions.
        let reader = truing_run::samples::RowReader { max_length: u32::MAX, ..reader };
        let PromptsRead { prompts, sources, mut report, .. } = reader.prompts(sources, role, what, events)?;
        let n_completion_tokens = self.settings.num_generations * self.settings.max_completion_length;
        let mut read = DistillPrompts { prompts: Vec::new(), sources: Vec::new(), n_completion_tokens };
        let mut n_too_long = 0;
        let mut prompts = prompts.into_iter();
        for source in sources {
            let start = read.prompts.len();
            for prompt in prompts.by_ref().take(source.samples.len()) {
                let teacher = match self.teacher_tokens(&prompt) {
                    Ok(tokens) => tokens,
                    Err(error) => {
                        report.n_rows -= 1;
                        report.skip(self.config.on_bad_row, error)?;
                        continue;
                    }
                };
                let prompt = DistillPrompt { prompt, teacher };
                if self.fits(&prompt)? {
                    read.prompts.push(prompt);
                } else {
                    n_too_long += 1;
                }
            }
            read.sources.push(SourceRange { samples: start..read.prompts.len(), ..source });
        }
        let is_student = self.settings.teacher.is_student();
        if is_student
            && !read.prompts.is_empty()
            && read.prompts.iter().all(|one| one.teacher == one.prompt.tokens)
        {
            return Err(RunError::BadSetting {
                key: "distillation.teacher",
                found: "the student itself with the same prompts, so that the divergence is 0".into(),
                expected: "text that only the teacher reads (does the chat template show system messages?)"
                    .into(),
            }
            .into());
        }
        if n_too_long > 0 {
            let text = format!(
                "{what}: {n_too_long} are dropped, because with their completions they are longer than \
                 `max_length = {}` or the teacher's context of {}",
                self.config.max_length, self.teacher_context
            );
            events.emit(truing_types::Event::Warning(text));
        }
        Ok((read, report))
    }

    /// Whether a prompt leaves room for its completions; an error where `long_samples` says so.
    fn fits(&self, prompt: &DistillPrompt) -> Result<bool, StageError> {
        let settings = self.settings;
        let n_tokens = prompt.prompt.tokens.len().max(prompt.teacher.len());
        let n_all = n_tokens + settings.num_generations * settings.max_completion_length;
        let fits_context = prompt.teacher.len() + settings.max_completion_length <= self.teacher_context;
        if n_all <= self.config.max_length as usize && fits_context {
            return Ok(true);
        }
        if self.config.long_samples == LongSamplePolicy::Drop {
            return Ok(false);
        }
        let origin = &prompt.prompt.origin;
        let (key, found, expected) = match fits_context {
            true => (
                "max_length",
                self.config.max_length,
                format!("at least {n_all}, for the prompt at {origin} with its completions"),
            ),
            false => (
                "distillation.max_completion_length",
                settings.max_completion_length as u32,
                format!(
                    "with the {} tokens of the teacher's prompt at {origin} at most the teacher's context of {}",
                    prompt.teacher.len(),
                    self.teacher_context
                ),
            ),
        };
        let expected = format!("{expected}, or `long_samples = \"drop\"`");
        Err(RunError::BadSetting { key, found: found.to_string(), expected }.into())
    }

    fn teacher_tokens(&self, prompt: &Prompt) -> Result<Vec<TokenId>, StageError> {
        let TeacherConfig { privileged_column, system_prompt, .. } = &self.settings.teacher;
        let mut conversation = prompt.row.prompt.clone();
        let bad = |column: &str, found: String, expected| RunError::BadColumn {
            origin: prompt.origin.clone(),
            column: column.to_owned(),
            found,
            expected,
        };
        if let Some(column) = privileged_column {
            let value = prompt.row.columns.get(column);
            let privileged = value.and_then(serde_json::Value::as_str).ok_or_else(|| {
                let found = value.map_or_else(|| "missing".to_owned(), ToString::to_string);
                bad(column, found, "the text that only the teacher reads (`privileged_column`)")
            })?;
            let turn = conversation.messages.iter_mut().rev().find(|message| message.role == Role::User);
            let turn = turn.ok_or_else(|| {
                bad(column, "set in a row without a user turn".into(), "a prompt with a user turn")
            })?;
            turn.content = self.settings.teacher.turn(&turn.content, privileged);
        }
        if let Some(text) = system_prompt {
            match conversation.messages.first_mut().filter(|message| message.role == Role::System) {
                Some(message) => message.content.clone_from(text),
                None => conversation.messages.insert(0, Message::new(Role::System, text)),
            }
        }
        let rendered = self.teacher.prompt_with_omissions(&conversation);
        rendered.map(|(tokens, _)| tokens).map_err(|source| {
            RunError::from(TextError::Row { origin: prompt.origin.clone(), source: Box::new(source) }).into()
        })
    }
}

/// Versions, seeds and digests of all files.
fn record(
    config: &TrainingConfig,
    model: &ModelFiles,
    teacher: Option<&ModelFiles>,
    train: &DataReport,
    eval: Option<&DataReport>,
) -> Result<RunInputs, StageError> {
    let files = |report: &DataReport| -> Vec<(&'static str, std::path::PathBuf)> {
        report.files.iter().map(|file| (report.role, std::path::PathBuf::from(&**file))).collect()
    };
    let model = inputs::model_files(model).into_iter().map(|path| ("model", path));
    let teacher =
        teacher.map(inputs::model_files).unwrap_or_default().into_iter().map(|path| ("teacher", path));
    let data = files(train).into_iter().chain(eval.map(files).unwrap_or_default());
    Ok(inputs::run_inputs(config.stage, config.seed, model.chain(teacher).chain(data))?)
}

impl TrainingInputs for DistillInputs {
    type Data = DistillPrompts;

    fn model(&self) -> ModelToTrain<'_> {
        ModelToTrain::Decoder { files: &self.model, renderer: &self.renderer }
    }

    fn train(&self) -> &DistillPrompts {
        &self.train
    }

    fn eval(&self) -> Option<&DistillPrompts> {
        self.eval.as_ref()
    }

    fn record(&self) -> &RunInputs {
        &self.record
    }

    fn skipped(&self) -> Vec<&SkippedRow> {
        let reports = iter::once(&self.train_report).chain(&self.eval_report);
        reports.flat_map(|report| &report.skipped).collect()
    }

    /// What student and teacher read, prompt by prompt.
    fn samples_digest(&self) -> Option<Digest> {
        let mut bytes = Vec::new();
        for DistillPrompt { prompt, teacher } in &self.train.prompts {
            for tokens in [&prompt.tokens, teacher] {
                bytes.extend((tokens.len() as u64).to_le_bytes());
                bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
            }
        }
        Some(Digest::of_bytes(&bytes))
    }

    /// Sampling, with completions of full length, and what teacher and student say of them.
    fn beside_secs<E: Engine>(
        &self,
        config: &TrainingConfig,
        step: &StepShape,
        machine: &Machine,
    ) -> Option<f64> {
        let settings = config.distillation.clone().unwrap_or_default();
        if settings.teacher.server.is_some() {
            return None;
        }
        let spec = &self.model.spec;
        let n_ranks = machine.n_ranks.max(1) as f64;
        let completion_tokens = settings.max_completion_length as f64;
        let n_completions = step.loss_tokens / completion_tokens;
        let n_prompts = n_completions / settings.num_generations as f64;
        let decoding = Decoding {
            n_prompts: n_prompts / n_ranks,
            prompt_tokens: (step.tokens - step.loss_tokens) / n_prompts,
            n_completions: n_completions / n_ranks,
            completion_tokens,
            n_running: settings.generation_batch_size,
            bytes_per_weight: bytes_per_weight(settings.rollout_quantization, config.device().1),
            cache_bytes_per_token: E::memory(
                &spec.clone().into(),
                &config.trainable(),
                ComputeDtype::default(),
            )
            .cache_bytes_per_token,
        };
        let sampling = decoding.secs(spec, machine.gigaflops?, machine.gigabytes_per_second?);
        let teacher = self.teacher.as_ref().map_or(spec, |files| &files.spec);
        let student = match settings.kl_tokens {
            KlTokens::Student => StepFlops::of_forward(spec, step),
            KlTokens::Teacher => 0.0,
        };
        Some(sampling + secs_of(StepFlops::of_forward(teacher, step) + student, machine)?)
    }

    fn beside_training<E: Engine>(&self, config: &TrainingConfig, step_packs: usize) -> BesideTraining {
        let settings = config.distillation.clone().unwrap_or_default();
        let spec = &self.model.spec;
        let frozen = |files: &ModelFiles| {
            let spec = files.spec.clone().into();
            E::memory(&spec, &TrainableSpec::frozen(), ComputeDtype::default())
        };
        let engine = E::memory(&spec.clone().into(), &config.trainable(), ComputeDtype::default());
        let teacher = match &self.teacher {
            Some(files) => Some(frozen(files)),
            None => loads_initial_weights(config, self).then(|| frozen(&self.model)),
        };
        // Prompts of a step, and of an evaluation, are sampled together.
        let shortest = self.train.lengths().into_iter().min().unwrap_or(1).max(1);
        let n_of_pack = match config.packing {
            PackingMode::None => 1,
            PackingMode::BestFitDecreasing => (config.max_length / shortest).max(1) as usize,
        };
        let eval = self.eval.as_ref().filter(|_| config.evaluation.is_on());
        let n_prompts = (step_packs * n_of_pack)
            .min(self.train.prompts.len())
            .max(eval.map_or(0, |eval| eval.prompts.len()));
        let n_completions = n_prompts * settings.num_generations;
        let n_targets = (n_completions * settings.max_completion_length) as u64;
        let n_running = settings.generation_batch_size.min(n_completions) as u64;
        let longest = self.train.longest().max(eval.map_or(0, DistillPrompts::longest)) as u64;
        // Caches grow by blocks, and the prompt that the next completions continue is held beside the running ones.
        let longest_cached = (longest + settings.max_completion_length as u64).next_multiple_of(CACHE_BLOCK);
        let cache = (n_running + 1) * longest_cached * engine.cache_bytes_per_token;
        // Each token of a step has a row of logits, drafted ones too.
        let n_drafted = settings.prompt_lookup_num_tokens.min(settings.max_completion_length);
        let n_tokens = n_running * (1 + n_drafted as u64);
        let n_rows = longest.min(engine.tokens_per_prompt_piece).max(n_tokens);
        let decoding = n_rows * engine.forward_bytes_per_token
            + longest * engine.forward_bytes_per_key
            + (n_tokens + 1) * spec.vocab_size as u64 * LOGIT_BYTES;
        // Of the rows of a pack that a rank has.
        let n_dividing = config.resources.sequence_parallel_size;
        let forward = |model: &EngineMemory, spec: &DecoderSpec| {
            let model = model.in_sequence_group(spec, n_dividing);
            let n_rows = u64::from(config.max_length).div_ceil(n_dividing as u64);
            (model.forward_bytes_per_token + model.forward_bytes_per_key) * n_rows
        };
        let teacher_spec = self.teacher.as_ref().map_or(spec, |files| &files.spec);
        // Both keep their working memory until all packs are done.
        let asking = match (&teacher, settings.kl_tokens) {
            (Some(teacher), KlTokens::Student) => forward(teacher, teacher_spec) + forward(&engine, spec),
            (Some(teacher), KlTokens::Teacher) => forward(teacher, teacher_spec),
            (None, _) => forward(&engine, spec),
        };
        let k = settings.kl_top_k().min(spec.vocab_size) as u64;
        let quantized = match settings.rollout_quantization {
            truing_model::DecodingWeights::F32 => 0,
            truing_model::DecodingWeights::Int8 => engine.quantized_bytes,
        };
        BesideTraining {
            lasting: vec![
                MemoryPart::new("teacher", teacher.as_ref().map_or(0, |teacher| teacher.parameter_bytes)),
                MemoryPart::new("int8 rollout weights", quantized),
                MemoryPart::new("log-probabilities of the teacher", n_targets * k * TOP_TOKEN_BYTES),
            ],
            sampling_bytes: (cache + decoding).max(asking),
        }
    }
}

/// Whether the student's weights before the first step have to be loaded a second time: adapters that are new can be
/// disabled.
pub(super) fn loads_initial_weights(config: &TrainingConfig, inputs: &DistillInputs) -> bool {
    let settings = config.distillation.clone().unwrap_or_default();
    let is_student = settings.teacher.is_student() && settings.teacher.weights == TeacherWeights::Initial;
    is_student && (config.lora.is_none() || inputs.model.adapter.is_some())
}
