//! Tests of `judge.rs`.

use super::*;
use serde_json::{Map, json};
use std::sync::{Arc, Mutex};
use truing_types::{ChatReply, FinishReason, RowOrigin};

type Answer = Box<dyn Fn(&ChatRequest) -> Result<String, ChatError> + Send + Sync>;

/// Answers by a rule, and keeps what it was asked.
struct Scripted {
    answer: Answer,
    asked: Arc<Mutex<Vec<ChatRequest>>>,
}

impl ChatModel for Scripted {
    fn chat(
        &self,
        request: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        self.asked.lock().unwrap().push(request.clone());
        let text = (self.answer)(request)?;
        let finish_reason = FinishReason::EndOfTurn;
        Ok(ChatReply { text, finish_reason, ..ChatReply::default() })
    }
}

fn judged(
    config: JudgeConfig,
    texts: &[&str],
    answer: impl Fn(&ChatRequest) -> Result<String, ChatError> + Send + Sync + 'static,
) -> (Vec<Result<f64, Unscored>>, Vec<ChatRequest>) {
    let asked = Arc::default();
    let model = Scripted { answer: Box::new(answer), asked: Arc::clone(&asked) };
    let mut judge = Judge::new(config, Box::new(model)).unwrap();
    let prompt =
        Conversation { messages: vec![Message::new(Role::User, "Say {answer}.")], tools: Vec::new() };
    let columns: Map<String, Value> = json!({"reference": "gold"}).as_object().cloned().unwrap();
    let origin = RowOrigin { source: "rows".into(), line: 1 };
    let completion = |text| Completion {
        prompt: &prompt,
        text,
        n_tokens: 1,
        finish_reason: FinishReason::EndOfTurn,
        columns: &columns,
        origin: &origin,
    };
    let completions: Vec<Completion<'_>> = texts.iter().map(|&text| completion(text)).collect();
    let scores = judge.score(&completions);
    let asked = asked.lock().unwrap().clone();
    (scores, asked)
}

fn text(request: &ChatRequest) -> &str {
    &request.conversation.messages[0].content
}

