//! Tests of `rewards.rs`.

use super::*;
use serde_json::json;
use truing_types::{Conversation, FinishReason};

#[test]
fn a_row_that_no_completion_can_be_scored_of_is_known_before() {
    let check = |recipe: Value, columns: Value| {
        let configs: Vec<RewardConfig> = serde_json::from_value(recipe).unwrap();
        let columns: Map<String, Value> = serde_json::from_value(columns).unwrap();
        let (prompt, origin) = (Conversation::default(), RowOrigin { source: "a.jsonl".into(), line: 3 });
        let completion = Completion {
            prompt: &prompt,
            text: "",
            n_tokens: 0,
            finish_reason: FinishReason::EndOfTurn,
            columns: &columns,
            origin: &origin,
        };
        let found = Rewards::new(&configs, Some(Path::new(""))).unwrap().check_row(&completion);
        found.map_err(|(name, unscored)| format!("{name}: {}", unscored.detail))
    };
    let exact = json!([{"kind": {"exact_match": {}}}]);
    assert_eq!(check(exact.clone(), json!({"answer": "x"})), Ok(()));
    assert_eq!(
        check(exact, json!({"ans": "x"})),
        Err("exact_match: a.jsonl:3: the row has no `answer`".into())
    );
    let optional = json!([{"kind": {"exact_match": {}}, "optional": true}]);
    assert_eq!(check(optional, json!({})), Ok(()));
    let elsewhere = json!([{"kind": {"exact_match": {}}, "sources": ["b.jsonl"]}]);
    assert_eq!(check(elsewhere, json!({})), Ok(()));
    let schema = json!([{"kind": {"json_schema": {"column": "schema"}}}]);
    let error = check(schema, json!({"schema": {"type": "nonsense"}})).unwrap_err();
    assert!(error.contains("a.jsonl:3: `schema` is not a valid schema"), "{error}");
    let ifeval = json!([{"kind": {"ifeval": {}}}]);
    let row = json!({
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"num_words": 5, "relation": "below"}]
    });
    let error = check(ifeval, row).unwrap_err();
    assert!(error.contains("relation"), "{error}");
    // Programs are not run.
    let code = json!([{"kind": {"code": {}}}]);
    assert_eq!(check(code.clone(), json!({"test": "assert True"})), Ok(()));
    let error = check(code, json!({})).unwrap_err();
    assert_eq!(error, "code: a.jsonl:3: the row has no `test` and no `test_list`");
}

fn score(recipe: Value, source: &str, columns: Value, text: &str) -> ScoredCompletion {
    let configs: Vec<RewardConfig> = serde_json::from_value(recipe).unwrap();
    let columns: Map<String, Value> = serde_json::from_value(columns).unwrap();
    let (prompt, origin) = (Conversation::default(), RowOrigin { source: source.into(), line: 3 });
    let completion = Completion {
        prompt: &prompt,
        text,
        n_tokens: 9,
        finish_reason: FinishReason::EndOfTurn,
        columns: &columns,
        origin: &origin,
    };
    Rewards::new(&configs, None).unwrap().score(&[completion]).remove(0)
}

#[test]
fn parts_are_weighted_and_meant_for_their_sources() {
    let recipe = json!([
        {"kind": {"math_answer": {}}, "sources": ["gsm8k.jsonl"]},
        {"kind": {"exact_match": {"column": "label"}}, "sources": ["labels.jsonl"]},
        {"kind": {"overlong": {"max_tokens": 10, "cache": 4}}, "weight": 0.5},
    ]);
    let found = score(recipe.clone(), "data/gsm8k.jsonl", json!({"answer": "so\n#### 12"}), "It is 12.");
    assert_eq!(found.total, Ok(1.0 - 0.5 * 0.75));
    assert_eq!(found.parts.keys().collect::<Vec<_>>(), ["math_answer", "overlong"]);
    let found = score(recipe.clone(), "labels.jsonl", json!({"label": "yes"}), " yes\n");
    assert_eq!(found.total, Ok(1.0 - 0.375));
    let found = score(recipe, "labels.jsonl", json!({}), "yes");
    let unscored = found.total.unwrap_err();
    assert_eq!(unscored.to_string(), "missing_reference: labels.jsonl:3: the row has no `label`");
}

