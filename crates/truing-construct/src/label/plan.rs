//! The prompts with the labels that they have already, what is still to be asked, and what that costs.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};
use truing_ask::judged_folder::{CORRECTIONS, JudgedInputs};
use truing_ask::judging::BYTES_PER_TOKEN;
use truing_ask::labels::{LabelPrompt, Question, load_label_set};
use truing_data::{OnBadRow, SourceConfig, read_prompts};
use truing_prompts::labels::LabelSet;
use truing_reward::asking::question_text;
use truing_run::rows::value_at;
use truing_run::{DataReport, RunError};
use truing_store::RunInputs;
use truing_train::{Amount, PlanRow};
use truing_types::{EventSink, RowOrigin};

use super::config::{LabelConfig, OnUnknownLabel};
use crate::sources::Sources;
use crate::{StageError, StagePlan};

/// Everything a plan looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelInputs {
    /// The labels, with those that the data added.
    pub set: LabelSet,
    /// The prompts in the order of their files.
    pub prompts: Vec<LabelPrompt>,
    /// Corrections of prompts that are not in the data.
    pub n_stray_corrections: usize,
    /// What became of all rows of the data.
    pub report: DataReport,
}

impl LabelInputs {
    /// Reads label set, prompts and corrections.
    ///
    /// # Errors
    /// When a file cannot be read, a row cannot and `on_bad_row` is `error`, or a row carries a label that the set does
    /// not know and `on_unknown_label` is `error`.
    pub fn load(config: &LabelConfig, events: &mut dyn EventSink) -> Result<Self, StageError> {
        config.check()?;
        let mut set = load_label_set(config.label_set.as_deref())?;
        let columns = columns(config, &set)?;
        for name in &config.dimensions {
            dimension_of(&set, "dimensions", name)?;
        }
        let LabelConfig { data, data_dir, on_bad_row, .. } = config;
        let sources = Sources { data, data_dir, on_bad_row: *on_bad_row };
        let (mut prompts, report) = sources.read("the prompts", events, |row, origin, report| {
            let carried = match carried(&mut set, &columns, &row.columns, &origin, config.on_unknown_label) {
                Ok(carried) => carried,
                Err(error) => {
                    report.skip(config.on_bad_row, error)?;
                    return Ok(None);
                }
            };
            let corrected = vec![None; carried.len()];
            let text = question_text(&row.prompt);
            Ok(Some(LabelPrompt { text, columns: row.columns, origin, carried, corrected }))
        })?;
        let n_stray_corrections = correct(config, &mut set, &mut prompts)?;
        Ok(Self { set, prompts, n_stray_corrections, report })
    }
}

/// The labels that a row carries, by dimension.
fn carried(
    set: &mut LabelSet,
    columns: &[(usize, &str)],
    row: &Map<String, Value>,
    origin: &RowOrigin,
    on_unknown: OnUnknownLabel,
) -> Result<Vec<Option<Vec<usize>>>, StageError> {
    let mut carried = vec![None; set.dimensions().len()];
    for &(dimension, column) in columns {
        let idx = Place { origin, column };
        let labels = value_at(row, column).map(|value| idx.labels(set, dimension, value, on_unknown));
        carried[dimension] = labels.transpose()?;
    }
    Ok(carried)
}

/// The dimensions of `columns`.
fn columns<'a>(config: &'a LabelConfig, set: &LabelSet) -> Result<Vec<(usize, &'a str)>, RunError> {
    let dimension =
        |(name, column): (&String, &'a String)| Ok((dimension_of(set, "columns", name)?, column.as_str()));
    config.columns.iter().map(dimension).collect()
}

fn dimension_of(set: &LabelSet, key: &'static str, name: &str) -> Result<usize, RunError> {
    set.dimension_idx(name).ok_or_else(|| {
        let names: Vec<&str> = set.dimensions().iter().map(|dimension| dimension.name.as_str()).collect();
        RunError::BadSetting {
            key,
            found: format!("`{name}`"),
            expected: format!("a dimension of the label set: {}", names.join(", ")),
        }
    })
}

/// Where a label is set.
struct Place<'a> {
    origin: &'a RowOrigin,
    column: &'a str,
}

