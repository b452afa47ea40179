//! The coverage page of a selection, from a generated pool whose every figure is known.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rand_chacha::rand_core::Rng;
use serde::Serialize;
use serde_json::{Value, json};
use truing_prompts::map::{MapOptions, draw_map};
use truing_report::{CoverageLimits, CoverageRecord, ReportError, render_coverage, write_report};
use truing_run::selection::{
    Decision, DroppedRow, LayerCount, PromptDecision, SelectionLayer, SelectionSummary, TemplatePiece,
    TemplateRow,
};
use truing_types::{RowOrigin, Seed};

const ABILITIES: [&str; 4] = ["text generation", "code", "knowledge Q&A", "logical <reasoning>"];
const FIXED: [&str; 6] = [
    "Write a short story about",
    "Fix this HTML: </script><script>alert('no')</script>",
    "Answer the question from the passage. Passage:",
    "Which number is larger,",
    "把下面的句子翻译成英文：",
    "Summarise in one sentence:",
];
const NOUNS: [&str; 8] = [
    "a lighthouse",
    "the red fox",
    "prime numbers",
    "tea",
    "<b>bold</b> & loud",
    "river trade",
    "a clock",
    "snow",
];
const DIM: usize = 16;

/// `n` rows of six templates over eight topics, a fixed share of them dropped by each layer.
fn decisions(n: u64) -> Vec<PromptDecision> {
    let mut generator = Seed(11).generator("pool", &[]);
    let mut draw = |n: u64| generator.next_u64() % n;
    (0..n)
        .map(|id| {
            let (template, topic) = (draw(6) as usize, draw(8) as usize);
            let text =
                format!("{} {} {}", FIXED[template], NOUNS[topic], "and so on ".repeat(draw(40) as usize));
            let dropped = |layer, threshold: Option<f64>, representative: Option<u64>, detail: &str| {
                Decision::Dropped(DroppedRow { layer, threshold, representative, detail: detail.into() })
            };
            let before = Some(id.saturating_sub(1));
            let decision = match id % 20 {
                1 => dropped(SelectionLayer::ExactDuplicate, None, before, ""),
                2..5 => dropped(SelectionLayer::NearDuplicate, Some(0.8), Some(0), "Jaccard 0.91"),
                5 => dropped(
                    SelectionLayer::Cleaning { rule: "too few letters".into() },
                    Some(0.5),
                    None,
                    "0.31",
                ),
                6 => {
                    let evaluation_file = "data/gsm8k_test.jsonl".into();
                    dropped(
                        SelectionLayer::Contaminated { evaluation_file },
                        Some(13.0),
                        None,
                        "14 words shared",
                    )
                }
                7..10 => dropped(SelectionLayer::Diversity { level: 1 }, Some(0.1), Some(id / 20 * 20), ""),
                10..12 => dropped(SelectionLayer::Diversity { level: 2 }, Some(0.2), Some(id / 20 * 20), ""),
                _ => Decision::Kept,
            };
            PromptDecision {
                id,
                origin: RowOrigin { source: "pool.jsonl".into(), line: id + 1 },
                n_characters: text.chars().count() as u64,
                text,
                language: Some(if template == 4 { "cmn" } else { "eng" }.into()),
                labels: [
                    ("ability".to_owned(), ABILITIES[template % 4].to_owned()),
                    ("topic".to_owned(), format!("topic {topic}")),
                ]
                .into(),
                quality: Some(draw(1000) as f64 / 1000.0),
                coarse_cluster: Some(topic as u32),
                fine_cluster: Some((topic * 6 + template) as u32),
                template: Some(template as u32),
                decision,
            }
        })
        .collect()
}

fn templates(rows: &[PromptDecision]) -> Vec<TemplateRow> {
    let of = |id: u32| rows.iter().filter(move |row| row.template == Some(id));
    (0..6_u32)
        .map(|id| TemplateRow {
            id,
            pieces: vec![
                TemplatePiece::Fixed(format!("{} ", FIXED[id as usize])),
                TemplatePiece::Slot(1),
                TemplatePiece::Fixed(" ".into()),
                TemplatePiece::Slot(2),
            ],
            n_rows: of(id).count() as u64,
            n_kept: of(id).filter(|row| row.decision == Decision::Kept).count() as u64,
            filler_examples: vec![vec!["tea <i>".into(), "and so on".into()]],
        })
        .collect()
}

