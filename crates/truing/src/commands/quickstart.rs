//! `truing quickstart`: the whole run on a small model, with data that comes with the program.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use truing_eval::pipeline::{Evaluation, GradedAnswer, Pipeline};
use truing_model::sources::DEFAULT_MODEL;
use truing_parallel::Solo;
use truing_report::RunRecord;
use truing_stages::Ended;
use truing_statistics::Estimate;

use super::model::{self, ModelArguments};
use crate::local_engine::LocalEngine;
use crate::outcome::{Outcome, WithHint};
use crate::printer::Style;
use crate::progress::{self, FanOut};
use crate::quickstart::{self, Quickstart, QuickstartError, QuickstartOutcome};
use crate::recorder::TensorBoard;
use crate::rendering::render_options;
use crate::table::{Align, Table};
use crate::units::one_line;
use crate::{Context, interrupt, machine};

/// The stages' recipes.
const RECIPES: [(&str, &str); 3] = [
    ("sft", include_str!("../../../../quickstart/sft.toml")),
    ("reward", include_str!("../../../../quickstart/reward.toml")),
    ("grpo", include_str!("../../../../quickstart/grpo.toml")),
];
/// The stages as a pipeline, what the recipes name, and what is measured on.
const DATA: [(&str, &[u8]); 9] = [
    ("pipeline.toml", include_bytes!("../../../../quickstart/pipeline.toml")),
    ("data/train.jsonl", include_bytes!("../../../../quickstart/train.jsonl")),
    ("data/heldout.jsonl", include_bytes!("../../../../quickstart/heldout.jsonl")),
    ("data/checks.jsonl", include_bytes!("../../../../quickstart/checks.jsonl")),
    ("data/preferences.jsonl", include_bytes!("../../../../quickstart/preferences.jsonl")),
    ("data/instructions.jsonl", include_bytes!("../../../../quickstart/instructions.jsonl")),
    ("data/heldout_instructions.jsonl", include_bytes!("../../../../quickstart/heldout_instructions.jsonl")),
    ("data/knowledge.jsonl", include_bytes!("../../../../quickstart/knowledge.jsonl")),
    ("data/open_questions.jsonl", include_bytes!("../../../../quickstart/open_questions.jsonl")),
];

/// How long all of it takes with the default model and settings, as it was measured.
const DURATION: &str = "15 to 20 minutes on two free cores of a server";
/// The output folder, unless another one is named.
const DEFAULT_FOLDER: &str = "runs/quickstart";
/// Open questions whose answers are printed; the page has all.
const N_QUESTIONS: usize = 3;
/// Characters of a question or answer that are printed.
const N_SHOWN: usize = 300;
/// The same where all models stand side by side.
const N_SHOWN_IN_CELL: usize = 80;

/// Arguments of `truing quickstart`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Output folder.
    #[arg(long, short, value_name = "FOLDER", default_value = DEFAULT_FOLDER)]
    output: PathBuf,
    /// Continue an interrupted quickstart, with the model and the settings that it began with.
    #[arg(long)]
    resume: bool,
    /// Run at most this many steps in each stage.
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Random seed of all stages.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Override a setting of a stage's recipe, for instance `--set sft.learning_rate=2e-5` or
    /// `--set grpo.max_steps=30`. Without a stage it applies to `sft`. May be given several times.
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    overrides: Vec<String>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// Model and settings that a quickstart begins with. A resume need not repeat them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Choices {
    model: String,
    max_steps: Option<u64>,
    seed: Option<u64>,
    overrides: Vec<String>,
}

impl Choices {
    /// The file's name in the folder.
    const FILE_NAME: &str = "settings.json";

