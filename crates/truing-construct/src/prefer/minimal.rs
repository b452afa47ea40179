//! Pairs that differ in one defect only: a model rewrites the best response of a prompt with a named defect, the edit
//! distance says how much it changed, and the pairwise judges compare the two in both orders. So a reward model
//! cannot learn style instead of the defect (SPaR, arXiv 2412.11605; CLAIR, arXiv 2408.06266, revises in the other
//! direction).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_ask::OpenChatModel;
use truing_ask::judging::{Asker, RetryPolicy, reason};
use truing_ask::preference::{Defect, questions, read_preference, read_rewritten};
use truing_run::{PromptSource, RunError};
use truing_stages::StageError;
use truing_types::{ChatRequest, EventSink, Message, Role, SamplingOptions, Seed};

use super::columns::{carried, dataset};
use super::config::{JudgeKind, MinimalDifference};
use super::inputs::{PreferInputs, PromptGroup};
use super::plan::{Call, PreferPlan, Shown};
use super::rules::{Decision, Fate, ranked};
use super::scores::{Scale, direct_preference};
use super::verdict::{Verdict, VerdictValue, comparisons};

/// The places of the original and of its copy in the verdicts of a pair.
pub(super) const ORIGINAL: usize = 0;
pub(super) const COPY: usize = 1;

/// One line of `minimal_pairs.jsonl`: the format `pair` of preferences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MinimalPair {
    /// The conversation to be answered.
    pub prompt: Vec<Message>,
    /// The best response of the prompt, an assistant's turn.
    pub chosen: Vec<Message>,
    /// Its copy with a defect.
    pub rejected: Vec<Message>,
    /// The defect.
    pub defect: Defect,
    /// Edit distance (Levenshtein) as a share of the longer of the two, in characters.
    pub edit_share: f64,
    /// The model that wrote the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_model: Option<String>,
    /// Where the prompt comes from.
    pub dataset: String,
    /// The comparisons of the two: place 0 is the original, place 1 the copy.
    pub verdicts: Vec<Verdict>,
    /// Where the prompt's row is.
    pub source: PromptSource,
    /// Other columns of the row.
    #[serde(flatten)]
    pub columns: Map<String, Value>,
}

/// The pairs in numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct MinimalSummary {
    /// Prompts with pairs, whose best response was to be rewritten.
    pub n_prompts: usize,
    /// Pairs.
    pub n_pairs: usize,
    /// Pairs by defect.
    pub defects: BTreeMap<Defect, usize>,
    /// Mean share that was edited.
    pub mean_edit_share: Option<f64>,
    /// Prompts without such a pair, by reason.
    pub dropped: BTreeMap<String, usize>,
}

/// A response to be rewritten.
struct Work<'a> {
    prompt: usize,
    group: &'a PromptGroup,
    original: usize,
    defect: Defect,
    /// The copy with its edit share, or why there is none.
    copy: Result<(String, f64), String>,
    verdicts: Vec<Verdict>,
}

impl Work<'_> {
    fn original(&self) -> &str {
        &self.group.responses[self.original].text
    }
}

/// Edit distance as a share of the longer text, in characters.
pub(super) fn edit_share(one: &str, other: &str) -> f64 {
    1.0 - strsim::normalized_levenshtein(one, other)
}

/// Rewrites and compares; `None` when the run is to stop. `models` are those of the recipe, the judges first.
///
/// # Errors
/// When the model that rewrites is missing, or a model refuses everything.
pub(super) fn make(
    plan: &PreferPlan,
    settings: &MinimalDifference,
    inputs: &PreferInputs,
    (decisions, scales): (&[Decision], &[Scale]),
    models: &[OpenChatModel],
    stop: &AtomicBool,
    events: &mut dyn EventSink,
) -> Result<Option<(Vec<MinimalPair>, MinimalSummary)>, StageError> {
    let mut work = planned(plan, settings, inputs, decisions);
    let judges = plan.config.judge.iter().zip(&plan.judges).zip(models);
    let rewriter = models.get(plan.judges.len()).ok_or(RunError::MissingSetting {
        key: "minimal_difference.model",
        expected: "a model that rewrites responses",
    })?;
    rewrite(plan, settings, &mut work, rewriter, events)?;
    for ((judge, judge_plan), model) in judges {
        let has_weight = scales.iter().any(|scale| scale.judge == judge_plan.name && scale.weight > 0.0);
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if judge.kind == JudgeKind::Pairwise && has_weight {
            compare(plan, &judge_plan.name, &mut work, model, events)?;
        }
    }
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    Ok(Some(finish(plan, scales, work)))
}

/// The best response of each prompt with pairs, and the defect that the seed chooses for it.
fn planned<'a>(
    plan: &PreferPlan,
    settings: &MinimalDifference,
    inputs: &'a PreferInputs,
    decisions: &[Decision],
) -> Vec<Work<'a>> {
    let work = |(prompt, (group, decision)): (usize, (&'a PromptGroup, &Decision))| {
        let original = *ranked(&decision.scores).first().filter(|_| decision.fate == Fate::Paired)?;
        let number = Seed(plan.config.seed).generator("defect", &[prompt as u64]).next_u64();
        let defect = settings.defects[(number % settings.defects.len() as u64) as usize];
        let copy = Err("not rewritten".to_owned());
        Some(Work { prompt, group, original, defect, copy, verdicts: Vec::new() })
    };
    inputs.groups.iter().zip(decisions).enumerate().filter_map(work).collect()
}

fn retries(plan: &PreferPlan) -> RetryPolicy {
    RetryPolicy {
        max_attempts: plan.config.max_attempts,
        max_failures_in_a_row: plan.config.max_failures_in_a_row,
    }
}

