//! `truing pipeline iterate`: reads the newest evaluation by category, proposes the next mix of prompts with the
//! evidence, and stops where a turn shows nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use truing_eval::benchmarks::{MetricInfo, MetricSummary, Summary};
use truing_eval::comparison::{Finding, MetricComparison, RunPair};
use truing_eval::results::{RESULTS, read_results};
use truing_pipeline::{
    CategoryEvidence, CategoryScore, Host as _, NewTurn, Pipeline, ProposedShare, ShareReason, State,
    TurnDecision, TurnEvaluation, TurnStep, Turns, counts_of, mean_score, propose_mix, quotas_of,
    with_quotas,
};
use truing_store::atomic;

use super::host::ProgramHost;
use super::{Arguments, Opened};
use crate::Context;
use crate::outcome::{Outcome, WithHint as _};
use crate::printer::{Style, clean_path};
use crate::table::{Align, Table};

/// Arguments of `truing pipeline iterate`.
#[derive(Debug, Args)]
pub(crate) struct IterateArguments {
    #[command(flatten)]
    shared: Arguments,
    /// The `select` stage whose `selection.quotas` are the mix. Needed where several stages have quotas.
    #[arg(long, value_name = "STAGE")]
    select: Option<String>,
    /// The `evaluate` stage. Needed where several depend on the selection.
    #[arg(long, value_name = "STAGE")]
    evaluation: Option<String>,
    /// The benchmark. Default: the one with the most categories that have a quota.
    #[arg(long)]
    task: Option<String>,
    /// What the items are divided by. Default: the one with the most categories that have a quota.
    #[arg(long)]
    dimension: Option<String>,
    /// Largest change of a share in one turn, as a part of it.
    #[arg(long, value_name = "PART", default_value_t = 0.2)]
    max_change: f64,
    /// Propose a mix also where the turn shows no gain over the one before.
    #[arg(long)]
    force: bool,
    /// Change the recipe itself, instead of writing the next one beside it.
    #[arg(long)]
    apply: bool,
}

/// What an evaluation says of the categories of a mix.
#[derive(Debug, Clone, PartialEq)]
struct Evidence {
    task: String,
    dimension: String,
    metric: MetricInfo,
    score: Option<CategoryScore>,
    categories: Vec<CategoryEvidence>,
    /// Categories of the evaluation that have no quota.
    without_quota: Vec<String>,
}

/// What came of a turn.
struct Outlook<'a> {
    number: usize,
    evidence: &'a Evidence,
    shares: &'a [ProposedShare],
    step: Option<TurnStep>,
    decision: TurnDecision,
    /// The turn before.
    before: Option<usize>,
    /// The quotas of the next turn, and where they were written.
    next: Option<(BTreeMap<String, u64>, PathBuf)>,
}

