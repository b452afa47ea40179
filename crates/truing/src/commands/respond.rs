//! `truing respond`: responses sampled from models, filtered, scored and selected, as a recipe says.

use std::path::Path;

use serde_json::json;
use truing_construct::respond::{
    Fate, PromptFate, RespondOutcome, RespondPlan, RespondStage, RespondSummary,
};
use truing_stages::{StageError, StagePlan};

use super::judging::{self, share};
use super::stage::{RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;
use crate::table::{Align, Table};

impl StageCommand for RespondStage {
    const KIND: RunKind = judging::KIND;

    fn announce(plan: &RespondPlan, context: &Context) {
        context.printer.note(plan.summary());
        let prompt_tokens = plan.models.iter().map(|model| model.prompt_tokens).sum();
        let completion_tokens = plan.models.iter().map(|model| model.completion_tokens).sum();
        judging::announce_tokens(prompt_tokens, completion_tokens, context);
    }

    fn advice(error: &StageError, folder: &Path) -> Option<String> {
        judging::advice(error, folder, Some("model.0.cache"))
    }

    fn finish(
        outcome: RespondOutcome,
        _: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let RespondOutcome { candidates, responses, prompts, summary } = outcome;
        if as_json {
            context.printer.json(&json!({
                "status": "finished", "summary": summary, "candidates": candidates, "responses": responses,
                "prompts": prompts,
            }))?;
        } else {
            print(&summary, context)?;
            let files = [
                ("candidates", Some(&candidates)),
                ("responses", Some(&responses)),
                ("prompts", prompts.as_ref()),
            ];
            for (name, path) in files.into_iter().filter_map(|(name, path)| Some((name, path?))) {
                context.printer.line(format_args!("{name:<10}  {}", clean_path(path)))?;
            }
        }
        let count = |fate: Fate| summary.candidates.get(&fate).copied().unwrap_or(0);
        let n_missing = count(Fate::Failed) + count(Fate::Unscored);
        Ok(judging::outcome(2 * n_missing > summary.n_candidates))
    }
}

fn print(summary: &RespondSummary, context: &Context) -> anyhow::Result<()> {
    let right = Align::Right;
    let mut fates = Table::new(&[("", Align::Left), ("responses", right), ("prompts", right)]);
    let named: [(&str, &[Fate], Option<PromptFate>); 12] = [
        ("accepted", &[Fate::Accepted], Some(PromptFate::Accepted)),
        ("not selected", &[Fate::NotSelected, Fate::Surplus], Some(PromptFate::NoneSelected)),
        ("prompt answered well already", &[Fate::AnsweredWell], Some(PromptFate::AnsweredWell)),
        ("not scored", &[Fate::Unscored], Some(PromptFate::Unscored)),
        ("surplus refusal", &[Fate::SurplusRefusal], None),
        ("near-duplicate", &[Fate::NearDuplicate], None),
        ("cut at max_new_tokens", &[Fate::Cut], None),
        ("empty, filtered or a tool call", &[Fate::Empty, Fate::Filtered, Fate::ToolCalls], None),
        ("failed", &[Fate::Failed], None),
        ("no response can be used", &[], Some(PromptFate::NoResponse)),
        ("not sampled", &[Fate::NotSampled], Some(PromptFate::NotSampled)),
        ("repeats an earlier row", &[], Some(PromptFate::Repeated)),
    ];
    for (name, of_responses, of_prompts) in named {
        let n: usize = of_responses.iter().filter_map(|fate| summary.candidates.get(fate)).sum();
        let n_prompts = of_prompts.map(|fate| summary.prompts.get(&fate).copied().unwrap_or(0));
        if n > 0 || n_prompts.is_some_and(|n| n > 0) {
            let cell = |n: Option<usize>| n.map_or_else(String::new, |n| n.to_string());
            let n = Some(n).filter(|_| !of_responses.is_empty());
            fates.row([name.to_owned(), cell(n), cell(n_prompts)]);
        }
    }
    let mut samplers = Table::new(&[
        ("model", Align::Left),
        ("decoding", Align::Left),
        ("replies", right),
        ("tokens", right),
        ("mean score", right),
        ("accepted", right),
        ("refusals", right),
    ]);
    for sampler in &summary.samplers {
        samplers.row([
            sampler.model.clone(),
            sampler.decoding.clone(),
            sampler.n_replies.to_string(),
            sampler.n_tokens.to_string(),
            share(sampler.mean_score),
            share(sampler.accepted_share),
            share(sampler.refusal_share),
        ]);
    }
    for line in fates.lines().into_iter().chain(samplers.lines()) {
        context.printer.line(line)?;
    }
    if let Some(n) = summary.n_in_pass_rate {
        context.printer.line(format_args!("{n} prompts have a pass rate in the range"))?;
    }
    if let Some(cost) = summary.cost {
        context.printer.line(format_args!("cost of the samples: {cost:.2}"))?;
        if summary.n_accepted > 0 {
            let per_response = cost / summary.n_accepted as f64;
            context.printer.line(format_args!("cost per accepted response: {per_response:.4}"))?;
        }
    }
    Ok(())
}