    /// The arguments. A resume takes those that are missing from the folder, where an earlier version wrote no such
    /// file.
    fn of(arguments: &Arguments) -> anyhow::Result<Self> {
        let typed = Self {
            model: arguments.model.model.clone(),
            max_steps: arguments.max_steps,
            seed: arguments.seed,
            overrides: arguments.overrides.clone(),
        };
        let path = arguments.output.join(Self::FILE_NAME);
        if !arguments.resume || !path.exists() {
            return Ok(typed);
        }
        let begun: Self = fs::read(&path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .with_context(|| {
                format!("cannot read {}; delete it and give the settings again", path.display())
            })?;
        Ok(Self {
            model: if typed.model == DEFAULT_MODEL { begun.model } else { typed.model },
            max_steps: typed.max_steps.or(begun.max_steps),
            seed: typed.seed.or(begun.seed),
            overrides: if typed.overrides.is_empty() { begun.overrides } else { typed.overrides },
        })
    }

    /// The changes of the stages' recipes.
    fn changes(&self) -> Vec<(String, String)> {
        let mut changes: Vec<(String, String)> = self.overrides.iter().map(|typed| stage_of(typed)).collect();
        let of_all = [("max_steps", self.max_steps), ("seed", self.seed)];
        for (key, value) in of_all.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            changes.extend(RECIPES.iter().map(|(stage, _)| ((*stage).to_owned(), format!("{key}={value}"))));
        }
        changes
    }
}

/// The stage that a change is for, and the change.
fn stage_of(typed: &str) -> (String, String) {
    match typed.split_once('.') {
        Some((stage, change)) if RECIPES.iter().any(|(name, _)| *name == stage) => {
            (stage.to_owned(), change.to_owned())
        }
        _ => ("sft".to_owned(), typed.to_owned()),
    }
}

/// Finds the model, measures, trains, measures, writes the page.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let folder = &arguments.output;
    let choices = Choices::of(arguments)?;
    let text = serde_json::to_vec_pretty(&choices)?;
    let mut data = DATA.to_vec();
    // A resume may be refused for other settings: those of the start stay.
    if !arguments.resume || !folder.join(Pipeline::FILE_NAME).exists() {
        data.push((Choices::FILE_NAME, &text));
    }
    let has_default_model = choices.model == DEFAULT_MODEL;
    let has_default_settings = choices.max_steps.is_none() && choices.overrides.is_empty();
    let quickstart = Quickstart {
        folder: folder.clone(),
        model: model::find(&choices.model, context)?,
        overrides: choices.changes(),
        model_name: choices.model,
        recipes: &RECIPES,
        data: &data,
        render: render_options(),
        resume: arguments.resume,
        duration: (has_default_model && has_default_settings).then_some(DURATION),
    };
    let gigaflops = machine::measure_step_gigaflops();
    let look_at_machine = || machine::for_stages(context.n_threads, gigaflops);
    let stop = interrupt::stop_flag("stopping: what was done is saved");
    let (tensor_board, recording_error) = TensorBoard::new(&folder.join("sft").join("events"));
    let mut events = FanOut(vec![progress::for_this_terminal(&context.printer), Box::new(tensor_board)]);
    let probe = machine::ProcessProbe::new();
    let groups = Solo::groups();
    let outcome =
        quickstart::run::<LocalEngine>(&quickstart, &look_at_machine, &groups, &probe, &mut events, &stop);
    drop(events);
    let outcome = match outcome {
        Err(error @ QuickstartError::FolderInUse { .. }) => {
            return Err(error).hint(|| "--resume continues it; --output names another folder".into());
        }
        other => other?,
    };
    if let Some(error) = recording_error.borrow_mut().take() {
        context.printer.warning(format_args!("TensorBoard events are incomplete: {error}"));
    }
    let page = folder.join("report.html");
    truing_report::write_report(folder, &page)?;
    finish(outcome, arguments, context, &page)
}