fn rewrite(
    plan: &PreferPlan,
    settings: &MinimalDifference,
    work: &mut [Work<'_>],
    model: &OpenChatModel,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let sampling = SamplingOptions {
        max_new_tokens: settings.max_new_tokens,
        temperature: settings.temperature,
        seed: plan.config.seed,
        ..SamplingOptions::default()
    };
    let request = |work: &Work<'_>| {
        let text = questions::worsen(work.defect, &work.group.question, work.original());
        questions::request(text, sampling.clone())
    };
    let requests = work.iter().map(request).collect();
    let originals: Vec<String> = work.iter().map(|work| work.original().to_owned()).collect();
    let read = |place: usize, reply: &str| read_rewritten(reply, &originals[place]);
    let name = settings.model.name();
    let asker = Asker::new(&name, model, retries(plan));
    let answers =
        asker.ask("rewriting with one defect", requests, questions::WORSEN_REMINDER, read, events)?;
    asker.note_counts(events);
    for (work, answer) in work.iter_mut().zip(answers) {
        work.copy = match answer {
            Err(error) => Err(reason(&error, "a rewritten response")),
            Ok(copy) => match edit_share(work.original(), &copy) {
                share if share > settings.max_edit_share => Err("edited more than `max_edit_share`".into()),
                share => Ok((copy, share)),
            },
        };
    }
    Ok(())
}

/// Lets a judge compare original and copy in both orders.
fn compare(
    plan: &PreferPlan,
    name: &str,
    work: &mut [Work<'_>],
    model: &OpenChatModel,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let sampling = SamplingOptions {
        max_new_tokens: plan.config.max_new_tokens,
        temperature: plan.config.temperature,
        seed: plan.config.seed,
        ..SamplingOptions::default()
    };
    let (mut asked, mut requests): (Vec<(usize, Call)>, Vec<ChatRequest>) = (Vec::new(), Vec::new());
    for (place, work) in work.iter().enumerate() {
        let Ok((copy, _)) = &work.copy else { continue };
        for order in [[ORIGINAL, COPY], [COPY, ORIGINAL]] {
            let text = |shown: usize| if shown == ORIGINAL { work.original() } else { copy.as_str() };
            let text = questions::pairwise(&work.group.question, text(order[0]), text(order[1]));
            requests.push(questions::request(text, sampling.clone()));
            asked.push((place, Call { prompt: work.prompt, shown: Shown::Two(order), is_repeat: false }));
        }
    }
    let read = |_: usize, reply: &str| Some((read_preference(reply)?, reply.to_owned()));
    let phase = format!("{name} compares originals and copies");
    let asker = Asker::new(name, model, retries(plan));
    let answers = asker.ask(&phase, requests, questions::PAIRWISE_REMINDER, read, events)?;
    for ((place, call), answer) in asked.into_iter().zip(answers) {
        if let Ok((preference, raw)) = answer {
            let value = VerdictValue::Preference(preference);
            work[place].verdicts.push(Verdict::of_reply(name, JudgeKind::Pairwise, &call, value, &raw));
        }
    }
    Ok(())
}

fn finish(plan: &PreferPlan, scales: &[Scale], work: Vec<Work<'_>>) -> (Vec<MinimalPair>, MinimalSummary) {
    let mut summary = MinimalSummary { n_prompts: work.len(), ..MinimalSummary::default() };
    let mut pairs = Vec::new();
    for Work { group, original, defect, copy, verdicts, .. } in work {
        let is_preferred = direct_preference(scales, &verdicts, ORIGINAL, COPY) > 0.0;
        let is_compared = !comparisons(&verdicts.iter().collect::<Vec<_>>()).is_empty();
        let (copy, edit_share) = match copy {
            Ok(copy) if is_preferred => copy,
            Ok(_) => {
                let reason = match is_compared {
                    true => "the judges do not prefer the original",
                    false => "no judge compared original and copy in both orders",
                };
                *summary.dropped.entry(reason.into()).or_default() += 1;
                continue;
            }
            Err(reason) => {
                *summary.dropped.entry(reason).or_default() += 1;
                continue;
            }
        };
        *summary.defects.entry(defect).or_default() += 1;
        let turn = |text: &str| vec![Message::new(Role::Assistant, text)];
        pairs.push(MinimalPair {
            prompt: group.prompt.messages.clone(),
            chosen: turn(&group.responses[original].text),
            rejected: turn(&copy),
            defect,
            edit_share,
            chosen_model: group.responses[original].model.clone(),
            dataset: dataset(&plan.config, group),
            verdicts,
            source: PromptSource::of(&group.origin),
            columns: carried_columns(group),
        });
    }
    summary.n_pairs = pairs.len();
    if !pairs.is_empty() {
        let sum: f64 = pairs.iter().map(|pair| pair.edit_share).sum();
        summary.mean_edit_share = Some(sum / pairs.len() as f64);
    }
    (pairs, summary)
}

fn carried_columns(group: &PromptGroup) -> Map<String, Value> {
    const FIELDS: [&str; 7] =
        ["defect", "edit_share", "chosen_model", "dataset", "verdicts", "source", "margin"];
    let mut columns = carried(group, |name| FIELDS.contains(&name));
    if !group.prompt.tools.is_empty() {
        columns.insert("tools".into(), group.prompt.tools.clone().into());
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edit_share_is_that_of_the_longer_text() {
        for (one, other, expected) in [
            ("kitten", "sitting", 3.0 / 7.0),
            ("It is 43.", "It is 44.", 1.0 / 9.0),
            ("北京。", "上海。", 2.0 / 3.0),
            ("same", "same", 0.0),
        ] {
            assert!((edit_share(one, other) - expected).abs() < 1e-12, "{one} {other}");
        }
    }
}