impl Place<'_> {
    /// The labels of a value: a text, or a list of texts where the dimension has several; other values by what is
    /// printed.
    fn labels(
        &self,
        set: &mut LabelSet,
        dimension: usize,
        value: &Value,
        on_unknown: OnUnknownLabel,
    ) -> Result<Vec<usize>, StageError> {
        let is_multiple = set.dimensions()[dimension].multiple;
        let found = match value {
            Value::Array(values) if is_multiple && !values.is_empty() => values
                .iter()
                .map(|value| self.label(set, dimension, value, on_unknown))
                .collect::<Result<BTreeSet<_>, _>>()?,
            Value::Array(_) | Value::Object(_) => {
                let expected = if is_multiple { "a label or a list of labels" } else { "one label" };
                return Err(self.bad(value, expected));
            }
            other => BTreeSet::from([self.label(set, dimension, other, on_unknown)?]),
        };
        Ok(found.into_iter().collect())
    }

    fn label(
        &self,
        set: &mut LabelSet,
        dimension: usize,
        value: &Value,
        on_unknown: OnUnknownLabel,
    ) -> Result<usize, StageError> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return Err(self.bad(value, "a label")),
        };
        match (set.resolve(dimension, &text), on_unknown) {
            (Some(label), _) => Ok(label),
            (None, OnUnknownLabel::Add) => {
                set.add(dimension, &text).map_err(|_| self.bad(value, "a label with letters or digits"))
            }
            (None, OnUnknownLabel::Error) => {
                Err(set.unknown(dimension, self.origin, self.column, text).into())
            }
        }
    }

    fn bad(&self, value: &Value, expected: &'static str) -> StageError {
        RunError::BadColumn {
            origin: self.origin.clone(),
            column: self.column.to_owned(),
            found: value.to_string(),
            expected,
        }
        .into()
    }
}

/// Gives prompts the labels of `corrections`; hands back how many of its rows are of no prompt here.
fn correct(
    config: &LabelConfig,
    set: &mut LabelSet,
    prompts: &mut [LabelPrompt],
) -> Result<usize, StageError> {
    let Some(path) = &config.corrections else { return Ok(0) };
    let mut indices: HashMap<String, Vec<usize>> = HashMap::new();
    for (idx, prompt) in prompts.iter().enumerate() {
        indices.entry(prompt.text.clone()).or_default().push(idx);
    }
    let mut n_stray = 0;
    for row in read_prompts(&SourceConfig::new(path), OnBadRow::Error)? {
        let (row, origin) = row?;
        let labels = corrected_labels(&row.columns, &origin)?;
        let indices = indices.get(&question_text(&row.prompt)).map_or(&[][..], Vec::as_slice);
        let mut corrected = Vec::new();
        for (name, value) in labels.iter().filter(|(_, value)| !value.is_null()) {
            // What the row said before may be of dimensions that this set does not have.
            let said_before = |&place: &usize| prompts[place].columns.get("labels")?.get(name);
            if set.dimension_idx(name).is_none() && indices.iter().any(|idx| said_before(idx) == Some(value))
            {
                continue;
            }
            let dimension = dimension_of(set, "corrections", name)?;
            let column = format!("labels.{name}");
            let idx = Place { origin: &origin, column: &column };
            corrected.push((dimension, idx.labels(set, dimension, value, config.on_unknown_label)?));
        }
        n_stray += usize::from(indices.is_empty());
        for &idx in indices {
            for (dimension, labels) in &corrected {
                prompts[idx].corrected[*dimension] = Some(labels.clone());
            }
        }
    }
    Ok(n_stray)
}

fn corrected_labels<'a>(
    columns: &'a Map<String, Value>,
    origin: &RowOrigin,
) -> Result<&'a Map<String, Value>, RunError> {
    let found = columns.get("labels");
    found.and_then(Value::as_object).ok_or_else(|| RunError::BadColumn {
        origin: origin.clone(),
        column: "labels".into(),
        found: found.map_or("nothing".to_owned(), Value::to_string),
        expected: "an object of labels by dimension",
    })
}

/// A run as it will be.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelPlan {
    /// The settings.
    pub config: LabelConfig,
    /// Dimensions that are labelled, in the order of the set.
    pub dimensions: Vec<usize>,
    /// What is asked, each of every judge and `n_votes` times.
    pub questions: Vec<Question>,
    /// Prompts.
    pub n_prompts: u64,
    /// Prompts that judges are shown without their middle.
    pub n_cut: u64,
    /// Calls of all judges, where each reply can be read at once and none is known yet.
    pub n_calls: u64,
    /// Tokens of their prompts, estimated at four bytes each.
    pub prompt_tokens: u64,
    /// Tokens of their replies at most.
    pub completion_tokens: u64,
}

