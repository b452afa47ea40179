//! Published judgments of CFBench, SysBench and FB-Bench, recomputed. Records of our own in the same form are
//! always scored; the published files where `TRUING_TEST_BENCHMARKS` names a folder that holds them.

use std::path::PathBuf;

use serde_json::{Value, json};
use truing_data::{ObjectRow, read_objects};
use truing_eval::benchmarks::{
    TaskOptions, cfbench_scores_of_judged, fbbench_scores_of_judged, find, load, sysbench_scores_of_sheet,
};

use super::{row, summarised, value};

fn published(name: &str) -> Option<Vec<ObjectRow>> {
    let folder = std::env::var_os("TRUING_TEST_BENCHMARKS").map(PathBuf::from);
    let path = folder.map(|folder| folder.join(name)).filter(|path| path.exists());
    if path.is_none() {
        println!("skipped: TRUING_TEST_BENCHMARKS names no folder with {name}");
    }
    Some(read_objects(&path?).unwrap())
}

fn cfbench(rows: &[ObjectRow]) -> [f64; 3] {
    let scored = cfbench_scores_of_judged(rows).unwrap();
    let summary = summarised(find("cfbench").unwrap(), &scored, &TaskOptions::default());
    ["csr,none", "isr,none", "psr,none"].map(|key| value(&summary, key))
}

#[test]
fn cfbench_records_have_the_scores_of_the_published_program() {
    let record = |idx: u64, parsing: &str, scores: &[&str], kinds: &[&str]| {
        let criteria: Vec<Value> =
            kinds.iter().map(|kind| json!([format!("点{idx}"), kind, "内容约束", ""])).collect();
        json!({
            "idx": idx, "prompt": "写。", "split": "hard", "criteria": criteria, "judge_score": scores,
            "judge_parsing": parsing
        })
    };
    let (p, s) = ("主需", "次需");
    let rows = [
        row(1, &record(1, "1", &["1", "1", "0"], &[p, s, s])),
        row(2, &record(2, "1", &["1", "1", "1"], &[p, p, s])),
        row(3, &record(3, "1", &["0", "1", "1"], &[p, s, s])),
        row(4, &record(4, "0", &["1", "1"], &[p, s, s])),
        row(5, &record(5, "-1", &["0"], &[p, s])),
        row(6, &record(6, "1", &["1", "1", "1", "1", "1", "1", "1", "0"], &[s; 8])),
    ];
    let [csr, isr, psr] = cfbench(&rows);
    // 0.67, 1, 0.67, 1, 0 and round(0.875, 2) = 0.88; PSR 0, 1, 0, 1, 0, 1.
    assert!((csr - (0.67 + 1.0 + 0.67 + 1.0 + 0.0 + 0.88) / 6.0).abs() < 1e-12);
    assert!((isr - 2.0 / 6.0).abs() < 1e-12 && (psr - 3.0 / 6.0).abs() < 1e-12, "{isr} {psr}");
    let short = row(7, &record(7, "1", &["1"], &[p, s]));
    let error = cfbench_scores_of_judged(&[short]).unwrap_err().to_string();
    assert!(error.contains("own.jsonl:7") && error.contains("a verdict for each criterion"), "{error}");
}

#[test]
fn the_published_judgments_of_cfbench_give_the_published_scores() {
    let Some(rows) = published("cfbench_moonshot.json") else { return };
    assert_eq!(rows.len(), 20);
    let [csr, isr, psr] = cfbench(&rows);
    println!("CFBench: {csr:.4} {isr:.4} {psr:.4}");
    assert!((csr - 0.8385).abs() < 1e-9 && (isr - 0.45).abs() < 1e-9 && (psr - 0.65).abs() < 1e-9);
}