fn write_lines<T: Serialize>(path: &Path, rows: &[T]) {
    let lines: String = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect();
    fs::write(path, lines).unwrap();
}

/// A selection's folder over `n` rows with a map of `n_points`.
fn write_selection(folder: &Path, n: u64, n_points: usize) -> Vec<PromptDecision> {
    let rows = decisions(n);
    let layer = |layer: SelectionLayer, threshold| LayerCount {
        n_dropped: rows.iter().filter(|row| row.decision.dropped().is_some_and(|d| d.layer == layer)).count()
            as u64,
        layer,
        threshold,
    };
    let summary = SelectionSummary {
        settings: json!({ "target_share": 0.4, "note": "</script>" }),
        n_rows: n,
        n_kept: rows.iter().filter(|row| row.decision == Decision::Kept).count() as u64,
        n_tasks: 1234,
        layers: vec![
            layer(SelectionLayer::Cleaning { rule: "too few letters".into() }, Some(0.5)),
            layer(SelectionLayer::ExactDuplicate, None),
            layer(SelectionLayer::NearDuplicate, Some(0.8)),
            layer(
                SelectionLayer::Contaminated { evaluation_file: "data/gsm8k_test.jsonl".into() },
                Some(13.0),
            ),
            layer(SelectionLayer::Diversity { level: 1 }, Some(0.1)),
            layer(SelectionLayer::Diversity { level: 2 }, Some(0.2)),
            layer(SelectionLayer::TargetSize, None),
        ],
        seeds: [("selection".to_owned(), 11)].into(),
        notes: vec!["No quality model was given: ties go to the lowest row.".into()],
    };
    fs::write(folder.join(SelectionSummary::FILE_NAME), serde_json::to_vec(&summary).unwrap()).unwrap();
    write_lines(&folder.join(PromptDecision::FILE_NAME), &rows);
    write_lines(&folder.join(TemplateRow::FILE_NAME), &templates(&rows));
    let noise = Seed(5).normals("vectors", rows.len() * DIM, 0.25);
    let vectors: Vec<f32> = (0..rows.len() * DIM)
        .map(|i| {
            let (row, column) = (&rows[i / DIM], i % DIM);
            let is_topic = row.coarse_cluster == Some(column as u32);
            let is_template = row.template.map(|template| template as usize + 8) == Some(column);
            noise[i] + f32::from(u8::from(is_topic)) + 0.7 * f32::from(u8::from(is_template))
        })
        .collect();
    let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
    let clusters: Vec<Option<u32>> = rows.iter().map(|row| row.fine_cluster).collect();
    let options = MapOptions { n_points, n_iterations: 300, ..MapOptions::default() };
    let map = draw_map(&ids, &clusters, &vectors, DIM, &options).unwrap();
    fs::write(folder.join("map.json"), serde_json::to_vec(&map).unwrap()).unwrap();
    rows
}

/// Hashed words and pairs of words of a text, of length 1: vectors that know neither meaning nor templates.
fn hashed_words(text: &str, dim: usize) -> Vec<f32> {
    let mut vector = vec![0.0; dim];
    let words: Vec<&str> = text.split_whitespace().take(60).collect();
    for n in 1..=2 {
        for gram in words.windows(n) {
            let hash = crc32c::crc32c(gram.join(" ").to_lowercase().as_bytes());
            vector[hash as usize % dim] += if hash & 0x1_0000 == 0 { 1.0 } else { -1.0 };
        }
    }
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-6);
    vector.iter().map(|value| value / norm).collect()
}

