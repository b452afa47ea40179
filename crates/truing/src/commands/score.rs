//! `truing score`: the rewards of a GRPO recipe on given responses: verifiers, a reward model, an LLM judge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use truing_data::{OnBadRow, SourceConfig, read_prompts};
use truing_generate::marks_of;
use truing_model::ModelFiles;
use truing_reward::{Completion, ScoredCompletion};
use truing_run::RecipeError;
use truing_stages::Recipe as _;
use truing_stages::grpo::GrpoConfig;
use truing_stages::rewards::{OpenedRewards, RewardResources};
use truing_statistics::{Bootstrap, BootstrapKind, Interval, ShareInterval, clustered_mean};
use truing_text::{ChatRenderer, SpecialTokens};
use truing_types::{Event, FinishReason, PromptRow, ReasoningMarks, RowOrigin};

use super::model;
use super::output::check_is_no_input;
use super::place::at_its_place;
use super::recipe_arguments::RecipeArguments;
use super::stage::read_toml_recipe;
use crate::local_engine::LocalEngine;
use crate::outcome::{Outcome, WithHint};
use crate::rendering::render_options;
use crate::table::{Align, Table};
use crate::{Context, asking, interrupt, progress};

/// Columns that are read as the response, where `--column` names none.
const RESPONSE_COLUMNS: [&str; 4] = ["completion", "response", "responses", "output"];

/// Fewer rows say too little about the spread of values other than 0 and 1.
const MIN_ROWS: usize = 10;

/// Arguments of `truing score`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// Files with a prompt, one or several responses, and what the rewards need (answers, instructions, tests) per row.
    #[arg(long, required = true, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Column with the response, or a list of responses. Default: `completion`, `response`, `responses` or `output`. A
    /// column `finish_reason` with the value `length` marks a response that was cut.
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Output file, one JSON object per response. Default: the terminal.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the summary as one JSON object; the scores go to `--output` only.
    #[arg(long)]
    json: bool,
}

/// A row of the data.
type Row = (PromptRow, RowOrigin);

/// A response to score.
struct Response {
    row: usize,
    text: String,
    finish_reason: FinishReason,
}

/// Scores the responses and prints what was found.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    if let Some(output) = &arguments.output {
        check_is_no_input(output, arguments.data.iter().map(PathBuf::as_path))?;
    }
    let config = read_config(&arguments.recipe, context)?;
    let (rows, responses) = read(arguments)?;
    let tokenizer = open_tokenizer(&config)?;
    let known = tokenizer.as_ref().map(|renderer| marks_of(renderer.tokenizer()));
    let marks: ReasoningMarks = known.unwrap_or_default().with(&config.reasoning_marks);
    let stop = interrupt::stop_flag("stopping");
    let mut events = progress::for_this_terminal(&context.printer);
    let judge = match &config.judge {
        Some(judge) => {
            let chat_context = asking::chat_context(&judge.model, &stop, context)?;
            Some(judge.model.open::<LocalEngine>(&chat_context, events.as_mut())?)
        }
        None => None,
    };
    let program = std::env::current_exe().ok();
    let resources = RewardResources {
        render: render_options(),
        marks,
        n_threads: context.n_threads,
        sandbox_program: program.as_deref(),
    };
    let OpenedRewards { mut rewards, .. } =
        OpenedRewards::open::<LocalEngine>(config.rewards(), judge, resources, events.as_mut())?;
    let completions = completions(&rows, &responses, tokenizer.as_ref())?;
    let phase = match completions.len() {
        1 => "scoring 1 response".to_owned(),
        n => format!("scoring {n} responses"),
    };
    events.emit(Event::PhaseStarted { phase, total: None });
    let scored = rewards.score(&completions);
    events.emit(Event::PhaseFinished);
    drop(events);
    if stop.load(Ordering::Relaxed) {
        return Ok(Outcome::Interrupted);
    }
    let lines = lines(&rows, &responses, &scored);
    match &arguments.output {
        Some(path) => truing_store::atomic::write(path, lines.as_bytes())?,
        None if !arguments.json => context.printer.text(&lines)?,
        None => {}
    }
    summarise(&responses, &scored, config.pass_reward, arguments, context)
}

