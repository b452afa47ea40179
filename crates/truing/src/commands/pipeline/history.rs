//! `truing pipeline history`: the turns of a pipeline with their scores, differences and mixes.

use std::collections::BTreeSet;

use serde_json::json;
use truing_pipeline::{CategoryScore, Turn, TurnDecision, Turns};

use super::Arguments;
use super::host::ProgramHost;
use super::iterate::step_text;
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;
use crate::table::{Align, Table};

/// Turns whose shares are shown side by side.
const N_SHOWN: usize = 5;

/// Runs the command.
pub(super) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    let pipeline = super::read(&arguments.recipe, &ProgramHost::new(context, None))?;
    let turns = Turns::read(&pipeline)?;
    let printer = &context.printer;
    if arguments.json {
        printer.json(&json!({ "pipeline": pipeline.name, "history": turns.path(), "turns": turns.turns }))?;
        return Ok(Outcome::Fine);
    }
    if turns.turns.is_empty() {
        let recipe = clean_path(&arguments.recipe);
        printer.line(format_args!("no turns yet: `truing pipeline iterate {recipe}` records one"))?;
        return Ok(Outcome::Fine);
    }
    for line in scores(&turns.turns).lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    for line in shares(&turns.turns).lines() {
        printer.line(line)?;
    }
    for turn in &turns.turns {
        if let Some(step) = &turn.step {
            printer.line(format_args!("turn {} against the one before: {}", turn.turn, step_text(step)))?;
        }
    }
    Ok(Outcome::Fine)
}

/// One row a turn.
fn scores(turns: &[Turn]) -> Table {
    let mut table = Table::new(&[
        ("turn", Align::Right),
        ("recorded", Align::Left),
        ("recipe", Align::Left),
        ("metric", Align::Left),
        ("score", Align::Right),
        ("95 % interval", Align::Right),
        ("decision", Align::Left),
    ]);
    for turn in turns {
        let interval = |score: &CategoryScore| format!("{:.3} to {:.3}", score.low, score.high);
        table.row([
            turn.turn.to_string(),
            date(turn.unix_secs),
            turn.recipe.clone(),
            turn.evaluation.metric.clone(),
            turn.score.as_ref().map_or_else(String::new, |score| format!("{:.3}", score.score)),
            turn.score.as_ref().map_or_else(String::new, interval),
            word(turn.decision).to_owned(),
        ]);
    }
    table
}

/// The share of each category in the last turns and in the proposed one, with its last score.
fn shares(turns: &[Turn]) -> Table {
    let shown = &turns[turns.len().saturating_sub(N_SHOWN)..];
    let headings: Vec<String> = shown.iter().map(|turn| format!("turn {}", turn.turn)).collect();
    let mut columns = vec![("category", Align::Left)];
    columns.extend(headings.iter().map(|heading| (heading.as_str(), Align::Right)));
    columns.extend([("next", Align::Right), ("score", Align::Right)]);
    let mut table = Table::new(&columns);
    let names: BTreeSet<&str> = shown
        .iter()
        .flat_map(|turn| turn.categories.iter().map(|category| category.evidence.name.as_str()))
        .collect();
    for name in names {
        let of =
            |turn: &Turn| turn.categories.iter().find(|category| category.evidence.name == name).cloned();
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
        let mut cells = vec![name.to_owned()];
        cells.extend(shown.iter().map(|turn| number(of(turn).map(|category| category.evidence.share))));
        let last = shown.last().and_then(of);
        cells.push(number(last.as_ref().map(|category| category.proposed)));
        cells.push(number(last.and_then(|category| Some(category.evidence.score?.score))));
        table.row(cells);
    }
    table
}

/// A turn's decision in a word or two.
fn word(decision: TurnDecision) -> &'static str {
    match decision {
        TurnDecision::First => "first",
        TurnDecision::GoOn => "better",
        TurnDecision::NotResolved => "not shown",
        TurnDecision::Worse => "worse",
        TurnDecision::NotCompared => "not compared",
    }
}

/// The day of a time.
fn date(unix_secs: u64) -> String {
    let time = i64::try_from(unix_secs).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    time.map_or_else(String::new, |time| time.to_string().chars().take(10).collect())
}

#[cfg(test)]
mod tests {
    use truing_pipeline::{CategoryEvidence, ProposedShare, ShareReason};

    use super::*;

    fn turn(number: usize, share: f64) -> Turn {
        let score = CategoryScore { score: 0.5, low: 0.4, high: 0.6, n_items: 90 };
        let categories = [("math", share), ("code", 1.0 - share)].map(|(name, share)| ProposedShare {
            evidence: CategoryEvidence { name: name.into(), share, score: Some(score) },
            proposed: share,
            reason: ShareReason::Unresolved,
        });
        let key = "0".repeat(64);
        serde_json::from_value(json!({
            "format_version": 1, "turn": number, "unix_secs": 1_700_000_000, "recipe": "songs.toml",
            "select": "select", "score": score, "categories": categories.to_vec(), "step": null, "decision": "first",
            "evaluation": { "stage": "e", "key": key, "task": "t", "dimension": "topic", "metric": "acc" },
        }))
        .unwrap()
    }

    #[test]
    fn turns_and_shares_are_tables() {
        let turns = [turn(1, 0.6), turn(2, 0.7)];
        let rows = scores(&turns).lines();
        assert!(rows[1].contains("2023-11-14") && rows[1].contains("0.400 to 0.600"), "{rows:?}");
        let rows = shares(&turns).lines();
        assert!(rows[0].contains("turn 1") && rows[0].contains("turn 2"), "{rows:?}");
        let math: Vec<&str> = rows[2].split_whitespace().collect();
        assert_eq!(math, ["math", "0.600", "0.700", "0.700", "0.500"]);
        let many: Vec<Turn> = (1..9).map(|number| turn(number, 0.5)).collect();
        let rows = shares(&many).lines();
        assert!(!rows[0].contains("turn 3") && rows[0].contains("turn 4"), "{rows:?}");
    }
}
