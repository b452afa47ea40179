//! `truing rollouts`: the completions that a policy run was trained on, as a table or one in full.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use truing_run::rollouts;
use truing_types::{FinishReason, Rollout};

use crate::Context;
use crate::outcome::{Outcome, WithHint};
use crate::printer::Style;
use crate::table::{Align, Table};
use crate::units::one_line;

/// Characters of a text in the table.
const N_SHOWN: usize = 60;

/// Arguments of `truing rollouts`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The run's folder.
    run: PathBuf,
    /// The step. Default: the newest.
    #[arg(long)]
    step: Option<u64>,
    /// Only completions whose prompt or text contains this, ignoring case.
    #[arg(long)]
    search: Option<String>,
    /// Order of the table, highest first.
    #[arg(long)]
    sort: Option<Order>,
    /// Only the N with the highest reward.
    #[arg(long, value_name = "N", conflicts_with = "worst")]
    best: Option<usize>,
    /// Only the N with the lowest reward.
    #[arg(long, value_name = "N")]
    worst: Option<usize>,
    /// Show one completion in full, by its number in the table, counted from 0.
    #[arg(long, value_name = "IDX")]
    show: Option<usize>,
    /// Print the chosen completions as JSON Lines, with all their fields.
    #[arg(long, conflicts_with = "show")]
    json: bool,
}

/// What the table is ordered by.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// The reward; unscored completions last.
    Reward,
    /// The mean advantage.
    Advantage,
    /// KL from the reference.
    Kl,
    /// Tokens.
    Length,
}

/// Prints the table, or one completion.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let steps = rollouts::steps(&arguments.run).hint(|| {
        "`truing grpo` and `truing distill` keep completions in the run's folder, unless `keep_rollouts = false`".into()
    })?;
    let Some(&newest) = steps.last() else { bail!("{} holds no rollouts yet", arguments.run.display()) };
    let step = arguments.step.unwrap_or(newest);
    if !steps.contains(&step) {
        bail!("the run has no rollouts of step {step}, expected one from {} to {newest}", steps[0]);
    }
    let all = rollouts::read(&arguments.run, step)?;
    if let Some(idx) = arguments.show {
        let Some(rollout) = all.get(idx) else {
            bail!(
                "step {step} has no completion {idx}, expected one from 0 to {}",
                all.len().saturating_sub(1)
            );
        };
        return show(rollout, context);
    }
    let chosen = chosen(&all, arguments);
    let printer = &context.printer;
    if arguments.json {
        for (_, rollout) in chosen {
            printer.line(serde_json::to_string(rollout)?)?;
        }
        return Ok(Outcome::Fine);
    }
    let mut table = Table::new(&[
        ("#", Align::Right),
        ("prompt", Align::Right),
        ("reward", Align::Right),
        ("advantage", Align::Right),
        ("kl", Align::Right),
        ("tokens", Align::Right),
        ("end", Align::Left),
        ("text", Align::Left),
    ]);
    for (idx, rollout) in &chosen {
        table.row([
            idx.to_string(),
            rollout.prompt_idx.to_string(),
            number(rollout.reward),
            number(rollout.advantage),
            number(rollout.kl),
            rollout.tokens.len().to_string(),
            ending(rollout.finish_reason).to_owned(),
            one_line(&rollout.text, N_SHOWN),
        ]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    let shown = chosen.len();
    printer.line("")?;
    printer.line(format_args!(
        "step {step} of {} to {newest}: {shown} of {} completions; --show IDX prints one in full",
        steps[0],
        all.len()
    ))?;
    Ok(Outcome::Fine)
}

/// The completions that are asked for, with their indices, in the order that is asked for.
fn chosen<'a>(all: &'a [Rollout], arguments: &Arguments) -> Vec<(usize, &'a Rollout)> {
    let wanted = arguments.search.as_ref().map(|text| text.to_lowercase());
    let holds = |rollout: &Rollout| {
        wanted.as_ref().is_none_or(|wanted| {
            let mut texts = rollout.prompt.iter().map(|message| &message.content).chain([&rollout.text]);
            texts.any(|text| text.to_lowercase().contains(wanted))
        })
    };
    let mut chosen: Vec<(usize, &Rollout)> =
        all.iter().enumerate().filter(|(_, rollout)| holds(rollout)).collect();
    let order = match (arguments.sort, arguments.best.or(arguments.worst)) {
        (Some(order), _) => Some(order),
        (None, Some(_)) => Some(Order::Reward),
        (None, None) => None,
    };
    let by_reward = |rollout: &Rollout| key(rollout, Order::Reward).unwrap_or(f64::NAN);
    if let Some(n) = arguments.best.or(arguments.worst) {
        chosen.retain(|(_, rollout)| rollout.reward.is_some());
        chosen.sort_by(|(_, a), (_, b)| by_reward(b).total_cmp(&by_reward(a)));
        if arguments.worst.is_some() {
            chosen.reverse();
        }
        chosen.truncate(n);
    }
    if let Some(order) = order
        && (arguments.sort.is_some() || arguments.best.is_some())
    {
        let value = |rollout: &Rollout| key(rollout, order).unwrap_or(f64::NEG_INFINITY);
        chosen.sort_by(|(_, a), (_, b)| value(b).total_cmp(&value(a)));
    }
    chosen
}