/// The recipe, with at least one reward and with its models found.
fn read_config(recipe: &RecipeArguments, context: &Context) -> anyhow::Result<GrpoConfig> {
    let path = &recipe.recipe;
    let config = GrpoConfig::from_toml(&read_toml_recipe(path)?, path, &recipe.overrides);
    let mut config = match config {
        Err(error @ RecipeError::OtherStage { .. }) => {
            return Err(error)
                .hint(|| "`truing score` reads the rewards of a recipe with stage = \"grpo\"".into());
        }
        other => other?,
    };
    if config.rewards().is_empty() {
        bail!("{} has no reward: expected `[[reward]]`, `[reward_model]` or `[judge]`", path.display());
    }
    // Before any model is looked for or fetched.
    let rewards = config.rewards();
    rewards.check().map_err(|error| at_its_place(error.into(), &config.input_settings(), recipe))?;
    config.find_models(&mut |name| model::find(name, context))?;
    Ok(config)
}

/// Tokenizer and template of the recipe's model; `None` where it names none, and then no reward counts tokens.
fn open_tokenizer(config: &GrpoConfig) -> anyhow::Result<Option<ChatRenderer>> {
    let path = config.model_name_or_path.as_str();
    if !path.is_empty() {
        let files = ModelFiles::open(Path::new(path))?;
        return Ok(Some(truing_stages::model::renderer(&files, render_options())?));
    }
    if let Some(name) = config.reward.iter().find_map(|reward| reward.kind.counts_tokens()) {
        bail!(
            "reward `{name}` counts tokens: `model_name_or_path` of the recipe has to name their tokenizer"
        );
    }
    Ok(None)
}

/// The rows, and their responses in order.
fn read(arguments: &Arguments) -> anyhow::Result<(Vec<Row>, Vec<Response>)> {
    let (mut rows, mut responses) = (Vec::new(), Vec::new());
    for path in &arguments.data {
        for row in read_prompts(&SourceConfig::new(path), OnBadRow::Error)? {
            let (row, origin) = row?;
            let of_row = texts(&row, arguments.column.as_deref()).with_context(|| origin.to_string())?;
            let finish_reason = match row.columns.get("finish_reason").and_then(Value::as_str) {
                Some("length") => FinishReason::Length,
                _ => FinishReason::EndOfTurn,
            };
            let row_idx = rows.len();
            responses.extend(of_row.into_iter().map(|text| Response { row: row_idx, text, finish_reason }));
            rows.push((row, origin));
        }
    }
    if responses.is_empty() {
        bail!("the files hold no response to score");
    }
    Ok((rows, responses))
}

/// The responses of a row.
fn texts(row: &PromptRow, column: Option<&str>) -> anyhow::Result<Vec<String>> {
    let found = match column {
        Some(name) => row.columns.get(name).map(|value| (name, value)),
        None => {
            let mut of_row = RESPONSE_COLUMNS.iter().filter_map(|&name| Some((name, row.columns.get(name)?)));
            let first = of_row.next();
            if let (Some((first, _)), Some((second, _))) = (first, of_row.next()) {
                bail!("the row has the columns `{first}` and `{second}`; `--column` says which to score");
            }
            first
        }
    };
    let Some((name, value)) = found else {
        match column {
            Some(name) => bail!("the row has no column `{name}`"),
            None => bail!(
                "the row has none of the columns {}; `--column` names another",
                RESPONSE_COLUMNS.join(", ")
            ),
        }
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = match value {
        Value::Array(list) => list.iter().map(text).collect(),
        value => text(value).map(|text| vec![text]),
    };
    texts.with_context(|| format!("`{name}` is {value}: expected a text or a list of texts"))
}

/// The responses as rewards are given them.
fn completions<'r>(
    rows: &'r [Row],
    responses: &'r [Response],
    tokenizer: Option<&ChatRenderer>,
) -> anyhow::Result<Vec<Completion<'r>>> {
    let n_tokens = |text: &str| -> anyhow::Result<usize> {
        let Some(renderer) = tokenizer else { return Ok(0) };
        // The end token counts, as it does in training.
        Ok(renderer.tokenizer().encode(text, SpecialTokens::AsText)?.len() + 1)
    };
    responses
        .iter()
        .map(|response| {
            let (row, origin) = &rows[response.row];
            Ok(Completion {
                prompt: &row.prompt,
                text: &response.text,
                n_tokens: n_tokens(&response.text)?,
                finish_reason: response.finish_reason,
                columns: &row.columns,
                origin,
            })
        })
        .collect()
}