#[test]
fn an_optional_part_that_fails_is_left_out() {
    let recipe = json!([
        {"kind": {"exact_match": {}}, "optional": true},
        {"kind": {"length": {"at_most": 20}}},
    ]);
    assert_eq!(score(recipe.clone(), "a", json!({}), "x").total, Ok(1.0));
    let alone = json!([{"kind": {"exact_match": {}}, "optional": true}]);
    let unscored = score(alone, "a", json!({}), "x").total.unwrap_err();
    assert_eq!(unscored.reason, UnscoredReason::MissingReference);
    let elsewhere = json!([{"kind": {"format": {"pattern": "^x"}}, "sources": ["b"]}]);
    assert!(score(elsewhere, "a", json!({}), "x").total.is_err());
}

fn total(kind: Value, reads: Option<&str>, columns: Value, text: &str) -> Result<f64, Unscored> {
    let mut config = json!({"kind": kind});
    if let Some(reads) = reads {
        config["reads"] = json!(reads);
    }
    score(json!([config]), "a", columns, text).total
}

/// Made by hand after public reports: what stands up to `</think>` is not there, and an open thought has no answer.
#[test]
fn rewards_read_the_answer_and_not_the_thought() {
    let no_comma = json!({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]});
    let heron = json!({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["heron"]}]});
    let schema = json!({"schema": {"type": "object", "required": ["a"]}});
    let (ifeval, math) = (json!({"ifeval": {}}), json!({"math_answer": {"column": "answer"}}));
    let (json_schema, anywhere) = (
        json!({"json_schema": {"column": "schema"}}),
        json!({"json_schema": {"column": "schema", "anywhere": true}}),
    );
    let exact = json!({"exact_match": {"column": "answer"}});
    let contained = json!({"exact_match": {"column": "answer", "contained": true}});
    let format = json!({"format": {"pattern": "^[0-9]+$"}});
    let words = json!({"length": {"unit": "words", "at_least": 1, "at_most": 3}});
    let letters = json!({"length": {"unit": "characters", "at_least": 0, "at_most": 3}});
    let english = json!({"language": {"language": "en", "min_letters": 20}});
    let repetition = json!({"repetition": {"n_words": 1}});
    let answer = |text: &str| json!({"answer": text});
    let nothing = || json!({});
    let rows = [
        (&ifeval, no_comma.clone(), "<think>Well, no comma, then.</think>\nOne two", 1.0),
        (&ifeval, no_comma.clone(), "<think>No comma</think>\nOne, two", 0.0),
        (&ifeval, no_comma.clone(), "<think>One two", 0.0),
        (&ifeval, no_comma.clone(), "Well, then</think>One two", 1.0),
        (&ifeval, heron.clone(), "<think>They want heron.</think>\nA gull.", 0.0),
        (&ifeval, heron.clone(), "<think>A bird.</think>\nA heron.", 1.0),
        (&ifeval, heron.clone(), "<think>A heron", 0.0),
        (&math, answer("7"), "<think>maybe \\boxed{7}</think> The total is 9.", 0.0),
        (&math, answer("7"), "<think>First \\boxed{9}.</think> So 7.", 1.0),
        (&math, answer("7"), "<think>\\boxed{7}", 0.0),
        (&math, answer("7"), "<think>\\boxed{7}</think>", 0.0),
        (&math, answer("7"), "So \\boxed{7}", 1.0),
        (&math, answer("7"), "<think>9</think><think>8</think>\\boxed{7}", 1.0),
        (&math, answer("7"), "[THINK]\\boxed{7}[/THINK]It is 9.", 0.0),
        (&math, answer("7"), "<thinking>9</thinking>\nThe answer is 7.", 1.0),
        (&math, answer("7"), "<reasoning>9</reasoning><answer>7</answer>", 1.0),
        (&json_schema, schema.clone(), "<think>I will write it</think>\n{\"a\": 1}", 1.0),
        (&json_schema, schema.clone(), "<think>{\"a\": 1}</think>\nDone.", 0.0),
        (&json_schema, schema.clone(), "<think>{\"a\": 1}", 0.0),
        (&json_schema, schema.clone(), "{\"a\": \"<think>\"}", 1.0),
        (&anywhere, schema.clone(), "<think>draft ```json\n{\"a\": 1}\n```</think>\nI cannot.", 0.0),
        (&anywhere, schema.clone(), "<think>hm</think>\nHere:\n```json\n{\"a\": 1}\n```", 1.0),
        (&exact, answer("B"), "<think>A or B</think>\n\nB", 1.0),
        (&exact, answer("B"), "<think>B</think>\n\nA", 0.0),
        (&exact, answer("B"), "<think>B", 0.0),
        (&exact, answer("<think>"), "`<think>`", 0.0),
        (&contained, answer("B"), "<think>A or B</think>A", 0.0),
        (&contained, answer("B"), "<think>A</think>It is B.", 1.0),
        (&contained, answer("a</think>"), "The form is <think>a</think>.", 1.0),
        (&format, nothing(), "<think>count</think>42", 1.0),
        (&format, nothing(), "<think>42", 0.0),
        (&format, nothing(), "42", 1.0),
        (&words, nothing(), "<think>one two three four</think>five six", 1.0),
        (&words, nothing(), "<think>one</think>two three four five", 0.0),
        (&words, nothing(), "<think>one two", 0.0),
        (&letters, nothing(), "<think>abcdef</think>abc", 1.0),
        (&letters, nothing(), "<think>a", 0.0),
        (
            &english,
            nothing(),
            "<think>Das Haus am See wurde verkauft.</think>The house by the lake was sold.",
            1.0,
        ),
        (&english, nothing(), "<think>The house by the lake was sold", 0.0),
        (&repetition, nothing(), "<think>no no no no</think>yes", 0.0),
        (&repetition, nothing(), "<think>yes</think>no no no no no", -0.8),
        // The mark sticks to the first word: two of four are different.
        (&repetition, nothing(), "<think>no no no no", -0.5),
    ];
    assert!(rows.len() >= 40);
    for (kind, columns, text, expected) in rows {
        let found = total(kind.clone(), None, columns, text);
        assert_eq!(found, Ok(expected), "{kind}: {text}");
    }
}