fn finish(
    ended: Ended<QuickstartOutcome>,
    arguments: &Arguments,
    context: &Context,
    page: &Path,
) -> anyhow::Result<Outcome> {
    let printer = &context.printer;
    let Ended::Finished(QuickstartOutcome { model, evaluations, reward_accuracy }) = ended else {
        if arguments.json {
            printer.json(&json!({ "status": "interrupted", "report": page }))?;
        } else {
            let folder = &arguments.output;
            let of_folder = match folder == Path::new(DEFAULT_FOLDER) {
                true => String::new(),
                false => format!(" --output {}", folder.display()),
            };
            printer.line(format_args!("stopped; `truing quickstart --resume{of_folder}` continues"))?;
        }
        return Ok(Outcome::Interrupted);
    };
    if arguments.json {
        printer.json(&json!({
            "status": "finished", "model": model, "report": page, "evaluations": evaluations,
            "reward_accuracy": reward_accuracy,
        }))?;
        return Ok(Outcome::Fine);
    }
    let record = RunRecord::read(&arguments.output)?;
    let parts = [
        open_answers(&evaluations),
        graded_answers(&evaluations).lines(),
        scores(&evaluations).lines(),
        changes(&record).lines(),
        reward_order(&record),
    ];
    for lines in parts.into_iter().filter(|lines| !lines.is_empty()) {
        for line in lines {
            printer.line(line)?;
        }
        printer.line("")?;
    }
    printer.line(format_args!("model   {}", model.display()))?;
    printer.line(format_args!("report  {}", printer.styled(Style::Bold, page.display())))?;
    printer.line(format_args!("talk to it: truing chat --model {}", model.display()))?;
    Ok(Outcome::Fine)
}

/// Held-out loss and the shares of each set that are right, after each stage.
fn scores(evaluations: &[Evaluation]) -> Table {
    let labels = evaluations.iter().map(|evaluation| (evaluation.label.as_str(), Align::Right));
    let columns: Vec<(&str, Align)> =
        [("on held-out items", Align::Left)].into_iter().chain(labels).collect();
    let mut table = Table::new(&columns);
    let loss = |evaluation: &Evaluation| {
        evaluation.heldout_loss.map_or_else(String::new, |loss| format!("{loss:.3}"))
    };
    let row = |name: String, cells: Vec<String>| [vec![name], cells].concat();
    table.row(row("loss of conversations".into(), evaluations.iter().map(loss).collect()));
    for first in evaluations.first().iter().flat_map(|evaluation| evaluation.sets()) {
        let share = |evaluation: &Evaluation| {
            let score = evaluation.sets().into_iter().find(|score| score.set == first.set);
            score.map_or_else(String::new, |score| format!("{:.2}", score.share()))
        };
        table.row(row(
            format!("accuracy, {} (of {})", first.set, first.n),
            evaluations.iter().map(share).collect(),
        ));
    }
    table
}

/// The change of every held-out measure by each stage, and by all of them, with its interval, paired by item.
fn changes(record: &RunRecord) -> Table {
    let mut table = Table::new(&[
        ("change on held-out items", Align::Left),
        ("by", Align::Left),
        ("change", Align::Right),
        ("95 % interval, paired", Align::Left),
        ("", Align::Left),
    ]);
    let evaluations = &record.evaluations;
    let mut pairs: Vec<(&Evaluation, &Evaluation, &str)> = evaluations
        .windows(2)
        .map(|pair| (&pair[0], &pair[1], pair[1].label.trim_start_matches("after ")))
        .collect();
    if let [first, _, .., last] = evaluations.as_slice() {
        pairs.push((first, last, "both"));
    }
    for (earlier, later, by) in &pairs {
        if let Some(change) = later.loss_change_since(earlier) {
            table.row(change_row("loss of conversations", by, change, 3, change.value < 0.0));
        }
    }
    for first in evaluations.first().iter().flat_map(|evaluation| evaluation.sets()) {
        for (earlier, later, by) in &pairs {
            let passes = later.passes_since(earlier, first.set);
            let Some(gain) = Estimate::difference_of_paired_shares(passes) else { continue };
            table.row(change_row(first.set, by, gain, 2, gain.value > 0.0));
        }
    }
    table
}

fn change_row(measure: &str, by: &str, change: Estimate, n_digits: usize, is_better: bool) -> [String; 5] {
    let finding = match (change.is_shown(), is_better) {
        (false, _) => "no change shown",
        (true, true) => "better",
        (true, false) => "worse",
    };
    [
        measure.to_owned(),
        by.to_owned(),
        format!("{:+.n_digits$}", change.value),
        format!("{:+.n_digits$} to {:+.n_digits$}", change.low, change.high),
        finding.to_owned(),
    ]
}

