//! Real sets, where `TRUING_TEST_SHARED` names a folder that holds them.

use std::path::PathBuf;

use truing_data::{OnBadRow, Packing, PackingStrategy, Render, SourceConfig, epoch_order, read_rows};
use truing_types::{Seed, TrainingRow};

fn shared(path: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("TRUING_TEST_SHARED") else {
        println!("skipped: TRUING_TEST_SHARED is not set");
        return None;
    };
    let path = PathBuf::from(folder).join("data").join(path);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn check_all_good(config: &SourceConfig, n_rows: usize, format: &str) -> Vec<TrainingRow> {
    let mut rows = read_rows(config, OnBadRow::Error).unwrap();
    let read: Vec<_> = rows.by_ref().map(|row| row.unwrap().0).collect();
    assert_eq!(read.len(), n_rows);
    assert_eq!(rows.format().map(|f| f.name), Some(format));
    read
}

fn question_answer(path: PathBuf) -> SourceConfig {
    SourceConfig {
        columns: [("prompt".into(), "question".into()), ("completion".into(), "answer".into())].into(),
        render: Some(Render::Chat),
        ..SourceConfig::new(path)
    }
}

#[test]
fn real_sets_read_whole() {
    if let Some(path) = shared("math/gsm8k_train.jsonl.gz") {
        check_all_good(&question_answer(path), 6_000, "prompt_completion");
    }
    for language in ["en", "zh"] {
        if let Some(path) = shared(&format!("tool_use/glaive_toolcall_{language}_demo.jsonl.gz")) {
            let rows = read_rows(&SourceConfig::new(path), OnBadRow::Error).unwrap();
            let calls_tool = |row: &TrainingRow| match row {
                TrainingRow::Conversation(c) => c.messages.iter().any(|m| m.tool_calls.is_some()),
                _ => false,
            };
            assert!(rows.map(|row| row.unwrap().0).filter(calls_tool).count() > 20);
        }
    }
    if let Some(path) = shared("instructions/self_instruct_seed_tasks.jsonl") {
        let config = SourceConfig {
            columns: [("completion".into(), "instances.0.output".into())].into(),
            prompt_template: Some("{instruction}\n\n{instances.0.input}".into()),
            render: Some(Render::Chat),
            ..SourceConfig::new(path)
        };
        check_all_good(&config, 175, "prompt_completion");
    }
    if let Some(path) = shared("format_fixtures/sysbench.jsonl") {
        check_all_good(&SourceConfig::new(path), 1, "messages");
    }
}

#[test]
fn gsm8k_packs_to_98_percent() {
    let Some(path) = shared("math/gsm8k_train.jsonl.gz") else { return };
    // About four characters a token; the real tokenizer's figure is measured elsewhere.
    let lengths: Vec<u32> = read_rows(&question_answer(path), OnBadRow::Error)
        .unwrap()
        .map(|row| match row.unwrap().0 {
            TrainingRow::Conversation(c) => {
                40 + c.messages.iter().map(|m| m.content.len() as u32).sum::<u32>() / 3
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let source =
        truing_data::SourceRange { name: "gsm8k".into(), sampling_weight: 1.0, samples: 0..lengths.len() };
    let visits = epoch_order(&[source], Seed(0), 0);
    let strategy = PackingStrategy::BestFitDecreasing;
    let packing = Packing::of_epoch(&lengths, &visits, 2048, strategy, Seed(0), 0).unwrap();
    assert!(packing.report.utilisation >= 0.98, "{:?}", packing.report);
}
