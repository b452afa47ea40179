//! Benchmarks with a judge, asked to the end by a judge that answers by rule.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use truing_eval::benchmarks::{Ask, Prompt, Request, ScoringMode, TaskOptions, find};
use truing_types::Role;

use super::{asked, is_for_judge, loaded, reply, run, value};

fn official() -> TaskOptions {
    TaskOptions { mode: ScoringMode::Official, accept_other_version: true, ..TaskOptions::default() }
}

/// The text of the first turn that a judge is shown.
fn question(request: &Request) -> String {
    let Ask::Generate { prompt: Prompt::Chat(conversation), .. } = &request.ask else { panic!("no chat") };
    conversation.messages[0].content.clone()
}

fn cfbench_row(idx: u64, prompt: &str) -> Value {
    json!({"idx": idx, "prompt": prompt, "gold": "", "split": "easy", "source": "own", "criteria": [
        ["提到春天", "主需", "内容约束", "元素"], ["不超过40字", "次需", "数值约束", "单词"], ["语气活泼", "次需", "风格约束", "语气"]]})
}

#[test]
fn cfbench_is_judged_in_form_asked_again_and_then_read_by_lines() {
    let benchmark = find("cfbench").unwrap();
    let rows = [
        cfbench_row(1, "写一句话。"),
        cfbench_row(2, "写两句话。"),
        cfbench_row(3, "写三句话。"),
        cfbench_row(4, ""),
    ];
    let lines = "提到春天\t1\n不超过40字\t0\n语气活泼\t1";
    let judge = |item: &truing_eval::benchmarks::Item, request: &Request| {
        if !is_for_judge(request) {
            return reply("春天来了！");
        }
        let text = question(request);
        assert!(text.contains("春天来了！") && text.contains("提到春天\n\n不超过40字\n\n语气活泼"), "{text}");
        match item.id.as_str() {
            "1" => reply("提到春天\t1\n\n不超过40字\t0\n\n语气活泼\t1"),
            // Never in form.
            "2" => reply(lines),
            _ => reply("都满足"),
        }
    };
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (records, summary) = run(benchmark, &items, &options, judge);
    // 0.67 and, by lines, 0.67; the third has no verdict, the fourth no prompt.
    assert!((value(&summary, "csr,none") - 0.67).abs() < 1e-12);
    // Secondary mean 0.5: 0.75 is not above 0.8; by lines 0.67 is not either.
    assert_eq!((value(&summary, "isr,none"), value(&summary, "psr,none")), (0.0, 0.0));
    assert_eq!(value(&summary, "csr_numerical,none"), 0.0);
    let csr = summary.metric("csr,none").unwrap();
    assert_eq!((csr.n, csr.unscored["judge_failed"], csr.unscored["bad_reference"]), (2, 1, 1));
    assert!(csr.bounds.unwrap().low < 0.4 && csr.bounds.unwrap().high > 0.8);
    assert_eq!(records[1].score.details["judge_parsing"], "0");
    // One call for the first, three for the second and third.
    assert_eq!(summary.judge.as_ref().unwrap().n_calls, 7);
    assert_eq!(summary.by_category["split"]["easy"][0].metric.name, "csr");

    // Official: ten requests, ones alone of the lines, nothing readable is 0, and no prompt is asked too.
    let options = official();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (records, summary) = run(benchmark, &items, &options, judge);
    assert_eq!(summary.judge.as_ref().unwrap().n_calls, 1 + 10 + 10 + 10);
    let csr: Vec<f64> =
        records.iter().map(|record| record.score.measures["csr,none"].clone().unwrap().value).collect();
    assert_eq!(csr, [0.67, 1.0, 0.0, 0.0]);
    assert_eq!(value(&summary, "psr,none"), 0.25);
}