/// Runs the command.
pub(super) fn run(arguments: &IterateArguments, context: &Context) -> anyhow::Result<Outcome> {
    let max_change = arguments.max_change;
    if !(max_change > 0.0 && max_change < 1.0) {
        bail!("`--max-change` is {max_change}, expected a number above 0 and below 1");
    }
    let recipe = &arguments.shared.recipe;
    let host = ProgramHost::new(context, None);
    let Opened { pipeline, store, plan, .. } = Opened::open(recipe, &host)?;
    let text = fs::read_to_string(recipe).with_context(|| clean_path(recipe))?;
    let (select, quotas) = mix_of(&pipeline, &text, arguments.select.as_deref())?;
    let evaluation = evaluation_of(&pipeline, select, arguments.evaluation.as_deref())?;
    let planned = &plan.stages[evaluation];
    let (State::UpToDate, Some(key)) = (&planned.state, planned.key) else {
        return Err(anyhow::anyhow!("the evaluation `{}` is not up to date with the recipe", planned.name))
            .hint(|| format!("`truing pipeline apply {}` runs what is missing", clean_path(recipe)));
    };
    let folder = store.run_folder(key);
    let records = read_results(&folder)?;
    let summaries: Vec<(&str, &Summary)> =
        records.iter().map(|record| (record.task.as_str(), &record.summary)).collect();
    let wanted = (arguments.task.as_deref(), arguments.dimension.as_deref());
    let evidence = evidence(&summaries, &quotas, wanted)?;
    let mut turns = Turns::read(&pipeline)?;
    let before = turns.before(key).cloned();
    let (step, decision) = match &before {
        None => (None, TurnDecision::First),
        Some(before) => {
            let measured = (&before.select, &before.evaluation.stage, &before.evaluation.task);
            let is_same = measured == (&pipeline.stages[select].name, &planned.name, &evidence.task);
            let earlier = is_same.then_some(before.evaluation.key);
            compare(earlier.map(|key| store.run_folder(key)).as_deref(), &folder, &evidence)?
        }
    };
    let stops = decision.is_stop() && !arguments.force;
    // Without a next turn the shares stay; the reasons are recorded all the same.
    let shares = propose_mix(&evidence.categories, if stops { 0.0 } else { max_change });
    let number = turns.record(NewTurn {
        unix_secs: host.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        select: pipeline.stages[select].name.clone(),
        evaluation: TurnEvaluation {
            stage: planned.name.clone(),
            key,
            task: evidence.task.clone(),
            dimension: evidence.dimension.clone(),
            metric: evidence.metric.name.to_string(),
        },
        score: evidence.score,
        categories: shares.clone(),
        step,
        decision,
    })?;
    let changed = next_quotas(&shares, &quotas).filter(|_| !stops);
    let next = changed.map(|quotas| {
        let path = if arguments.apply { recipe.clone() } else { next_path(recipe, number + 1) };
        write_next(&path, &text, &pipeline, select, &quotas, arguments.apply).map(|()| (quotas, path))
    });
    let outlook = Outlook {
        number,
        evidence: &evidence,
        shares: &shares,
        step,
        decision,
        before: before.map(|turn| turn.turn),
        next: next.transpose()?,
    };
    show(&outlook, &turns, arguments.shared.json, context)?;
    Ok(if outlook.next.is_some() { Outcome::Fine } else { Outcome::Finding })
}

/// The selection whose quotas are the mix, with them.
fn mix_of(
    pipeline: &Pipeline,
    text: &str,
    wanted: Option<&str>,
) -> anyhow::Result<(usize, BTreeMap<String, u64>)> {
    let hint = || -> String {
        "put `quota_column` and `quotas` of `selection` into `with` of a `select` stage: its quotas are the mix"
            .into()
    };
    if let Some(name) = wanted {
        let idx = pipeline.stage_index(name)?;
        let quotas = quotas_of(text, name).with_context(|| {
            format!("stage `{name}` has no `selection.quotas` in {}", pipeline.path().display())
        });
        return Ok((idx, quotas.hint(hint)?));
    }
    let with_quotas = pipeline.stages.iter().enumerate().filter(|(_, stage)| stage.uses == "select");
    let mut found: Vec<(usize, BTreeMap<String, u64>)> =
        with_quotas.filter_map(|(idx, stage)| Some((idx, quotas_of(text, &stage.name)?))).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let problem = format!("no stage of {} has `selection.quotas`", pipeline.path().display());
            Err(anyhow::anyhow!(problem)).hint(hint)
        }
        _ => {
            let names: Vec<&str> = found.iter().map(|(idx, _)| pipeline.stages[*idx].name.as_str()).collect();
            bail!("several stages have quotas: `--select` names one of {}", names.join(", "))
        }
    }
}

/// The evaluation that depends on a selection.
fn evaluation_of(pipeline: &Pipeline, select: usize, wanted: Option<&str>) -> anyhow::Result<usize> {
    let name = &pipeline.stages[select].name;
    let following = pipeline.downstream(select);
    if let Some(wanted) = wanted {
        let idx = pipeline.stage_index(wanted)?;
        if !following.contains(&idx) || pipeline.stages[idx].uses != "evaluate" {
            bail!("stage `{wanted}` is no evaluation that depends on `{name}`");
        }
        return Ok(idx);
    }
    let found: Vec<usize> =
        following.into_iter().filter(|&idx| pipeline.stages[idx].uses == "evaluate").collect();
    match found.as_slice() {
        [only] => Ok(*only),
        [] => bail!("no evaluation depends on `{name}`: what the mix gives is not measured"),
        several => {
            let names: Vec<&str> = several.iter().map(|&idx| pipeline.stages[idx].name.as_str()).collect();
            bail!("several evaluations depend on `{name}`: `--evaluation` names one of {}", names.join(", "))
        }
    }
}