#[test]
fn a_reward_may_read_the_whole() {
    let pattern = json!({"format": {"pattern": "(?s)^<think>.*</think>\\s*\\S"}});
    let escaped = json!({"format": {"pattern": r"^<think>[^<]*<\/think>"}});
    for kind in [&pattern, &escaped] {
        // A pattern that names a mark reads the whole by itself.
        for reads in [None, Some("whole")] {
            assert_eq!(total(kind.clone(), reads, json!({}), "<think>a</think>b"), Ok(1.0), "{kind}");
            assert_eq!(total(kind.clone(), reads, json!({}), "b"), Ok(0.0), "{kind}");
            assert_eq!(total(kind.clone(), reads, json!({}), "<think>a"), Ok(0.0), "{kind}");
        }
        assert_eq!(total(kind.clone(), Some("answer"), json!({}), "<think>a</think>b"), Ok(0.0));
    }
    let exact = json!({"exact_match": {}});
    let text = "<think>a</think>b";
    assert_eq!(total(exact.clone(), Some("whole"), json!({"answer": text}), text), Ok(1.0));
    assert_eq!(total(exact, None, json!({"answer": text}), text), Ok(0.0));
    // Tokens are counted as sampled: 9 here, thought or not.
    for text in ["<think>a", "<think>a</think>b", "b"] {
        assert_eq!(total(json!({"length": {"at_most": 9}}), None, json!({}), text), Ok(1.0), "{text}");
        let overlong = json!({"overlong": {"max_tokens": 10, "cache": 4}});
        assert_eq!(total(overlong, None, json!({}), text), Ok(-0.75), "{text}");
    }
}

#[test]
fn without_an_answer_a_row_without_reference_stays_unscored() {
    for (kind, columns) in [
        (json!({"exact_match": {}}), json!({})),
        (json!({"ifeval": {}}), json!({})),
        (json!({"json_schema": {"column": "schema"}}), json!({})),
    ] {
        let unscored = total(kind, None, columns, "<think>a").unwrap_err();
        assert_eq!(unscored.reason, UnscoredReason::MissingReference);
    }
}