#[test]
fn official_scores_want_the_published_file() {
    let benchmark = find("cfbench").unwrap();
    let options = TaskOptions { mode: ScoringMode::Official, ..TaskOptions::default() };
    let error = loaded(benchmark, &[cfbench_row(1, "写。")], &options).unwrap_err();
    assert!(error.contains("has the SHA-256") && error.contains("f28bfe94"), "{error}");
    let bad = json!({"idx": 1, "prompt": "写。", "criteria": [["x", "次要", "", ""]]});
    let error = loaded(benchmark, &[bad], &TaskOptions::default()).unwrap_err();
    assert!(error.contains("`criteria` is") && error.contains("主需 or 次需"), "{error}");
    let twice = loaded(benchmark, &[cfbench_row(1, "写。"), cfbench_row(1, "写。")], &TaskOptions::default());
    assert!(twice.unwrap_err().contains("own.jsonl:2: the item `1` is already at"));
}

fn sysbench_row() -> Value {
    let turn = |text: &str, alignment: &str, n: usize| {
        let criteria: Value = (1..=n)
            .map(|i| {
                (
                    i.to_string(),
                    json!({
                        "criteria_id": i, "criteria_content": format!("要求{i}"),
                        "criteria_type": if i == 1 { "内容约束" } else { "格式约束" }
                    }),
                )
            })
            .collect::<serde_json::Map<String, Value>>()
            .into();
        (text.to_owned(), json!({"alignment": alignment, "criteria": criteria}))
    };
    let infos: serde_json::Map<String, Value> =
        [turn("一", "align", 2), turn("二", "misalign", 1), turn("三", "align", 2)].into_iter().collect();
    let mut messages = vec![json!({"role": "system", "content": "只用中文。"})];
    for text in ["一", "二", "三"] {
        messages.push(json!({"role": "user", "content": text}));
        messages.push(json!({"role": "assistant", "content": format!("给定{text}")}));
    }
    json!({
        "system_id": 5, "system_prompt": "只用中文。", "messages": messages, "prompt_infos": infos,
        "rounds_related": true, "领域": "教育"
    })
}