/// What the results say of the categories that have quotas: those of the benchmark and dimension that are wanted, or
/// else of the pair with the most such categories.
fn evidence(
    results: &[(&str, &Summary)],
    quotas: &BTreeMap<String, u64>,
    (task, dimension): (Option<&str>, Option<&str>),
) -> anyhow::Result<Evidence> {
    let mut best: Option<(usize, Evidence)> = None;
    let mut seen = BTreeSet::new();
    for (name, summary) in results.iter().filter(|(name, _)| task.is_none_or(|task| task == *name)) {
        let Some(main) = summary.metrics.first() else { continue };
        let dimensions = summary.by_category.iter();
        for (of, categories) in
            dimensions.filter(|(of, _)| dimension.is_none_or(|dimension| dimension == *of))
        {
            seen.extend(categories.keys().map(String::as_str));
            let n_common = quotas.keys().filter(|quota| categories.contains_key(*quota)).count();
            if n_common > best.as_ref().map_or(0, |(n, _)| *n) {
                best = Some((n_common, evidence_of(name, of, main, categories, quotas)));
            }
        }
    }
    if let Some((_, found)) = best {
        return Ok(found);
    }
    let known = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let (found, wanted) =
        (known(seen.into_iter().collect()), known(quotas.keys().map(String::as_str).collect()));
    Err(anyhow::anyhow!("no category of the evaluation has a quota: categories {found}; quotas {wanted}")).hint(|| {
        "a `custom` benchmark divides its items by `category_columns`; their values have to be those of `quota_column`"
            .into()
    })
}

fn evidence_of(
    task: &str,
    dimension: &str,
    main: &MetricSummary,
    categories: &BTreeMap<String, Vec<MetricSummary>>,
    quotas: &BTreeMap<String, u64>,
) -> Evidence {
    let total: u64 = quotas.values().sum();
    let is_main = |summary: &&MetricSummary| summary.metric.key() == main.metric.key();
    let of_category = |name: &String| categories.get(name)?.iter().find(is_main).and_then(score_of);
    let of_quota = |(name, quota): (&String, &u64)| CategoryEvidence {
        name: name.clone(),
        share: *quota as f64 / total.max(1) as f64,
        score: of_category(name),
    };
    Evidence {
        task: task.to_owned(),
        dimension: dimension.to_owned(),
        metric: main.metric.clone(),
        score: score_of(main),
        categories: quotas.iter().map(of_quota).collect(),
        without_quota: categories.keys().filter(|name| !quotas.contains_key(*name)).cloned().collect(),
    }
}

/// A metric on a scale from 0 to 1 where more is better; `None` without a value, an interval or bounds.
fn score_of(summary: &MetricSummary) -> Option<CategoryScore> {
    let ([least, most], interval) = (summary.metric.range?, summary.interval?);
    let scaled = |value: f64| (value - least) / (most - least);
    let (score, low, high) = (scaled(summary.value?), scaled(interval.low), scaled(interval.high));
    let (score, low, high) = match summary.metric.higher_is_better {
        true => (score, low, high),
        false => (1.0 - score, 1.0 - high, 1.0 - low),
    };
    Some(CategoryScore { score, low, high, n_items: summary.n })
}