/// How many held-out pairs the reward model ranks right, with the interval.
fn reward_order(record: &RunRecord) -> Vec<String> {
    let all = record.stages.iter().find_map(|stage| Some(&stage.diagnostics.last()?.diagnostics.all));
    let Some((all, accuracy)) = all.and_then(|all| Some((all, all.accuracy?))) else { return Vec::new() };
    let interval = all.accuracy_interval.map_or_else(String::new, |interval| {
        format!("95 % interval {:.2} to {:.2}; ", interval.low, interval.high)
    });
    vec![
        format!("reward model: {accuracy:.2} of {} held-out pairs ranked right", all.n_pairs),
        format!("  {interval}chance is 0.50"),
    ]
}

/// The first open questions, each with the answers of the first and the last model below it.
fn open_answers(evaluations: &[Evaluation]) -> Vec<String> {
    let [before, .., after] = evaluations else { return Vec::new() };
    let n_all = before.open_answers.len();
    let mut lines = Vec::new();
    for question in before.open_answers.iter().take(N_QUESTIONS) {
        let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
        table.row(["prompt", &one_line(&question.prompt, N_SHOWN)]);
        for evaluation in [before, after] {
            if let Some(answer) = evaluation.open_answers.iter().find(|answer| answer.id == question.id) {
                table.row([evaluation.label.as_str(), &one_line(&answer.answer, N_SHOWN)]);
            }
        }
        lines.extend(table.lines());
        lines.push(String::new());
    }
    match n_all {
        0 => {}
        n if n > N_QUESTIONS => {
            lines.push(format!("({N_QUESTIONS} of {n} open questions; the report has all)"));
        }
        _ => drop(lines.pop()),
    }
    lines
}

/// One item of each set with the answer of every model side by side: the first that training made right, or else the
/// first.
fn graded_answers(evaluations: &[Evaluation]) -> Table {
    let [before, .., after] = evaluations else { return Table::new(&[]) };
    let labels = evaluations.iter().map(|evaluation| (evaluation.label.as_str(), Align::Left));
    let columns: Vec<(&str, Align)> = [("graded item", Align::Left)].into_iter().chain(labels).collect();
    let mut table = Table::new(&columns);
    let answer_of = |evaluation: &Evaluation, id: &str| -> Option<usize> {
        evaluation.answers.iter().position(|answer| answer.id == id)
    };
    for set in before.sets() {
        let of_set = || before.answers.iter().filter(|answer| answer.set == set.set);
        let is_gained = |answer: &&GradedAnswer| {
            let later = answer_of(after, &answer.id).map(|idx| after.answers[idx].is_right);
            !answer.is_right && later == Some(true)
        };
        let Some(item) = of_set().find(is_gained).or_else(|| of_set().next()) else { continue };
        let cells = evaluations.iter().map(|evaluation| match answer_of(evaluation, &item.id) {
            Some(idx) => {
                let answer = &evaluation.answers[idx];
                let grade = if answer.is_right { "pass" } else { "fail" };
                format!("{grade}: {}", one_line(&answer.answer, N_SHOWN_IN_CELL))
            }
            None => String::new(),
        });
        let prompt = one_line(&item.prompt, N_SHOWN_IN_CELL);
        table.row([prompt].into_iter().chain(cells));
    }
    table
}

#[cfg(test)]
mod tests {
    use truing_eval::pipeline::OpenAnswer;
    use truing_eval::reward::{RewardDiagnostics, RewardEvaluation, SourceDiagnostics};
    use truing_report::StageRecord;
    use truing_statistics::ShareInterval;

    use super::*;

    /// An evaluation in which the first items of one set are right.
    fn evaluation(label: &str, n_right: usize) -> Evaluation {
        let answer = |id: usize| GradedAnswer {
            id: id.to_string(),
            set: "instructions followed".into(),
            about: String::new(),
            prompt: String::new(),
            expected: String::new(),
            answer: format!("answer {id} {}", "of several words ".repeat(9)),
            is_right: id < n_right,
        };
        let open_answer = |id: usize| OpenAnswer {
            id: id.to_string(),
            prompt: format!("Question {id}?"),
            answer: format!("{label} {}", "many words and more ".repeat(20)),
        };
        Evaluation {
            label: label.into(),
            answers: (0..100).map(answer).collect(),
            open_answers: (0..6).map(open_answer).collect(),
            ..Evaluation::default()
        }
    }