#[test]
fn the_published_file_of_cfbench_is_known_by_its_digest() {
    let Some(rows) = published("cfbench_data.json") else { return };
    let path = PathBuf::from(std::env::var_os("TRUING_TEST_BENCHMARKS").unwrap()).join("cfbench_data.json");
    let options =
        TaskOptions { mode: truing_eval::benchmarks::ScoringMode::Official, ..TaskOptions::default() };
    let loaded = load(find("cfbench").unwrap(), &path, &options).unwrap();
    assert_eq!((loaded.items.len(), rows.len()), (1000, 1000));
    assert_eq!(loaded.file.known_as.as_deref(), Some("cfbench_data.json at 0bcbf9b0"));
}

#[test]
fn sheets_of_sysbench_are_scored_by_dialogue() {
    let line = |id: u64, round: u64, related: bool, alignment: &str, results: &str| {
        json!({
            "system_id": id, "round_index": round, "multi_rounds_related": related, "alignment": alignment,
            "prompt": "问", "评判结果": results
        })
    };
    let rows = [
        line(1, 2, true, "misalign", "1. 内容约束 | 是\n2. 风格约束 | 否"),
        line(1, 1, true, "align", "1. 动作约束 | 是"),
        line(2, 1, false, "align", "1. 内容约束 | 是\n2. 格式约束 | 是\n3. 内容约束 | 否"),
        line(2, 2, false, "align", "1. 内容约束 | 是"),
    ];
    let rows: Vec<ObjectRow> = rows.iter().zip(1..).map(|(object, number)| row(number, object)).collect();
    let scored = sysbench_scores_of_sheet(&rows).unwrap();
    let summary = summarised(find("sysbench").unwrap(), &scored, &TaskOptions::default());
    assert!((value(&summary, "csr,none") - 5.0 / 7.0).abs() < 1e-12);
    assert!((value(&summary, "csr_macro,none") - (1.0 + 0.5 + 2.0 / 3.0 + 1.0) / 4.0).abs() < 1e-12);
    assert_eq!((value(&summary, "isr,none"), value(&summary, "ssr,none")), (0.5, 0.25));
    assert_eq!((value(&summary, "ssr_dependent,none"), value(&summary, "ssr_parallel,none")), (0.5, 0.0));
    assert_eq!(value(&summary, "csr_content,none"), 0.75);
    let bad = row(9, &line(3, 1, true, "align", "nothing"));
    assert!(sysbench_scores_of_sheet(&[bad]).unwrap_err().to_string().contains("own.jsonl:9: `评判结果` is"));
}

#[test]
fn the_published_sheets_of_sysbench_give_the_published_scores() {
    // CSR, ISR, SSR, aligned, misaligned, SSR dependent and parallel, and the types in the order of the paper's
    // table.
    for (name, expected, ranges) in [
        (
            "sysbench_gpt4o.jsonl",
            [87.1, 76.4, 54.4, 77.8, 71.4, 56.7, 48.9, 86.8, 86.9, 87.2, 93.5, 87.4, 86.5],
            [84.8, 68.5, 53.1, 43.3, 33.7, 77.8, 60.4, 46.5, 33.3, 26.4],
        ),
        (
            "sysbench_qwen2_72b.jsonl",
            [79.0, 64.2, 41.6, 67.4, 52.6, 41.5, 41.9, 73.5, 80.1, 89.7, 91.1, 79.7, 80.0],
            [78.9, 54.8, 37.9, 23.3, 12.4, f64::NAN, f64::NAN, f64::NAN, f64::NAN, f64::NAN],
        ),
    ] {
        let Some(rows) = published(name) else { continue };
        let scored = sysbench_scores_of_sheet(&rows).unwrap();
        assert_eq!((rows.len(), scored.len()), (2500, 500));
        let summary = summarised(find("sysbench").unwrap(), &scored, &TaskOptions::default());
        let keys = [
            "csr",
            "isr",
            "ssr",
            "isr_aligned",
            "isr_misaligned",
            "ssr_dependent",
            "ssr_parallel",
            "csr_action",
            "csr_content",
            "csr_background",
            "csr_role",
            "csr_format",
            "csr_style",
        ];
        let found = keys.map(|key| 100.0 * value(&summary, &format!("{key},none")));
        println!("{name}: {found:.2?}, macro {:.2}", 100.0 * value(&summary, "csr_macro,none"));
        for ((key, found), expected) in keys.iter().zip(found).zip(expected) {
            assert!((found - expected).abs() <= 0.05 + 1e-9, "{name} {key}: {found}, printed {expected}");
        }
        for (place, expected) in ranges.into_iter().enumerate().filter(|(_, expected)| expected.is_finite()) {
            let kind = if place < 5 { "dependent" } else { "parallel" };
            let found = 100.0 * value(&summary, &format!("r{}_{kind},none", place % 5 + 1));
            assert!(
                (found - expected).abs() <= 0.05 + 1e-9,
                "{name} R{}: {found}, printed {expected}",
                place + 1
            );
        }
    }
}