#[test]
fn scores_are_read_in_many_forms() {
    let range = [1.0, 11.0];
    for (reply, expected) in [
        ("Good. [[6]]", Some(0.5)),
        ("[[11/11]]", Some(1.0)),
        ("[[6.0]] rather [[1]]", Some(0.0)),
        (r#"{"why": "so {so}", "score": 6}"#, Some(0.5)),
        (r#"```json {"score": "11"}```"#, Some(1.0)),
        (r#"{"a": {"score": 11}, "score": 6}"#, Some(1.0)),
        ("[[12]]", None),
        ("[[0]]", None),
        ("[[7/10]]", None),
        ("[[nan]]", None),
        ("[[inf]]", None),
        ("I like it: 7", None),
        ("", None),
    ] {
        assert_eq!(read_score(reply, range), expected, "{reply}");
    }
}

#[test]
fn a_score_becomes_a_share_of_the_range_and_the_answer_gives_no_places() {
    let config = JudgeConfig { range: [0.0, 10.0], ..JudgeConfig::default() };
    let (scores, asked) = judged(config, &["one {question}", "two"], |request| {
        Ok(if text(request).contains("<answer>\ntwo\n") { "[[10]]".into() } else { "well\n[[ 2.5 ]]".into() })
    });
    assert_eq!(scores, [Ok(0.25), Ok(1.0)]);
    assert_eq!(asked.len(), 2);
    assert!(text(&asked[0]).contains("<request>\nSay {answer}.\n</request>"));
    assert!(text(&asked[0]).contains("<answer>\none {question}\n</answer>"));
    assert!(text(&asked[0]).contains("from 0 (useless) to 10"), "{}", text(&asked[0]));
    assert!(!text(&asked[0]).contains("<reference>"));
    assert_eq!(asked[0].sampling.temperature, 0.0);
    let config = JudgeConfig { reference_column: Some("reference".into()), ..JudgeConfig::default() };
    let (_, asked) = judged(config, &["x"], |_| Ok("[[1]]".into()));
    assert!(text(&asked[0]).contains("<reference>\ngold\n</reference>"));
}

#[test]
fn what_cannot_be_read_is_asked_again_and_then_unscored() {
    let stubborn = |_: &ChatRequest| Ok("I would rather not say".to_owned());
    let config = JudgeConfig { max_attempts: 3, ..JudgeConfig::default() };
    let (scores, asked) = judged(config.clone(), &["x"], stubborn);
    let unscored = scores[0].clone().unwrap_err();
    assert_eq!(unscored.reason, UnscoredReason::JudgeFailed);
    assert_eq!(unscored.detail, "no verdict in 3 replies; the last ends with `I would rather not say`");
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[2].conversation.messages.len(), 5, "the model sees its own replies");
    let (scores, asked) = judged(config, &["x", "y"], |request| {
        Ok(if request.conversation.messages.len() == 1 { "hm".into() } else { "[[10]]".into() })
    });
    assert_eq!(scores, [Ok(1.0), Ok(1.0)]);
    assert_eq!(asked.len(), 4);
}

#[test]
fn a_judge_that_fails_is_no_zero() {
    let (scores, asked) = judged(JudgeConfig::default(), &["x"], |_| Err(ChatError::Failed("down".into())));
    let unscored = scores[0].clone().unwrap_err();
    assert_eq!(
        (unscored.reason, unscored.detail.as_str()),
        (UnscoredReason::JudgeFailed, "the model failed: down")
    );
    assert_eq!(asked.len(), 1);
}

#[test]
fn a_judge_that_refuses_everything_is_told_apart_from_one_that_is_down() {
    let refuses = |_: &ChatRequest| Err(ChatError::Refused("status 429: the balance is used up".into()));
    let (scores, asked) = judged(JudgeConfig::default(), &["x", "y", "z"], refuses);
    for score in &scores {
        let unscored = score.clone().unwrap_err();
        assert_eq!(unscored.reason, UnscoredReason::JudgeRefused);
        assert!(unscored.detail.contains("the balance is used up"), "{unscored}");
    }
    assert_eq!(asked.len(), 1, "{scores:?}");
    let config = JudgeConfig { max_failures_in_a_row: 2, ..JudgeConfig::default() };
    let (scores, asked) = judged(config, &["w", "x", "y", "z"], |_| Err(ChatError::Failed("down".into())));
    assert_eq!(asked.len(), 2);
    let last = scores[3].clone().unwrap_err();
    assert_eq!(last.reason, UnscoredReason::JudgeFailed);
    assert_eq!(last.detail, "skipped after too many consecutive failures: down");
}

#[test]
fn the_judge_sees_the_answer_and_is_not_asked_where_there_is_none() {
    let asked = Arc::default();
    let model = Scripted { answer: Box::new(|_| Ok("[[10]]".into())), asked: Arc::clone(&asked) };
    let mut rewards = crate::Rewards::default();
    let judge = Judge::new(JudgeConfig::default(), Box::new(model)).unwrap();
    rewards.add(None, 1.0, &[], false, crate::Reads::Answer, Box::new(judge)).unwrap();
    let prompt = Conversation { messages: vec![Message::new(Role::User, "Say it.")], tools: Vec::new() };
    let (columns, origin) = (Map::new(), RowOrigin { source: "rows".into(), line: 1 });
    let completion = |text| Completion {
        prompt: &prompt,
        text,
        n_tokens: 1,
        finish_reason: FinishReason::EndOfTurn,
        columns: &columns,
        origin: &origin,
    };
    let scored = rewards.score(&[completion("<think>secret</think>\nsaid"), completion("<think>secret")]);
    assert_eq!((&scored[0].total, &scored[1].total), (&Ok(1.0), &Ok(0.0)));
    assert_eq!(asked.lock().unwrap().len(), 1);
    let question = text(&asked.lock().unwrap()[0]).to_owned();
    assert!(question.contains("<answer>\nsaid\n</answer>") && !question.contains("secret"), "{question}");
}

#[test]
fn a_comparison_is_asked_in_both_orders_and_disagreement_is_a_draw() {
    let config = JudgeConfig { protocol: JudgeProtocol::Pairwise, ..JudgeConfig::default() };
    let compare = |answer: fn(&str) -> &'static str| {
        let (scores, asked) =
            judged(config.clone(), &["mine"], move |request| Ok(answer(text(request)).to_owned()));
        assert!(asked.len() >= 2);
        scores[0].clone()
    };
    assert_eq!(compare(|text| if text.contains("<answer_a>\nmine") { "[[A]]" } else { "[[B]]" }), Ok(1.0));
    assert_eq!(compare(|text| if text.contains("<answer_a>\nmine") { "[[b]]" } else { "[[a]]" }), Ok(0.0));
    assert_eq!(compare(|_| "[[A]]"), Ok(0.5), "the first response is preferred in both orders");
    assert_eq!(compare(|_| "[[C]]"), Ok(0.5));
    assert_eq!(compare(|text| if text.contains("<answer_a>\nmine") { "[[A]]" } else { "[[C]]" }), Ok(0.5));
    assert!(compare(|text| if text.contains("<answer_a>\nmine") { "[[A]]" } else { "[[D]]" }).is_err());
}

#[test]
fn a_row_without_reference_is_unscored_and_the_others_are_judged() {
    let config = JudgeConfig {
        protocol: JudgeProtocol::Pairwise,
        reference_column: Some("gold".into()),
        ..JudgeConfig::default()
    };
    let (scores, asked) = judged(config, &["x"], |_| Ok("[[A]]".into()));
    assert_eq!(scores[0].clone().unwrap_err().reason, UnscoredReason::MissingReference);
    assert!(asked.is_empty());
}

#[test]
fn a_checklist_is_asked_at_once_and_a_verdict_too_few_is_no_zero() {
    let config = JudgeConfig { protocol: JudgeProtocol::Checklist, ..JudgeConfig::default() };
    let prompt = Conversation { messages: vec![Message::new(Role::User, "Say it.")], tools: Vec::new() };
    let origin = RowOrigin { source: "rows".into(), line: 7 };
    let score = |columns: Value, reply: &'static str| {
        let asked = Arc::default();
        let model = Scripted { answer: Box::new(move |_| Ok(reply.into())), asked: Arc::clone(&asked) };
        let columns: Map<String, Value> = columns.as_object().cloned().unwrap();
        let completion = Completion {
            prompt: &prompt,
            text: "said",
            n_tokens: 1,
            finish_reason: FinishReason::EndOfTurn,
            columns: &columns,
            origin: &origin,
        };
        let mut judge = Judge::new(config.clone(), Box::new(model)).unwrap();
        let score = judge.score(&[completion]).remove(0);
        let asked: Vec<String> = asked.lock().unwrap().iter().map(|one| text(one).to_owned()).collect();
        (score, asked)
    };
    let list = json!({"checklist": ["Is it short?", {"question": "Is it kind?", "weight": 3}]});
    let (share, asked) = score(list.clone(), "Short: yes. Kind: no. [[YES, NO]]");
    assert_eq!((share, asked.len()), (Ok(0.25), 1));
    assert!(asked[0].contains("\n1. Is it short?\n2. Is it kind?\n"), "{}", asked[0]);
    let (unread, asked) = score(list, "[[YES]]");
    assert_eq!(unread.unwrap_err().reason, UnscoredReason::JudgeFailed);
    assert_eq!(asked.len(), 2, "it is asked once more");
    assert_eq!(score(json!({"checklist": []}), "[[NO]]"), (Ok(1.0), Vec::new()));
    let missing = score(json!({}), "[[YES]]").0.unwrap_err();
    assert_eq!(missing.to_string(), "missing_reference: rows:7: the row has no `checklist`");
    let bad = score(json!({"checklist": "short"}), "[[YES]]").0.unwrap_err();
    assert_eq!(bad.reason, UnscoredReason::BadReference);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |config: JudgeConfig| config.check().unwrap_err().to_string();
    let default = JudgeConfig::default;
    assert!(
        refused(JudgeConfig { range: [3.0, 3.0], ..default() })
            .starts_with("reward `judge`: `range` is [3, 3]")
    );
    assert!(refused(JudgeConfig { range: [0.0, f64::NAN], ..default() }).contains("`range`"));
    assert!(refused(JudgeConfig { max_attempts: 0, ..default() }).contains("`max_attempts` is 0"));
    let prompt = Some("Grade {answer}".to_owned());
    assert!(
        refused(JudgeConfig { prompt, ..default() })
            .ends_with("`prompt` is missing the placeholder `{question}`")
    );
    for protocol in [JudgeProtocol::Score, JudgeProtocol::Pairwise, JudgeProtocol::Checklist] {
        JudgeConfig { protocol, ..default() }.check().unwrap();
    }
}