    fn with_losses(evaluation: Evaluation, losses: [f64; 3]) -> Evaluation {
        Evaluation { heldout_items: losses.map(|loss| (10.0, loss)).to_vec(), ..evaluation }
    }

    fn record() -> RunRecord {
        let all = SourceDiagnostics {
            n_pairs: 114,
            accuracy: Some(0.85),
            accuracy_interval: Some(ShareInterval { low: 0.77, high: 0.9 }),
            ..SourceDiagnostics::default()
        };
        let diagnostics = RewardDiagnostics { all, ..RewardDiagnostics::default() };
        let reward = StageRecord {
            kind: "reward_model".into(),
            diagnostics: vec![RewardEvaluation { step: 60, diagnostics }],
            ..StageRecord::default()
        };
        RunRecord {
            stages: vec![reward],
            evaluations: vec![
                with_losses(evaluation("before", 10), [3.0, 2.0, 4.0]),
                with_losses(evaluation("after sft", 39), [2.0, 1.1, 2.9]),
                with_losses(evaluation("after grpo", 42), [1.9, 1.0, 2.8]),
            ],
            ..RunRecord::default()
        }
    }

    #[test]
    fn changes_have_intervals_by_each_stage_and_by_both_in_80_columns() {
        let lines = changes(&record()).lines();
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        let fields: Vec<Vec<&str>> = lines.iter().map(|line| line.split_whitespace().collect()).collect();
        // The mean of -1.0, -0.9 and -1.1 is -1, with Student's interval of half width 4.303 * 0.1 / sqrt(3).
        assert_eq!(
            fields[1],
            ["loss", "of", "conversations", "sft", "-1.000", "-1.248", "to", "-0.752", "better"]
        );
        let of_loss: Vec<(&str, &str)> = fields[1..4].iter().map(|row| (row[3], row[4])).collect();
        assert_eq!(of_loss, [("sft", "-1.000"), ("grpo", "-0.100"), ("both", "-1.100")]);
        let of_set: Vec<(&str, &str)> = fields[4..].iter().map(|row| (row[2], row[3])).collect();
        assert_eq!(of_set, [("sft", "+0.29"), ("grpo", "+0.03"), ("both", "+0.32")]);
        assert!(lines[4].ends_with("better") && lines[6].ends_with("better"), "{lines:#?}");
        let expected = [
            "reward model: 0.85 of 114 held-out pairs ranked right",
            "  95 % interval 0.77 to 0.90; chance is 0.50",
        ];
        assert_eq!(reward_order(&record()), expected);
    }

    #[test]
    fn graded_answers_of_all_models_are_side_by_side_in_80_columns() {
        let lines = graded_answers(&record().evaluations).lines();
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines[0].starts_with("graded item") && lines[0].ends_with("after grpo"), "{}", lines[0]);
        // The first item that the first model has wrong and the last one right.
        let grades: Vec<&str> = lines[1].split_whitespace().filter(|word| word.ends_with(':')).collect();
        assert_eq!(grades, ["fail:", "pass:", "pass:"]);
        assert_eq!(lines.join(" ").matches("answer 10").count(), 3, "{lines:#?}");
        assert!(graded_answers(&[]).lines().is_empty());
    }

    #[test]
    fn answers_are_below_each_other_in_80_columns() {
        let lines = open_answers(&record().evaluations);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        let begin = |text: &str| lines.iter().filter(|line| line.starts_with(text)).count();
        assert_eq!(["prompt", "before ", "after grpo", "after sft"].map(begin), [3, 3, 3, 0]);
        assert!(lines[0].ends_with("Question 0?"), "{}", lines[0]);
        assert_eq!(lines.last().unwrap(), "(3 of 6 open questions; the report has all)");
        assert!(open_answers(&[]).is_empty());
    }
}