/// Compares a turn with the one before it, whose folder is `earlier`.
fn compare(
    earlier: Option<&Path>,
    folder: &Path,
    evidence: &Evidence,
) -> anyhow::Result<(Option<TurnStep>, TurnDecision)> {
    let Some(earlier) = earlier.filter(|earlier| earlier.join(RESULTS).is_file()) else {
        return Ok((None, TurnDecision::NotCompared));
    };
    let pair = RunPair::read(earlier, folder).hint(|| {
        "turns are compared on the same items with the same scoring: leave the evaluation as it is".into()
    })?;
    let is_main = |comparison: &&MetricComparison| {
        comparison.task == evidence.task && comparison.metric.key() == evidence.metric.key()
    };
    let Some(comparison) = pair.comparisons().find(is_main) else {
        return Ok((None, TurnDecision::NotCompared));
    };
    let interval = comparison.interval();
    let step = TurnStep {
        difference: comparison.difference.estimate.mean,
        low: interval.map(|interval| interval.low),
        high: interval.map(|interval| interval.high),
        p_value: comparison.p_adjusted.unwrap_or(comparison.p_value),
        n_items: comparison.n,
        resolvable: comparison.resolvable,
    };
    let decision = match comparison.finding() {
        Finding::SecondBetter => TurnDecision::GoOn,
        Finding::FirstBetter => TurnDecision::Worse,
        Finding::Unresolved => TurnDecision::NotResolved,
    };
    Ok((Some(step), decision))
}

/// The quotas of the proposed shares; `None` where they are those of this turn.
fn next_quotas(shares: &[ProposedShare], quotas: &BTreeMap<String, u64>) -> Option<BTreeMap<String, u64>> {
    let proposed: Vec<f64> = shares.iter().map(|share| share.proposed).collect();
    let counts = counts_of(&proposed, quotas.values().sum());
    let next: BTreeMap<String, u64> =
        shares.iter().map(|share| share.evidence.name.clone()).zip(counts).collect();
    (next != *quotas).then_some(next)
}

/// The recipe of a turn: beside the present one, whose name may have the number of its turn.
fn next_path(recipe: &Path, turn: usize) -> PathBuf {
    let stem = recipe.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let base = match stem.rsplit_once(".turn-") {
        Some((base, number)) if number.parse::<usize>().is_ok() => base,
        _ => stem.as_str(),
    };
    recipe.with_file_name(format!("{base}.turn-{turn}.toml"))
}

/// Writes the recipe of the next turn. A file that is there with other contents is replaced only if `replaces`.
fn write_next(
    path: &Path,
    text: &str,
    pipeline: &Pipeline,
    select: usize,
    quotas: &BTreeMap<String, u64>,
    replaces: bool,
) -> anyhow::Result<()> {
    // A recipe of another name would be another pipeline.
    let name = (!replaces).then_some(pipeline.name.as_str());
    let next = with_quotas(text, name, &pipeline.stages[select].name, quotas)
        .with_context(|| format!("the quotas of {} cannot be edited", clean_path(pipeline.path())))?;
    if !replaces && path.exists() && !fs::read_to_string(path).is_ok_and(|there| there == next) {
        return Err(anyhow::anyhow!("{} is there already, with other contents", clean_path(path)))
            .hint(|| "remove or rename it; a recipe that people may have edited is not replaced".into());
    }
    atomic::write(path, next.as_bytes())?;
    Ok(())
}

/// Why a share is proposed, in words.
fn reason(share: &ProposedShare, mean: f64) -> String {
    match share.reason {
        ShareReason::Weak => format!("below the mean {mean:.3}"),
        ShareReason::Strong => format!("above the mean {mean:.3}"),
        ShareReason::Unresolved => format!("not resolved from the mean {mean:.3}"),
        ShareReason::NoScore => "no score with an interval".into(),
    }
}

/// The decision of a turn, in words.
pub(super) fn decision_text(decision: TurnDecision) -> &'static str {
    match decision {
        TurnDecision::First => "the first turn: there is nothing to compare it with",
        TurnDecision::GoOn => "better than the turn before",
        TurnDecision::NotResolved => "stop: a difference from the turn before is not shown",
        TurnDecision::Worse => "stop: worse than the turn before",
        TurnDecision::NotCompared => {
            "not compared: the turn before measured something else, or its results are gone"
        }
    }
}

/// A difference with its interval and what its items resolve.
pub(super) fn step_text(step: &TurnStep) -> String {
    let interval = match (step.low, step.high) {
        (Some(low), Some(high)) => format!(" [{low:+.3}, {high:+.3}]"),
        _ => String::new(),
    };
    let resolvable = match step.resolvable {
        Some(smallest) => format!("resolve {smallest:.3}"),
        None => "resolve no difference".into(),
    };
    format!("{:+.3}{interval}, p = {:.3}; {} items {resolvable}", step.difference, step.p_value, step.n_items)
}