#[test]
fn a_prompt_may_have_opened_the_thought_and_a_recipe_may_know_other_marks() {
    let configs: Vec<RewardConfig> =
        serde_json::from_value(json!([{"kind": {"exact_match": {"contained": true}}}])).unwrap();
    let columns: Map<String, Value> = serde_json::from_value(json!({"answer": "B"})).unwrap();
    let (prompt, origin) = (Conversation::default(), RowOrigin { source: "a".into(), line: 1 });
    let completion = |text| Completion {
        prompt: &prompt,
        text,
        n_tokens: 1,
        finish_reason: FinishReason::Length,
        columns: &columns,
        origin: &origin,
    };
    let mut rewards = Rewards::new(&configs, None).unwrap();
    let texts = [completion("A or B, hm"), completion("A</think>B"), completion("A or B, hm")];
    let think = truing_types::ReasoningMark { open: "<think>".into(), close: "</think>".into() };
    let inside = TextStart::Inside(&think);
    let scored = rewards.score_after(&texts, &[inside, inside, TextStart::Outside]);
    assert_eq!(scored.iter().map(|one| one.total.clone()).collect::<Vec<_>>(), [Ok(0.0), Ok(1.0), Ok(1.0)]);
    let mark = truing_types::ReasoningMark { open: "<plan>".into(), close: "</plan>".into() };
    rewards.set_reasoning_marks(ReasoningMarks::default().with([&mark]));
    let scored = rewards.score(&[completion("<plan>B</plan>A"), completion("<plan>B")]);
    assert!(scored.iter().all(|one| one.total == Ok(0.0)), "{scored:?}");
}

#[test]
fn sources_are_the_ends_of_paths_in_whole_folders() {
    for (path, entry, expect) in [
        ("data/b.jsonl", "b.jsonl", true),
        ("b.jsonl", "b.jsonl", true),
        ("data/ab.jsonl", "b.jsonl", false),
        ("math/train.jsonl", "math/train.jsonl", true),
        ("data/math/train.jsonl", "math/train.jsonl", true),
        ("data/aftermath/train.jsonl", "math/train.jsonl", false),
        ("math/train.jsonl", "code/train.jsonl", false),
        ("math/train.jsonl", "./math/train.jsonl", true),
        ("/data/b.jsonl", "/data/b.jsonl", true),
        ("/data/b.jsonl", "/b.jsonl", false),
        ("data/b.jsonl", "data", false),
        ("data/b.jsonl", "jsonl", false),
        ("data/b.jsonl", "", false),
        ("data/b.jsonl", "/", false),
    ] {
        assert_eq!(is_source(path, entry), expect, "{path} by {entry:?}");
    }
    let recipe = json!([
        {"kind": {"length": {"at_most": 9}}, "sources": ["b.jsonl"]},
        {"name": "other", "kind": {"length": {"at_most": 9}}, "sources": ["ab.jsonl"]},
    ]);
    let found = score(recipe, "data/ab.jsonl", json!({}), "x");
    assert_eq!(found.parts.keys().collect::<Vec<_>>(), ["other"]);
}

#[test]
fn code_needs_a_program_that_starts_the_sandbox() {
    let configs: Vec<RewardConfig> = serde_json::from_value(json!([{"kind": {"code": {}}}])).unwrap();
    assert_eq!(Rewards::check(&configs), Ok(()));
    assert_eq!(Rewards::new(&configs, None).unwrap_err(), RewardError::NoSandboxProgram);
    assert!(Rewards::new(&configs, Some(Path::new("truing"))).is_ok());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |recipe: Value| {
        let configs: Vec<RewardConfig> = serde_json::from_value(recipe).unwrap();
        Rewards::check(&configs).unwrap_err().to_string()
    };
    assert!(
        refused(json!([{"kind": {"format": {"pattern": "("}}}])).starts_with("reward `format`: `pattern`")
    );
    assert_eq!(
        refused(json!([{"kind": {"length": {"at_least": 5, "at_most": 2}}}])),
        "reward `length`: `at_most` is 2, below `at_least`, 5"
    );
    let twice = json!([{"kind": {"exact_match": {}}}, {"kind": {"exact_match": {}}}]);
    assert_eq!(refused(twice), "two rewards are called `exact_match`; set `name` in one of them");
    assert!(refused(json!([{"kind": {"exact_match": {}}, "weight": 0.0}])).contains("`weight` is 0"));
    for kind in [json!({"overlong": {"max_tokens": 10, "cache": 4}}), json!({"length": {"at_most": 4}})] {
        assert!(refused(json!([{"kind": kind, "reads": "answer"}])).contains("`reads` is `answer`"));
    }
    let unknown = json!([{"kind": {"exact_match": {"colum": "a"}}}]);
    assert!(serde_json::from_value::<Vec<RewardConfig>>(unknown).is_err());
}