#[test]
fn sysbench_goes_turn_by_turn_with_its_own_or_the_given_history() {
    let benchmark = find("sysbench").unwrap();
    let verdict = |results: &str| format!("```json\n{{\"评判理由\": {{}}, \"评判结果\": {results}}}\n```");
    for given_history in [false, true] {
        let options = TaskOptions { given_history, ..TaskOptions::default() };
        let items = loaded(benchmark, &[sysbench_row()], &options).unwrap().items;
        let (_, summary) = run(benchmark, &items, &options, |_, request| {
            let Ask::Generate { prompt: Prompt::Chat(conversation), .. } = &request.ask else {
                panic!("no chat")
            };
            if is_for_judge(request) {
                return reply(match request.id.as_str() {
                    "judge/turn1#1" => verdict("{\"1\": \"是\", \"2\": \"是\"}"),
                    "judge/turn2#1" => verdict("{\"1\": \"否\"}"),
                    _ => verdict("{\"1\": \"是\", \"2\": \"否\"}"),
                });
            }
            let turns: Vec<(Role, &str)> = conversation
                .messages
                .iter()
                .map(|message| (message.role, message.content.as_str()))
                .collect();
            assert_eq!(turns[0], (Role::System, "只用中文。"));
            if request.id == "turn2" {
                let first = if given_history { "给定一" } else { "答" };
                assert_eq!(turns[1..], [(Role::User, "一"), (Role::Assistant, first), (Role::User, "二")]);
            }
            reply("答")
        });
        assert_eq!(value(&summary, "csr,none"), 3.0 / 5.0);
        assert!((value(&summary, "csr_macro,none") - (1.0 + 0.0 + 0.5) / 3.0).abs() < 1e-12);
        assert!((value(&summary, "isr,none") - 1.0 / 3.0).abs() < 1e-12);
        assert!((value(&summary, "ssr,none") - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((value(&summary, "isr_aligned,none"), value(&summary, "isr_misaligned,none")), (0.5, 0.0));
        assert_eq!((value(&summary, "r1_dependent,none"), value(&summary, "r2_dependent,none")), (1.0, 0.0));
        assert_eq!(
            (value(&summary, "csr_content,none"), value(&summary, "csr_format,none")),
            (2.0 / 3.0, 0.5)
        );
        assert!(summary.metric("ssr_parallel,none").is_none(), "no dialogue is parallel");
    }
}

#[test]
fn fbbench_means_are_by_task_and_weights_are_the_lists() {
    let benchmark = find("fbbench").unwrap();
    let record = |id: u64, bench: &str, task: &str, checklist: Value| {
        json!({
            "id": id, "bench_type": bench, "task_type": task, "sub_task_type": "x", "user_query": "问",
            "origin_first_response": "答一", "feedback": "不对", "error_type": ["Logical Error"],
            "feedback_type": ["Pointing Out Errors"], "checklist": checklist
        })
    };
    let weighted = json!([["承认错误", 0.3], ["给出102", 0.7]]);
    let rows = [
        record(1, "Error Correction", "Coding", weighted.clone()),
        record(2, "Error Correction", "Mathematics", weighted.clone()),
        record(3, "Error Correction", "Mathematics", weighted),
        record(4, "Response Maintenance", "Coding", json!(["坚持原答案", "解释原因"])),
    ];
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (_, summary) = run(benchmark, &items, &options, |item, request| {
        if !is_for_judge(request) {
            assert_eq!(asked(request), "[user]\n问\n\n[assistant]\n答一\n\n[user]\n不对");
            return reply("答二");
        }
        let one = |text: &str, is_met: bool| {
            (
                text.to_owned(),
                json!({"评判理由": "因为", "评判结果": if is_met { "是" } else { "否" }, "weight": null}),
            )
        };
        let verdicts: serde_json::Map<String, Value> = match item.id.as_str() {
            "1" => [one("承认错误", true), one("给出102", true)],
            "2" => [one("承认错误", true), one("给出102", false)],
            "3" => [one("承认错误", false), one("给出102", true)],
            _ => [one("坚持原答案", false), one("解释原因", true)],
        }
        .into_iter()
        .collect();
        reply(Value::from(verdicts).to_string())
    });
    // Coding 1, Mathematics (0.3 + 0.7) / 2; maintenance of Coding 1.
    assert!((value(&summary, "error_correction,none") - 0.75).abs() < 1e-12);
    assert_eq!(value(&summary, "response_maintenance,none"), 1.0);
    assert!((value(&summary, "overall,none") - 2.5 / 3.0).abs() < 1e-12);
    assert!((value(&summary, "item_mean,none") - 0.75).abs() < 1e-12);
    let bad = record(9, "Error Correction", "Coding", json!([["x", 0.3], ["y", 0.3]]));
    assert!(loaded(benchmark, &[bad], &options).unwrap_err().contains("weights that sum to 1"));
}

#[test]
fn followbench_counts_levels_by_rule_and_by_judge() {
    let benchmark = find("followbench").unwrap();
    let level = |category: &str, source: &str, level: u64, target: &str| {
        json!({
            "example_id": 1, "category": category, "source": source, "level": level,
            "instruction": format!("step {level}"), "target": target
        })
    };
    let mut rows: Vec<Value> = (0..=5).map(|n| level("style", "oasst", n, "")).collect();
    rows.extend((0..=5).map(|n| level("content", "E2E", n, "Alimentum")));
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    assert_eq!(items.len(), 2);
    let (records, summary) = run(benchmark, &items, &options, |item, request| {
        if is_for_judge(request) {
            assert!(item.id.contains("style"), "rules need no judge");
            let text = question(request);
            return reply(match request.id.as_str() {
                "judge/level1#1" => "Fine.\n[YES]".to_owned(),
                "judge/level2#1" => {
                    assert!(
                        text.contains("<step 0>") && text.contains("<step 2>") && !text.contains("<step 3>")
                    );
                    "['YES', 'YES']".to_owned()
                }
                "judge/level3#1" => "[YES, NO, YES]".to_owned(),
                id => format!("[{}]", vec!["YES"; id[11..12].parse().unwrap()].join(", ")),
            });
        }
        reply(if request.id == "level4" { "something else" } else { "Alimentum" })
    });
    let of = |place: usize, key: &str| records[place].score.measures[key].clone().unwrap().value;
    assert_eq!((of(0, "csl,none"), of(0, "hsr,none")), (2.0, 0.8));
    assert!((of(0, "ssr,none") - (4.0 + 2.0 / 3.0) / 5.0).abs() < 1e-12);
    assert_eq!((of(1, "csl,none"), of(1, "hsr,none"), of(1, "ssr_level_4,none")), (3.0, 0.8, 0.0));
    assert_eq!(value(&summary, "hsr_level_3,none"), 0.5);
    let error = loaded(benchmark, &rows[..5], &options).unwrap_err();
    assert!(error.contains("the levels 1 to 5 of an example"), "{error}");
}

#[test]
fn mt_bench_grades_both_turns() {
    let benchmark = find("mt_bench").unwrap();
    let rows = [
        json!({"question_id": 101, "category": "math", "turns": ["1+1?", "And 2+2?"], "reference": ["2", "4"]}),
    ];
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (_, summary) = run(benchmark, &items, &options, |_, request| {
        if !is_for_judge(request) {
            return reply(if request.id == "turn1" { "2" } else { "5" });
        }
        let text = question(request);
        match request.id.as_str() {
            "judge/turn1#1" => {
                assert!(text.contains("<reference>\n2\n</reference>") && !text.contains("And 2+2?"));
                reply("Good. [[10]]")
            }
            "judge/turn2#1" => {
                assert!(text.contains("<answer>\n2\n</answer>") && text.contains("<answer>\n5\n</answer>"));
                reply("Wrong.")
            }
            _ => reply("[[3]]"),
        }
    });
    assert_eq!(
        (value(&summary, "score,none"), value(&summary, "turn_1,none"), value(&summary, "turn_2,none")),
        (6.5, 10.0, 3.0)
    );
    assert_eq!(summary.judge.as_ref().unwrap().n_asked_again, 1);
}

#[test]
fn arena_hard_swaps_positions_and_needs_a_baseline() {
    let benchmark = find("arena_hard_v0.1").unwrap();
    let rows: Vec<Value> = (0..40)
        .map(|i| {
            json!({
                "uid": format!("u{i}"), "category": "hard", "cluster": "c", "prompt": format!("task {i}")
            })
        })
        .collect();
    let error = loaded(benchmark, &rows, &TaskOptions::default()).unwrap_err();
    assert!(error.contains("`baseline` is without an answer to `u0`"), "{error}");
    let baseline: BTreeMap<String, String> =
        (0..40).map(|i| (format!("u{i}"), "base".repeat(1 + i % 3))).collect();
    let options = TaskOptions { baseline, ..TaskOptions::default() };
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (_, summary) = run(benchmark, &items, &options, |item, request| {
        if !is_for_judge(request) {
            return reply(format!("mine {}", "x".repeat(item.line as usize % 5)));
        }
        // The model's answer is B in the first game and A in the second.
        let text = question(request);
        let first = text.split("<answer_a>\n").nth(1).unwrap();
        assert_eq!(first.starts_with("mine"), request.id.starts_with("judge/game2"));
        reply(match (item.line % 4, request.id.as_str()) {
            (0, _) => "[[A=B]]",
            (1, "judge/game1#1") => "[[B>A]]",
            (1, _) => "[[A>>B]]",
            (2, "judge/game1#1") => "[[A>B]]",
            (2, _) => "[[B>A]]",
            (_, "judge/game1#1") => "[[A>B]]",
            _ => "no verdict",
        })
    });
    // Ten of each kind: two halves; 1 and three 1; two 0; the last without a verdict of one game.
    let rate = summary.metric("win_rate,none").unwrap();
    assert!((rate.value.unwrap() - (1.0 + 4.0) / 8.0).abs() < 1e-12);
    assert_eq!((rate.n, rate.n_unscored()), (30, 10));
    let styled = summary.metric("win_rate_style_controlled,none").unwrap();
    assert!(styled.value.unwrap() > 0.0 && styled.interval.unwrap().low < styled.interval.unwrap().high);
}

#[test]
fn judges_are_asked_about_pairs_in_both_orders() {
    let benchmark = find("llmbar").unwrap();
    let row = |label: u64| json!({"input": "Name a fruit.", "output_1": "apple", "output_2": "stone", "label": label});
    let options = TaskOptions::default();
    let items = loaded(benchmark, &[row(1), row(2)], &options).unwrap().items;
    // It always takes the apple.
    let (_, summary) = run(benchmark, &items, &options, |_, request| {
        let text = question(request);
        reply(if text.contains("<answer_a>\napple") { "[[A>B]]" } else { "[[B>>A]]" })
    });
    assert_eq!((value(&summary, "acc,none"), value(&summary, "consistency,none")), (0.5, 1.0));
    // It always takes the first.
    let (_, summary) = run(benchmark, &items, &options, |_, _| reply("[[A>B]]"));
    assert_eq!((value(&summary, "acc,none"), value(&summary, "consistency,none")), (0.5, 0.0));
    assert!(loaded(benchmark, &[row(3)], &options).unwrap_err().contains("`label` is `3`, expected 1 or 2"));
}

#[test]
fn user_experience_has_passes_and_good_same_bad() {
    let benchmark = find("user_experience").unwrap();
    let rows: Vec<Value> =
        (1..=3).map(|i| json!({"id": i, "prompt": "Help me.", "category": "chat"})).collect();
    let baseline: BTreeMap<String, String> = (1..=3).map(|i| (i.to_string(), "base".to_owned())).collect();
    let options = TaskOptions { baseline, ..TaskOptions::default() };
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (_, summary) = run(benchmark, &items, &options, |item, request| {
        if !is_for_judge(request) {
            return reply("mine");
        }
        if request.id == "judge/pass#1" {
            let is_accurate = item.id != "3";
            return reply(format!(
                "{{\"intent\": true, \"accuracy\": {is_accurate}, \"language\": true, \"safety\": true}}"
            ));
        }
        let mine_first = request.id == "judge/order1#1";
        reply(match (item.id.as_str(), mine_first) {
            // Better in both orders; contradicting; worse in both.
            ("1", true) | ("2", _) => "[[A>B]]",
            ("1", false) | ("3", true) => "[[B>A]]",
            _ => "[[A>B]]",
        })
    });
    assert!((value(&summary, "pass_rate,none") - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!((value(&summary, "pass_intent,none"), value(&summary, "net_gsb,none")), (1.0, 0.0));
    assert!((value(&summary, "satisfaction,none") - 2.0 / 3.0).abs() < 1e-12);
    assert!((value(&summary, "same,none") - 1.0 / 3.0).abs() < 1e-12);
}

#[test]
fn alpaca_eval_has_a_length_controlled_rate() {
    let benchmark = find("alpaca_eval").unwrap();
    let rows: Vec<Value> = (0..60)
        .map(|i| json!({"instruction": format!("task {i}"), "output": "b".repeat(100), "dataset": "own"}))
        .collect();
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    // The judge prefers the longer answer in five of six tasks; the model is longer in two of three.
    let (_, summary) = run(benchmark, &items, &options, |item, request| {
        let is_longer = item.line % 3 != 0;
        if !is_for_judge(request) {
            return reply("m".repeat(if is_longer { 200 } else { 50 }));
        }
        let wins = is_longer == (item.line % 6 != 1 && item.line % 18 != 3);
        let is_first = request.id == "judge/game2#1";
        reply(if wins == is_first { "[[A>B]]" } else { "[[B>A]]" })
    });
    let (raw, controlled) =
        (value(&summary, "win_rate,none"), value(&summary, "win_rate_length_controlled,none"));
    assert!(raw > controlled, "{raw} {controlled}");
}