/// The prompts of P3 with their true templates and data sets; those whose first 60 letters were there before count as
/// near duplicates. Gives back what the map was like.
fn real_selection(path: &Path, folder: &Path) -> String {
    let file = flate2::read::GzDecoder::new(fs::File::open(path).unwrap());
    let rows: Vec<Value> =
        BufReader::new(file).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let (mut templates, mut sets) = (BTreeMap::new(), BTreeMap::new());
    let number_of = |names: &mut BTreeMap<String, u32>, row: &Value, field: &str| {
        let next = names.len() as u32;
        *names.entry(row[field].as_str().unwrap().to_owned()).or_insert(next)
    };
    let mut first_with: BTreeMap<String, u64> = BTreeMap::new();
    let mut vectors = Vec::new();
    let mut decisions = Vec::new();
    for (id, row) in (0..).zip(&rows) {
        let text = row["prompt"].as_str().unwrap().to_owned();
        vectors.extend(hashed_words(&text, 256));
        let beginning: String = text.chars().filter(|c| c.is_alphabetic()).take(60).collect();
        let first = *first_with.entry(beginning).or_insert(id);
        let dropped = DroppedRow {
            layer: SelectionLayer::NearDuplicate,
            threshold: Some(60.0),
            representative: Some(first),
            detail: "the same first 60 letters".into(),
        };
        decisions.push(PromptDecision {
            id,
            origin: RowOrigin { source: "p3_filled_prompts.jsonl.gz".into(), line: id + 1 },
            n_characters: text.chars().count() as u64,
            text,
            language: None,
            labels: [("dataset".to_owned(), row["dataset"].as_str().unwrap().to_owned())].into(),
            quality: None,
            coarse_cluster: Some(number_of(&mut sets, row, "dataset")),
            fine_cluster: None,
            template: Some(number_of(&mut templates, row, "template")),
            decision: if first == id { Decision::Kept } else { Decision::Dropped(dropped) },
        });
    }
    let found: Vec<TemplateRow> = templates
        .iter()
        .map(|(name, &id)| TemplateRow {
            id,
            pieces: vec![TemplatePiece::Fixed(format!("{name}: ")), TemplatePiece::Slot(1)],
            n_rows: decisions.iter().filter(|row| row.template == Some(id)).count() as u64,
            n_kept: decisions
                .iter()
                .filter(|row| row.template == Some(id) && row.decision == Decision::Kept)
                .count() as u64,
            filler_examples: Vec::new(),
        })
        .collect();
    let summary = SelectionSummary {
        n_rows: decisions.len() as u64,
        n_kept: decisions.iter().filter(|row| row.decision == Decision::Kept).count() as u64,
        ..SelectionSummary::default()
    };
    fs::write(folder.join(SelectionSummary::FILE_NAME), serde_json::to_vec(&summary).unwrap()).unwrap();
    write_lines(&folder.join(PromptDecision::FILE_NAME), &decisions);
    write_lines(&folder.join(TemplateRow::FILE_NAME), &found);
    let ids: Vec<u64> = decisions.iter().map(|row| row.id).collect();
    let clusters: Vec<Option<u32>> = decisions.iter().map(|row| row.coarse_cluster).collect();
    let started = Instant::now();
    let map = draw_map(&ids, &clusters, &vectors, 256, &MapOptions::default()).unwrap();
    let secs = started.elapsed().as_secs_f64();
    // Neighbours on the map are mostly of one data set, however poor the vectors are.
    let points = &map.projections[1].points;
    let set_of = |at: usize| decisions[map.ids[at] as usize].coarse_cluster;
    let n_pure = (0..points.len()).filter(|&at| set_of(at) == set_of(nearest(points, at))).count();
    let share = n_pure as f64 / points.len() as f64;
    assert!(share > 0.6, "{share}");
    fs::write(folder.join("map.json"), serde_json::to_vec(&map).unwrap()).unwrap();
    format!(
        "a map of {} of {} prompts in {secs:.1} s; t-SNE's nearest point is of the same data set for {:.0} %",
        map.ids.len(),
        ids.len(),
        100.0 * share
    )
}

fn nearest(points: &[[f32; 2]], at: usize) -> usize {
    let square = |other: &usize| {
        let [x, y] = [0, 1].map(|axis| points[at][axis] - points[*other][axis]);
        x * x + y * y
    };
    (0..points.len()).filter(|other| *other != at).min_by(|a, b| square(a).total_cmp(&square(b))).unwrap()
}

