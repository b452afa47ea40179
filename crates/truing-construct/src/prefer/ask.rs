//! The questions to one judge, and what it said.

use std::sync::atomic::{AtomicBool, Ordering};

use truing_ask::judging::{JudgeSession, NOT_ASKED, reason};
use truing_ask::preference::{Aspect, GoldenRating, Ratings, questions, read_preference};
use truing_types::ChatModel;

use super::config::{JudgeKind, PreferJudge};
use super::inputs::PreferInputs;
use super::plan::{Call, PreferPlan, request};
use super::verdict::{Verdict, VerdictValue};

/// Questions that are put together at a time.
const CALLS_OF_A_CHUNK: usize = 128;

/// What a judge said to a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// Its verdict.
    pub verdict: Verdict,
    /// Its reason; empty where it gave none.
    pub reason: String,
    /// The answer that the verdict was read from.
    pub raw: String,
}

/// A question to a judge, with what it said.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Place of the judge in the recipe.
    pub judge: usize,
    /// The question.
    pub call: Call,
    /// What it said, or why there is no verdict.
    pub said: Result<Said, String>,
}

/// Asks a judge everything; `None` when the run is to stop. A judge that keeps failing, or cannot be read, is asked
/// no more.
pub(super) fn ask_all(
    plan: &PreferPlan,
    inputs: &PreferInputs,
    judge_idx: usize,
    model: &dyn ChatModel,
    session: &mut JudgeSession<'_>,
    stop: &AtomicBool,
) -> Option<Vec<Reply>> {
    let judge = &plan.config.judge[judge_idx];
    let (aspects, reminder) = (judge.rated_aspects(), reminder(judge));
    let calls = &plan.judges[judge_idx].calls;
    let name = &plan.judges[judge_idx].name;
    let mut replies = Vec::with_capacity(calls.len());
    for chunk in calls.chunks(CALLS_OF_A_CHUNK) {
        if session.is_given_up() {
            let unasked = |&call: &Call| Reply { judge: judge_idx, call, said: Err(NOT_ASKED.into()) };
            replies.extend(chunk.iter().map(unasked));
            continue;
        }
        let requests = chunk.iter().map(|call| request(&plan.config, judge, inputs, call)).collect();
        let read = |_: usize, reply: &str| {
            read(judge.kind, &aspects, reply).map(|(value, reason)| (value, reason, reply.to_owned()))
        };
        let answers = session.ask(model, requests, &reminder, read);
        for (&call, answer) in chunk.iter().zip(answers) {
            session.was_read(answer.is_ok());
            let said = match answer {
                Ok((value, reason, raw)) => {
                    let verdict = Verdict::of_reply(name, judge.kind, &call, value, &raw);
                    Ok(Said { verdict, reason, raw })
                }
                Err(error) => Err(reason(&error, "a verdict")),
            };
            replies.push(Reply { judge: judge_idx, call, said });
        }
        if stop.load(Ordering::Relaxed) || session.is_refused() {
            return None;
        }
    }
    Some(replies)
}

/// The verdict of a reply with its reason.
fn read(kind: JudgeKind, aspects: &[Aspect], reply: &str) -> Option<(VerdictValue, String)> {
    match kind {
        JudgeKind::Absolute => {
            let Ratings { values, reason } = Ratings::read(reply, aspects)?;
            Some((VerdictValue::Aspects(values), reason))
        }
        JudgeKind::Pairwise => Some((VerdictValue::Preference(read_preference(reply)?), String::new())),
        JudgeKind::Golden => {
            let GoldenRating { rating, reason } = GoldenRating::read(reply)?;
            Some((VerdictValue::Number(f64::from(rating)), reason))
        }
    }
}

fn reminder(judge: &PreferJudge) -> String {
    match judge.kind {
        JudgeKind::Absolute => questions::absolute_reminder(&judge.rated_aspects()),
        JudgeKind::Pairwise => questions::PAIRWISE_REMINDER.to_owned(),
        JudgeKind::Golden => questions::GOLDEN_REMINDER.to_owned(),
    }
}