fn key(rollout: &Rollout, order: Order) -> Option<f64> {
    match order {
        Order::Reward => rollout.reward,
        Order::Advantage => rollout.advantage,
        Order::Kl => rollout.kl,
        Order::Length => Some(rollout.tokens.len() as f64),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn ending(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfTurn => "ended",
        FinishReason::StopText => "stop text",
        FinishReason::Length => "cut off",
        FinishReason::Cancelled => "cancelled",
        FinishReason::ContentFilter => "filtered",
        FinishReason::Refusal => "refused",
        FinishReason::ToolCalls => "tool calls",
    }
}

fn show(rollout: &Rollout, context: &Context) -> anyhow::Result<Outcome> {
    let printer = &context.printer;
    let heading = |text: &str| printer.styled(Style::Bold, text);
    for message in &rollout.prompt {
        printer.line(heading(&format!("{:?}", message.role).to_lowercase()))?;
        printer.line(&message.content)?;
        printer.line("")?;
    }
    printer.line(heading("completion"))?;
    printer.line(&rollout.text)?;
    printer.line("")?;
    for line in facts(rollout).lines() {
        printer.line(line)?;
    }
    Ok(Outcome::Fine)
}

/// What is known of a completion beside its texts.
fn facts(rollout: &Rollout) -> Table {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    table.row(["row".to_owned(), rollout.origin.to_string()]);
    table.row(["sampled before step".to_owned(), rollout.step.to_string()]);
    if let Some(version) = rollout.weights_version {
        table.row(["by the weights of step".to_owned(), version.to_string()]);
    }
    table.row(["tokens".to_owned(), format!("{}, {}", rollout.tokens.len(), ending(rollout.finish_reason))]);
    table.row(["reward".to_owned(), number(rollout.reward)]);
    for (name, reward) in &rollout.rewards {
        table.row([format!("  {name}"), number(Some(*reward))]);
    }
    for (name, reason) in &rollout.unscored {
        table.row([format!("  {name}"), format!("none: {reason}")]);
    }
    table.row(["advantage, mean".to_owned(), number(rollout.advantage)]);
    table.row(["kl, sum".to_owned(), number(rollout.kl)]);
    let log_probs = &rollout.log_probs;
    let total = (!log_probs.is_empty()).then(|| log_probs.iter().map(|&value| f64::from(value)).sum::<f64>());
    table.row(["log-probability, sum".to_owned(), number(total)]);
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_completion_of_a_server_shows_its_weights_and_no_number_that_is_not_known() {
        let mut rollout: Rollout = serde_json::from_value(json!({
            "step": 4, "prompt_idx": 0, "sample_idx": 1, "origin": {"source": "a.jsonl", "line": 7},
            "prompt": [], "prompt_tokens": [1], "tokens": [5, 6], "text": "x", "finish_reason": "length",
            "log_probs": [-0.5, -1.0], "sampling_log_probs": [], "rewards": {"format": 1.0}, "unscored": {},
            "reward": 1.0, "advantage": null, "kl": null,
        }))
        .unwrap();
        let shown = |rollout: &Rollout| {
            let lines = facts(rollout).lines();
            lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert!(shown(&rollout).contains(&"log-probability, sum -1.500".to_owned()), "{:?}", shown(&rollout));
        assert!(!shown(&rollout).iter().any(|line| line.contains("weights")));
        (rollout.weights_version, rollout.log_probs) = (Some(2), Vec::new());
        for line in ["by the weights of step 2", "tokens 2, cut off", "log-probability, sum -"] {
            assert!(shown(&rollout).contains(&line.to_owned()), "{line}: {:?}", shown(&rollout));
        }
    }
}