#[test]
fn real_prompts_have_a_map_and_a_page() {
    let shared = std::env::var_os("TRUING_TEST_SHARED").map(PathBuf::from);
    let path = shared.map(|shared| shared.join("data/templates/p3_filled_prompts.jsonl.gz"));
    let Some(path) = path.filter(|path| path.is_file()) else {
        println!("skipped: TRUING_TEST_SHARED does not name a folder with data/templates");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    println!("{}", real_selection(&path, folder.path()));
    let page = folder.path().join("coverage.html");
    write_report(folder.path(), &page).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    let of_template = include_str!("../../templates/coverage.html").matches("</script>").count();
    assert_eq!(html.matches("</script>").count(), of_template, "no prompt ends a script");
    if let Some(keep) = std::env::var_os("TRUING_TEST_KEEP_REAL_COVERAGE") {
        fs::copy(&page, keep).unwrap();
    }
}

/// The data that the page's script reads.
fn script_data(html: &str, id: &str) -> Value {
    let opening = format!("<script type=\"application/json\" id=\"{id}\">");
    let from = html.find(&opening).unwrap() + opening.len();
    let length = html[from..].find("</script>").unwrap();
    serde_json::from_str(&html[from..from + length]).unwrap()
}

#[test]
fn the_page_counts_every_row_and_names_every_reason() {
    let folder = tempfile::tempdir().unwrap();
    let rows = write_selection(folder.path(), 1000, 300);
    let page = folder.path().join("coverage.html");
    write_report(folder.path(), &page).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    let text = html.split("<script type=\"application/json\"").next().unwrap();
    for expected in [
        "Of 1,000 prompts 450 were kept (45.0 %). 1,234 tasks share them.",
        "near duplicate (150), diversity layer 1 (150), diversity layer 2 (100)",
        "ties go to the lowest row",
        "All 8 clusters",
        "All 6 templates",
        "All 550 dropped rows.",
        "300 of 1000 rows, sampled from each cluster",
        "target size",
        "<span class=\"slot\">2</span>",
    ] {
        assert!(text.contains(expected), "{expected}");
    }
    let charts = script_data(&html, "charts");
    let ids: Vec<&str> =
        charts.as_array().unwrap().iter().map(|chart| chart["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids,
        [
            "chart-layers",
            "chart-length",
            "chart-quality",
            "chart-values-0",
            "chart-values-1",
            "chart-values-2"
        ]
    );
    for id in ids {
        assert!(text.contains(&format!("id=\"{id}\"")), "{id}");
    }
    // From the pool down to the target size, at which all kept rows are left.
    let remaining = charts[0]["figure"]["series"][0]["y"].as_array().unwrap();
    assert_eq!((remaining[0].as_u64(), remaining.last().unwrap().as_u64()), (Some(1000), Some(450)));
    let lengths = &charts[1]["figure"]["series"];
    let sum = |trace: usize| -> u64 {
        lengths[trace]["y"].as_array().unwrap().iter().map(|value| value.as_u64().unwrap()).sum()
    };
    assert_eq!((sum(0), sum(1)), (1000, 450));

    let data = script_data(&html, "coverage");
    assert_eq!(data["dropped"].as_array().unwrap().len(), 550);
    let third = &data["rows"]["3"];
    assert_eq!(third["layer"], "near duplicate");
    assert_eq!(third["why"], "Jaccard 0.91, threshold 0.8");
    assert_eq!(third["representative"], 0);
    assert!(rows[0].text.starts_with(data["rows"]["0"]["text"].as_str().unwrap().trim_end_matches('…')));
    assert_eq!(data["map"]["ids"].as_array().unwrap().len(), 300);
    assert_eq!(data["map"]["projections"][1]["name"], "t-SNE");
    if let Some(keep) = std::env::var_os("TRUING_TEST_KEEP_COVERAGE") {
        fs::copy(&page, keep).unwrap();
    }
}

#[test]
fn prompts_cannot_become_markup() {
    let folder = tempfile::tempdir().unwrap();
    write_selection(folder.path(), 200, 100);
    let html =
        render_coverage(&CoverageRecord::read(folder.path(), &CoverageLimits::default()).unwrap()).unwrap();
    assert!(!html.contains("<script>alert"), "a prompt's markup must be escaped");
    assert!(!html.contains("logical <reasoning>"), "a label's markup must be escaped");
    assert_eq!(html.matches("</script>").count(), 3, "two of data, one of code");
    let own = &html[..html.find("<script type=\"application/json\"").unwrap()];
    assert!(!own.contains("http://") && !own.contains("https://"), "the page loads nothing");
    assert!(!own.contains("<b>bold"), "a filler's markup must be escaped");
}

#[test]
fn a_large_pool_gives_a_small_page_that_says_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    write_selection(folder.path(), 100_000, 3000);
    let started = Instant::now();
    let page = folder.path().join("coverage.html");
    write_report(folder.path(), &page).unwrap();
    let size = fs::metadata(&page).unwrap().len();
    println!("100,000 rows: {size} bytes in {:.2} s", started.elapsed().as_secs_f64());
    assert!(size < 10_000_000, "{size} bytes");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("5,000 of 55,000 dropped rows: the rows are divided equally among the layers"));
    let data = script_data(&html, "coverage");
    let mut by_layer: BTreeMap<&str, usize> = BTreeMap::new();
    for id in data["dropped"].as_array().unwrap() {
        let row = &data["rows"][id.to_string()];
        *by_layer.entry(row["layer"].as_str().unwrap()).or_default() += 1;
        if let Some(representative) = row["representative"].as_u64() {
            assert!(
                data["rows"][representative.to_string()].is_object(),
                "the text of {representative} is there"
            );
        }
    }
    assert_eq!(by_layer.values().sum::<usize>(), 5000);
    assert!(by_layer.values().all(|&n| n == 833 || n == 834), "{by_layer:?}");
    if let Some(keep) = std::env::var_os("TRUING_TEST_KEEP_LARGE_COVERAGE") {
        fs::copy(&page, keep).unwrap();
    }
}