/// One JSON object per response.
fn lines(rows: &[Row], responses: &[Response], scored: &[ScoredCompletion]) -> String {
    let mut text = String::new();
    let mut response_idx = 0;
    for (i, (response, scored)) in responses.iter().zip(scored).enumerate() {
        response_idx = if i > 0 && responses[i - 1].row == response.row { response_idx + 1 } else { 0 };
        let origin = &rows[response.row].1;
        let rewards: BTreeMap<&String, f64> =
            scored.parts.iter().filter_map(|(name, part)| Some((name, *part.as_ref().ok()?))).collect();
        let unscored: BTreeMap<&String, String> = scored
            .parts
            .iter()
            .filter_map(|(name, part)| Some((name, part.as_ref().err()?.to_string())))
            .collect();
        let line = json!({
            "source": origin.source, "line": origin.line, "response_idx": response_idx,
            "reward": scored.total.as_ref().ok(), "rewards": rewards, "unscored": unscored,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text
}

/// Values with the rows that they are of: responses to one prompt are not independent.
#[derive(Default)]
struct Values {
    values: Vec<f64>,
    rows: Vec<usize>,
}

impl Values {
    fn push(&mut self, value: f64, row: usize) {
        self.values.push(value);
        self.rows.push(row);
    }

    fn mean(&self) -> Option<f64> {
        Some(clustered_mean(&self.values, &self.rows)?.mean)
    }

    /// The 95 % interval of the mean, or why there is none: of values that are all 0 or 1 that of a share, of others a
    /// bootstrap over rows, which stays within the range of the values.
    fn interval(&self) -> Result<Interval, String> {
        if self.values.iter().all(|&value| value == 0.0 || value == 1.0) {
            let ShareInterval { low, high } = self.share_interval().ok_or("none: a single row")?;
            return Ok(Interval { low, high });
        }
        let mut of_rows: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for (value, row) in self.values.iter().zip(&self.rows) {
            let (sum, n) = of_rows.entry(*row).or_default();
            (*sum, *n) = (*sum + value, *n + 1.0);
        }
        let of_rows: Vec<(f64, f64)> = of_rows.into_values().collect();
        if of_rows.len() < MIN_ROWS {
            return Err(format!("none: fewer than {MIN_ROWS} rows"));
        }
        let mean = |drawn: &[usize]| {
            let rows = drawn.iter().map(|&row| of_rows[row]);
            let (sum, n) = rows.fold((0.0, 0.0), |(sum, n), of_row| (sum + of_row.0, n + of_row.1));
            sum / n
        };
        let interval = Bootstrap::default().interval(of_rows.len(), BootstrapKind::Percentile, mean);
        interval.filter(|found| found.low < found.high).ok_or_else(|| "none: all rows are equal".to_owned())
    }

    /// The 95 % interval of a share: Wilson's where every row has one response, else Student's by row.
    fn share_interval(&self) -> Option<ShareInterval> {
        let estimate = clustered_mean(&self.values, &self.rows)?;
        let is_independent = self.rows.windows(2).all(|pair| pair[0] != pair[1]);
        match is_independent {
            true => ShareInterval::wilson(estimate.mean, self.values.len() as f64),
            false => estimate
                .interval(0.95)
                .map(|Interval { low, high }| ShareInterval { low: low.max(0.0), high: high.min(1.0) }),
        }
    }
}

/// Prints means with 95 % intervals, of the sum and of each reward.
fn summarise(
    responses: &[Response],
    scored: &[ScoredCompletion],
    pass_reward: f64,
    arguments: &Arguments,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let summary = Summary::of(responses, scored, pass_reward);
    if arguments.json {
        context.printer.json(&summary.json())?;
    } else {
        summary.print(arguments.output.as_deref(), context)?;
    }
    let n_unscored = summary.n_unscored();
    if n_unscored > 0 {
        let first = scored.iter().find_map(|one| one.total.as_ref().err());
        let reason = first.map(ToString::to_string).unwrap_or_default();
        context
            .printer
            .warning(format_args!("{n_unscored} of {} responses have no reward: {reason}", scored.len()));
    }
    Ok(if summary.totals.values.is_empty() { Outcome::Finding } else { Outcome::Fine })
}

/// What the scores say together.
struct Summary<'s> {
    n_responses: usize,
    pass_reward: f64,
    totals: Values,
    /// 1 for each scored response that passes, 0 for the others.
    passes: Values,
    parts: BTreeMap<&'s str, Values>,
}

impl<'s> Summary<'s> {
    fn of(responses: &[Response], scored: &'s [ScoredCompletion], pass_reward: f64) -> Self {
        let (mut totals, mut passes) = (Values::default(), Values::default());
        let mut parts: BTreeMap<&'s str, Values> = BTreeMap::new();
        for (response, one) in responses.iter().zip(scored) {
            for (name, part) in &one.parts {
                let values = parts.entry(name).or_default();
                if let Ok(value) = part {
                    values.push(*value, response.row);
                }
            }
            if let Ok(total) = one.total {
                totals.push(total, response.row);
                passes.push(f64::from(u8::from(total >= pass_reward)), response.row);
            }
        }
        Self { n_responses: scored.len(), pass_reward, totals, passes, parts }
    }

    fn n_unscored(&self) -> usize {
        self.n_responses - self.totals.values.len()
    }

    fn pass_rate(&self) -> Option<f64> {
        self.passes.mean()
    }

    /// The sum, then each reward.
    fn all(&self) -> impl Iterator<Item = (&'s str, &Values)> {
        let parts = self.parts.iter().map(|(name, values)| (*name, values));
        std::iter::once(("reward", &self.totals)).chain(parts)
    }

    fn json(&self) -> Value {
        let mean = |values: &Values| {
            let (mean, interval) = (values.mean()?, values.interval().ok());
            Some(json!({
                "mean": mean, "low": interval.map(|interval| interval.low),
                "high": interval.map(|interval| interval.high), "n": values.values.len(),
            }))
        };
        let rewards: BTreeMap<&str, Option<Value>> =
            self.all().map(|(name, values)| (name, mean(values))).collect();
        let interval = self.passes.share_interval();
        json!({
            "n_responses": self.n_responses, "n_unscored": self.n_unscored(), "pass_rate": self.pass_rate(),
            "pass_rate_low": interval.map(|interval| interval.low),
            "pass_rate_high": interval.map(|interval| interval.high), "rewards": rewards,
        })
    }

    /// `output` is the file with the scores; they are on stdout where no file was named.
    fn print(&self, output: Option<&Path>, context: &Context) -> anyhow::Result<()> {
        let columns =
            [("", Align::Left), ("mean", Align::Right), ("95 % interval", Align::Left), ("n", Align::Right)];
        let mut table = Table::new(&columns);
        for (name, values) in self.all() {
            let (mean, range) = match (values.mean(), values.interval()) {
                (None, _) => ("-".to_owned(), "-".to_owned()),
                (Some(mean), Ok(found)) => {
                    (format!("{mean:.3}"), format!("{:.3} to {:.3}", found.low, found.high))
                }
                (Some(mean), Err(reason)) => (format!("{mean:.3}"), reason),
            };
            table.row([name.to_owned(), mean, range, values.values.len().to_string()]);
        }
        let print = |line: String| match output.is_some() {
            true => context.printer.line(line),
            false => {
                context.printer.note(line);
                Ok(())
            }
        };
        for line in table.lines() {
            print(line)?;
        }
        if let Some(rate) = self.pass_rate() {
            let n_passed = self.passes.values.iter().filter(|&&passed| passed == 1.0).count();
            let interval = self.passes.share_interval();
            let range = interval
                .map_or_else(String::new, |interval| format!(", 95 % interval {} %", interval.percent()));
            print(format!(
                "{n_passed} of {} pass (reward of at least {}): {:.1} %{range}",
                self.totals.values.len(),
                self.pass_reward,
                100.0 * rate
            ))?;
        }
        if let Some(path) = output {
            print(format!("scores  {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(of_rows: &[&[f64]]) -> Values {
        let mut values = Values::default();
        for (row, of_row) in of_rows.iter().enumerate() {
            of_row.iter().for_each(|&value| values.push(value, row));
        }
        values
    }

    #[test]
    fn intervals_stay_where_the_mean_can_be() {
        // Wilson's interval of 2 in 3, by his formula.
        let found = values(&[&[1.0], &[0.0], &[1.0]]).interval().unwrap();
        assert!((found.low - 0.2077).abs() < 1e-4 && (found.high - 0.9385).abs() < 1e-4, "{found:?}");
        // Several responses of a row are not independent: Student's t by row, cut off at 0 and 1.
        let found = values(&[&[1.0, 1.0], &[0.0, 1.0]]).interval().unwrap();
        assert_eq!((found.low, found.high), (0.0, 1.0));
        assert_eq!(values(&[&[1.0, 0.0]]).interval().unwrap_err(), "none: a single row");
        assert_eq!(values(&[&[1.5], &[0.0], &[0.5]]).interval().unwrap_err(), "none: fewer than 10 rows");
        assert_eq!(values(&[&[0.5][..]; 12]).interval().unwrap_err(), "none: all rows are equal");
        // Nearly all at the highest value: Student's t would reach beyond it.
        let mut of_rows = [&[1.5][..]; 12];
        of_rows[0] = &[0.0, 0.5];
        let found = values(&of_rows).interval().unwrap();
        let mean = values(&of_rows).mean().unwrap();
        assert!(0.0 < found.low && found.low < mean && mean < found.high && found.high <= 1.5, "{found:?}");
    }
}