fn show(outlook: &Outlook<'_>, turns: &Turns, as_json: bool, context: &Context) -> anyhow::Result<()> {
    let (printer, evidence) = (&context.printer, outlook.evidence);
    let mean = mean_score(&evidence.categories);
    if as_json {
        let quotas = outlook.next.as_ref().map(|(quotas, _)| quotas);
        let recipe = outlook.next.as_ref().map(|(_, path)| path);
        return printer.json(&json!({
            "turn": outlook.number, "task": evidence.task, "dimension": evidence.dimension,
            "metric": evidence.metric.name, "score": evidence.score, "mean_of_categories": mean,
            "categories": outlook.shares, "without_quota": evidence.without_quota, "step": outlook.step,
            "decision": outlook.decision, "quotas": quotas, "recipe": recipe, "history": turns.path(),
        }));
    }
    let columns = [
        ("category", Align::Left),
        ("score", Align::Right),
        ("95 % interval", Align::Right),
        ("items", Align::Right),
        ("share", Align::Right),
        ("proposed", Align::Right),
        ("why", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for share in outlook.shares {
        let (mut score, mut interval, mut n_items) = (String::new(), String::new(), String::new());
        if let Some(found) = &share.evidence.score {
            score = format!("{:.3}", found.score);
            interval = format!("{:.3} to {:.3}", found.low, found.high);
            n_items = found.n_items.to_string();
        }
        table.row([
            share.evidence.name.clone(),
            score,
            interval,
            n_items,
            format!("{:.3}", share.evidence.share),
            format!("{:.3}", share.proposed),
            reason(share, mean),
        ]);
    }
    let (task, metric) = (&evidence.task, &evidence.metric.name);
    printer.line(format_args!("turn {}: {task}, {metric}, by {}", outlook.number, evidence.dimension))?;
    printer.line("")?;
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    if !evidence.without_quota.is_empty() {
        printer.line(format_args!("without a quota: {}", evidence.without_quota.join(", ")))?;
    }
    if let (Some(step), Some(before)) = (&outlook.step, outlook.before) {
        printer.line(format_args!("against turn {before}: {}", step_text(step)))?;
    }
    printer.line(printer.styled(Style::Bold, decision_text(outlook.decision)))?;
    match &outlook.next {
        Some((_, path)) => printer.line(format_args!("next recipe  {}", clean_path(path)))?,
        None if outlook.decision.is_stop() => {}
        None => printer.line("no share changes: no category's distance from the mean is resolved")?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use truing_statistics::Interval;

    use super::*;
    use crate::environment::Environment;
    use crate::local_engine::DeviceChoice;
    use crate::printer::Printer;

    fn metric(value: f64, half: f64, higher_is_better: bool) -> MetricSummary {
        MetricSummary {
            metric: MetricInfo { higher_is_better, ..MetricInfo::share("acc") },
            value: Some(value),
            standard_error: None,
            interval: Some(Interval { low: value - half, high: value + half }),
            interval_kind: None,
            n: 50,
            unscored: BTreeMap::new(),
            bounds: None,
            n_clusters: 50,
            variance: None,
        }
    }

    fn summary(categories: &[(&str, f64)]) -> Summary {
        let of = |value: f64| vec![metric(value, 0.05, true)];
        let by: BTreeMap<String, Vec<MetricSummary>> =
            categories.iter().map(|(name, value)| ((*name).to_owned(), of(*value))).collect();
        Summary {
            metrics: of(0.5),
            by_category: [("topic".to_owned(), by)].into(),
            n_unread: BTreeMap::new(),
            n_cut: 0,
            n_items: 100,
            n_seeds: 1,
            judge: None,
        }
    }

    fn quotas(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, quota)| ((*name).to_owned(), *quota)).collect()
    }

    #[test]
    fn the_dimension_with_the_categories_of_the_mix_is_read() {
        let (other, found) = (
            summary(&[("easy", 0.9), ("math", 0.1)]),
            summary(&[("math", 0.2), ("code", 0.8), ("role", 0.5)]),
        );
        let results = [("first", &other), ("second", &found)];
        let mix = quotas(&[("math", 60), ("code", 20), ("chat", 20)]);
        let evidence = evidence(&results, &mix, (None, None)).unwrap();
        assert_eq!((evidence.task.as_str(), evidence.dimension.as_str()), ("second", "topic"));
        assert_eq!(evidence.without_quota, ["role"]);
        let names: Vec<&str> = evidence.categories.iter().map(|category| category.name.as_str()).collect();
        assert_eq!(names, ["chat", "code", "math"]);
        assert_eq!(evidence.categories[2].share, 0.6);
        assert_eq!(evidence.categories[2].score.map(|score| score.n_items), Some(50));
        assert_eq!(evidence.categories[0].score, None);
        let shares = propose_mix(&evidence.categories, 0.2);
        let next = next_quotas(&shares, &mix).unwrap();
        assert_eq!(next.values().sum::<u64>(), 100);
        assert!(next["math"] > 60 && next["code"] < 20, "{next:?}");
        assert_eq!(next_quotas(&propose_mix(&evidence.categories, 0.0), &mix), None);
    }

    #[test]
    fn an_evaluation_without_the_categories_is_an_error_that_names_both() {
        let found = summary(&[("easy", 0.9)]);
        let error =
            evidence(&[("task", &found)], &quotas(&[("math", 1)]), (None, None)).unwrap_err().to_string();
        assert!(error.contains("categories easy; quotas math"), "{error}");
        let other = evidence(&[("task", &found)], &quotas(&[("easy", 1)]), (Some("none"), None)).unwrap_err();
        assert!(other.to_string().contains("categories none"), "{other}");
    }

    #[test]
    fn scores_are_better_when_larger_and_lie_between_0_and_1() {
        let error_rate = score_of(&metric(0.25, 0.125, false)).unwrap();
        assert_eq!((error_rate.score, error_rate.low, error_rate.high), (0.75, 0.625, 0.875));
        let mut grade = metric(5.5, 0.9, true);
        grade.metric.range = Some([1.0, 10.0]);
        assert!((score_of(&grade).unwrap().score - 0.5).abs() < 1e-12);
        grade.metric.range = None;
        assert_eq!(score_of(&grade), None);
    }

    #[test]
    fn the_next_recipe_is_written_beside_the_present_one() {
        let context = Context {
            printer: Printer::new(true, true),
            environment: Environment::default(),
            n_threads: 1,
            device: DeviceChoice::default(),
            place: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let recipe = folder.path().join("songs.toml");
        let text = "[stages.select]\nuses = \"select\"\n\n[stages.select.with.selection]\n\
                    quotas = { math = 6, code = 4 } # the mix\n";
        fs::write(&recipe, text).unwrap();
        let pipeline = super::super::read(&recipe, &ProgramHost::new(&context, None)).unwrap();
        let (select, mix) = mix_of(&pipeline, text, None).unwrap();
        assert_eq!((select, &mix), (0, &quotas(&[("math", 6), ("code", 4)])));
        let error = evaluation_of(&pipeline, select, None).unwrap_err().to_string();
        assert!(error.contains("no evaluation depends on `select`"), "{error}");
        let (next, path) = (quotas(&[("math", 7), ("code", 3)]), next_path(&recipe, 2));
        let write = |replaces| write_next(&path, text, &pipeline, select, &next, replaces);
        write(false).unwrap();
        let in_place = text.replace("math = 6, code = 4", "math = 7, code = 3");
        let expected = format!("[pipeline]\nname = \"songs\"\n\n{in_place}");
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        write(false).unwrap();
        fs::write(&path, "# mine\n").unwrap();
        assert!(write(false).unwrap_err().to_string().contains("is there already"));
        write(true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), in_place);
    }

    #[test]
    fn the_next_recipe_has_the_number_of_its_turn() {
        let name = |recipe: &str, turn: usize| next_path(Path::new(recipe), turn);
        assert_eq!(name("a/songs.toml", 2), Path::new("a/songs.turn-2.toml"));
        assert_eq!(name("a/songs.turn-2.toml", 3), Path::new("a/songs.turn-3.toml"));
        assert_eq!(name("songs.turn-x.toml", 2), Path::new("songs.turn-x.turn-2.toml"));
    }
}