#[test]
fn a_bare_selection_has_a_page_and_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let read = || CoverageRecord::read(folder.path(), &CoverageLimits::default());
    assert!(matches!(read().unwrap_err(), ReportError::NoRun { missing: "summary.json", .. }));
    let summary = SelectionSummary::default();
    fs::write(folder.path().join("summary.json"), serde_json::to_vec(&summary).unwrap()).unwrap();
    assert!(matches!(read().unwrap_err(), ReportError::NoRun { missing: "decisions.jsonl", .. }));
    fs::write(folder.path().join("decisions.jsonl"), "").unwrap();
    let html = render_coverage(&read().unwrap()).unwrap();
    assert!(html.contains("Of 0 prompts 0 were kept (0.0 %). No row was dropped."));
    assert!(!html.contains("id=\"map\"") && !html.contains("id=\"clusters\""));

    let mut row = decisions(3).remove(2);
    row.text = "ä".repeat(100_000);
    row.decision = Decision::Dropped(DroppedRow {
        layer: SelectionLayer::NearDuplicate,
        threshold: None,
        representative: Some(77),
        detail: String::new(),
    });
    let line = serde_json::to_string(&row).unwrap();
    fs::write(folder.path().join("decisions.jsonl"), format!("{line}\n")).unwrap();
    let html = render_coverage(&read().unwrap()).unwrap();
    assert!(
        html.contains("the files of this folder do not belong together"),
        "summary and decisions disagree"
    );
    assert!(html.len() < 1_200_000, "a prompt of 200 KB is cut to its beginning");

    fs::write(folder.path().join("decisions.jsonl"), format!("{line}\n{{\"id\": 2}}\n")).unwrap();
    let error = read().unwrap_err().to_string();
    assert!(error.contains("decisions.jsonl:2: missing field `origin`"), "{error}");
    fs::write(folder.path().join("decisions.jsonl"), format!("{line}\n")).unwrap();
    let odd =
        json!({ "sampling": "", "ids": [2], "projections": [{ "name": "PCA", "about": "", "points": [] }] });
    fs::write(folder.path().join("map.json"), odd.to_string()).unwrap();
    let error = read().unwrap_err().to_string();
    assert!(error.contains("map.json:1: PCA has 0 points for 1 ids"), "{error}");
}