impl LabelPlan {
    /// Versions, seed and digests of all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn record(&self, inputs: &LabelInputs) -> Result<RunInputs, StageError> {
        let config = &self.config;
        let label_set = config.label_set.iter().map(|path| ("label_set", path.as_path()));
        let corrections = config.corrections.iter().map(|path| (CORRECTIONS, path.as_path()));
        let record = JudgedInputs {
            stage: config.stage,
            seed: config.seed,
            judges: config.judge.iter().map(|judge| &judge.model).collect(),
            data: &inputs.report.files,
            others: label_set.chain(corrections).collect(),
        };
        Ok(record.record()?)
    }

    /// Puts together what is asked, and counts.
    ///
    /// # Errors
    /// When a setting is invalid, or there is no prompt.
    pub fn resolve(config: LabelConfig, inputs: &LabelInputs) -> Result<Self, StageError> {
        config.check()?;
        if inputs.prompts.is_empty() {
            let (found, expected) = ("without a prompt".into(), "at least one prompt".into());
            return Err(RunError::BadSetting { key: "data", found, expected }.into());
        }
        let named = config.dimensions.iter().map(|name| dimension_of(&inputs.set, "dimensions", name));
        let mut dimensions: Vec<usize> = named.collect::<Result<BTreeSet<_>, _>>()?.into_iter().collect();
        if dimensions.is_empty() {
            dimensions = (0..inputs.set.dimensions().len()).collect();
        }
        let questions = questions(&config, &dimensions, &inputs.prompts);
        let is_long = |question: &&Question| {
            inputs.prompts[question.prompt].text.chars().count() > config.max_prompt_characters
        };
        let cut: BTreeSet<usize> = questions.iter().filter(is_long).map(|question| question.prompt).collect();
        let form = config.form();
        let text = |question: &Question| {
            form.text(&inputs.set, &question.dimensions, &inputs.prompts[question.prompt].text)
        };
        let bytes: u64 = questions.iter().map(|question| text(question).len() as u64).sum();
        let n_samples = (config.n_votes * config.judge.len()) as u64;
        let n_calls = questions.len() as u64 * n_samples;
        Ok(Self {
            n_prompts: inputs.prompts.len() as u64,
            n_cut: cut.len() as u64,
            n_calls,
            prompt_tokens: (bytes * n_samples).div_ceil(BYTES_PER_TOKEN),
            completion_tokens: n_calls * config.max_new_tokens as u64,
            dimensions,
            questions,
            config,
        })
    }
}

impl LabelPlan {
    /// What the settings and the data say about how far the labels can be trusted.
    pub(super) fn warnings(&self, inputs: &LabelInputs) -> Vec<String> {
        let (config, mut warnings) = (&self.config, Vec::new());
        if config.judge.len() == 1 && config.n_votes == 1 && self.n_calls > 0 {
            warnings.push(
                "one judge with one vote: the confidence is uninformative and few rows go to review".into(),
            );
        }
        if self.n_cut > 0 {
            let (n, most) = (self.n_cut, config.max_prompt_characters);
            warnings.push(format!("{n} prompts of more than {most} characters were truncated in the middle"));
        }
        if inputs.n_stray_corrections > 0 {
            let n = inputs.n_stray_corrections;
            warnings.push(format!("{n} corrections are of prompts that are not in the data"));
        }
        warnings
    }
}

impl StagePlan for LabelPlan {
    /// The plan as lines.
    fn table(&self) -> Vec<PlanRow> {
        let count = |name: &str, n: u64| PlanRow::new(name, Amount::Count(n));
        let asked: BTreeSet<usize> = self.questions.iter().map(|question| question.prompt).collect();
        vec![
            count("prompts", self.n_prompts),
            count("prompts that need judge calls", asked.len() as u64),
            count("of them too long, truncated in the middle", self.n_cut),
            count("dimensions", self.dimensions.len() as u64),
            count("judges", self.config.judge.len() as u64),
            count("votes of each", self.config.n_votes as u64),
            count("calls", self.n_calls),
            count("prompt tokens (estimate)", self.prompt_tokens),
            count("completion tokens (maximum)", self.completion_tokens),
        ]
    }

    /// What is run, in one sentence.
    fn summary(&self) -> String {
        format!(
            "{} prompts in {} dimensions, {} calls of {} judges",
            self.n_prompts,
            self.dimensions.len(),
            self.n_calls,
            self.config.judge.len()
        )
    }
}

/// Asked is what a row does not carry, or everything where judges are compared. A prompt that was corrected in every
/// dimension is not asked about; one that was corrected in part is asked about as before, so that its replies are in
/// the cache.
fn questions(config: &LabelConfig, dimensions: &[usize], prompts: &[LabelPrompt]) -> Vec<Question> {
    let mut questions = Vec::new();
    for (idx, prompt) in prompts.iter().enumerate() {
        let is_asked = |&&dimension: &&usize| config.compare || prompt.carried[dimension].is_none();
        let asked: Vec<usize> = dimensions.iter().filter(is_asked).copied().collect();
        let is_open = |dimension: &usize| prompt.corrected[*dimension].is_none();
        if config.per_dimension {
            let open = asked.into_iter().filter(is_open);
            questions.extend(open.map(|dimension| Question { prompt: idx, dimensions: vec![dimension] }));
        } else if asked.iter().any(is_open) {
            questions.push(Question { prompt: idx, dimensions: asked });
        }
    }
    // Calls that ask the same stand together.
    questions.sort_by(|one, other| one.dimensions.cmp(&other.dimensions).then(one.prompt.cmp(&other.prompt)));
    questions
}