#[test]
fn the_published_judgments_of_fbbench_give_the_published_scores() {
    for (name, expected) in [
        ("fb_gpt-4o-2024-05-13.jsonl", [68.82, 64.72, 66.77]),
        ("fb_DeepSeek-V3.jsonl", [74.24, 75.48, 74.86]),
        ("fb_Qwen2.5-7B-Instruct.jsonl", [57.09, 58.62, 57.85]),
    ] {
        let Some(rows) = published(name) else { continue };
        let scored = fbbench_scores_of_judged(&rows).unwrap();
        let summary = summarised(find("fbbench").unwrap(), &scored, &TaskOptions::default());
        let mut n_same = 0;
        for ((_, score), row) in scored.iter().zip(&rows) {
            let found = score.measures["item_mean,none"].clone().unwrap().value;
            n_same += usize::from((found - row.object["score"].as_f64().unwrap()).abs() < 1e-9);
        }
        assert_eq!((n_same, rows.len()), (591, 591), "{name}");
        let keys = ["error_correction,none", "response_maintenance,none", "overall,none"];
        // Rounded to four decimals as published.
        let found = keys.map(|key| (value(&summary, key) * 1e4).round() / 100.0);
        println!("{name}: {found:?}");
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn fbbench_records_have_the_scores_of_the_published_program() {
    let record = |id: u64, bench: &str, task: &str, checklist: Value, judgement: Value| {
        json!({
            "id": id, "bench_type": bench, "task_type": task, "user_query": "问", "origin_first_response": "答",
            "feedback": "不对", "checklist": checklist, "judgement": judgement
        })
    };
    let one = |verdict: &str, weight: Value| json!({"评判理由": "因", "评判结果": verdict, "weight": weight});
    let rows = [
        row(
            1,
            &record(
                1,
                "Error Correction",
                "Coding",
                json!([["a", 0.4], ["b", 0.6]]),
                json!({"a": one("是", json!(0.4)), "b": one("否", json!(0.6))}),
            ),
        ),
        row(
            2,
            &record(
                2,
                "Response Maintenance",
                "Coding",
                json!(["a", "b"]),
                json!({"a": one("否", Value::Null), "b": one("是", Value::Null)}),
            ),
        ),
    ];
    let scored = fbbench_scores_of_judged(&rows).unwrap();
    let summary = summarised(find("fbbench").unwrap(), &scored, &TaskOptions::default());
    let found = ["error_correction,none", "response_maintenance,none", "overall,none"]
        .map(|key| value(&summary, key));
    assert_eq!(found, [0.4, 1.0, 0.7]);
    let bad = row(
        3,
        &record(3, "Response Maintenance", "Coding", json!(["a"]), json!({"a": one("部分", Value::Null)})),
    );
    let error = fbbench_scores_of_judged(&[bad]).unwrap_err().to_string();
    assert!(error.contains("own.jsonl:3") && error.contains("是 or 否"), "{error}");
}
