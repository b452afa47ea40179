//! Templates and triplets mined from prompts whose templates are known, where the data is found
//! (`TRUING_TEST_SHARED`).
//!
//! The rules were tuned on the FLAN prompts and on half of the data sets behind the P3 prompts; the other half
//! ([`HELD_OUT`]) was looked at last.
#![allow(clippy::print_stdout, reason = "figures, and why a test was skipped")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use truing_prompts::clustering::{KmeansOptions, Vectors, coarse_and_fine};
use truing_prompts::templates::{TemplateOptions, TemplateSet, mine_templates};
use truing_prompts::tokens::TokenPool;
use truing_prompts::triplets::{TripletOptions, mine_triplets};

use crate::support::{DIM, word_vectors};

const HELD_OUT: &[&str] =
    &["paws_labeled_final", "qasc", "adversarial_qa_dbert", "kilt_tasks_hotpotqa", "dbpedia_14"];

pub(crate) struct Row {
    pub(crate) template: String,
    pub(crate) data_set: String,
    pub(crate) prompt: String,
}

/// The rows of a file of filled templates; `None`, said aloud, where it is not found.
pub(crate) fn read(name: &str) -> Option<Vec<Row>> {
    let shared =
        std::env::var_os("TRUING_TEST_SHARED").map(|path| PathBuf::from(path).join("data/templates"));
    let Some(folder) = shared.filter(|path| path.exists()) else {
        println!("skipped: TRUING_TEST_SHARED does not name a folder with data/templates");
        return None;
    };
    let file = std::fs::File::open(folder.join(format!("{name}.jsonl.gz"))).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let row = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| value[name].as_str().unwrap().to_owned();
        // Two pairs of FLAN's templates are the same text under two names.
        let template = match field("template").as_str() {
            "cot_strategyqa/5" => "cot_gsm8k/1".to_owned(),
            "cot_qasc/4" => "cot_gsm8k/2".to_owned(),
            name => name.to_owned(),
        };
        Row { template, data_set: field("dataset"), prompt: field("prompt") }
    };
    Some(text.split('\n').filter(|line| !line.is_empty()).map(row).collect())
}

/// FLAN, the tuned and the held-out half of P3, and all together.
pub(crate) fn pools() -> Option<Vec<(&'static str, Vec<Row>)>> {
    let is_held_out = |row: &Row| HELD_OUT.contains(&row.data_set.as_str());
    let mixture = [read("flan_filled_prompts")?, read("p3_filled_prompts")?];
    let (held_out, tuned) = read("p3_filled_prompts")?.into_iter().partition(is_held_out);
    Some(vec![
        ("FLAN", read("flan_filled_prompts")?),
        ("P3, tuned half", tuned),
        ("P3, held-out half", held_out),
        ("P3", read("p3_filled_prompts")?),
        ("mixture", mixture.into_iter().flatten().collect()),
    ])
}

struct Quality {
    coverage: f64,
    purity: f64,
    pair_precision: f64,
    pair_recall: f64,
}

fn quality(rows: &[Row], set: &TemplateSet) -> Quality {
    let pairs = |n: usize| (n * n.saturating_sub(1) / 2) as f64;
    let mut found: Vec<BTreeMap<&str, usize>> = vec![BTreeMap::new(); set.templates.len()];
    let mut labels: BTreeMap<&str, usize> = BTreeMap::new();
    for (row, template) in rows.iter().zip(&set.template_of_row) {
        *labels.entry(&row.template).or_default() += 1;
        if let Some(template) = template {
            *found[*template as usize].entry(&row.template).or_default() += 1;
        }
    }
    let n_covered: usize = found.iter().flat_map(BTreeMap::values).sum();
    let majority: usize = found.iter().filter_map(|labels| labels.values().max()).sum();
    let good: f64 = found.iter().flat_map(BTreeMap::values).map(|&n| pairs(n)).sum();
    let all: f64 = found.iter().map(|labels| pairs(labels.values().sum())).sum();
    let wanted: f64 = labels.values().map(|&n| pairs(n)).sum();
    Quality {
        coverage: n_covered as f64 / rows.len() as f64,
        purity: majority as f64 / n_covered as f64,
        pair_precision: good / all,
        pair_recall: good / wanted,
    }
}

#[test]
fn templates_of_known_prompts_are_found() {
    let Some(pools) = pools() else { return };
    println!(
        "{:<18} {:>6} {:>6} {:>8} {:>7} {:>9} {:>7}",
        "pool", "true", "found", "coverage", "purity", "precision", "recall"
    );
    let mut failures = Vec::new();
    for (name, rows) in pools {
        let pool = TokenPool::of(rows.iter().map(|row| &row.prompt)).unwrap();
        let set = mine_templates(&pool, &TemplateOptions::default()).unwrap();
        let quality = quality(&rows, &set);
        let mut labels: Vec<&str> = rows.iter().map(|row| row.template.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        println!(
            "{name:<18} {:>6} {:>6} {:>8.3} {:>7.4} {:>9.4} {:>7.4}",
            labels.len(),
            set.templates.len(),
            quality.coverage,
            quality.purity,
            quality.pair_precision,
            quality.pair_recall,
        );
        if quality.purity < 0.95
            || quality.pair_precision < 0.9
            || quality.coverage < 0.7
            || quality.pair_recall < 0.6
        {
            failures.push(name);
        }
        if std::env::var_os("TRUING_TEST_SHOW").is_some() {
            println!("{}", set.table(&pool, 3));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

/// Mines triplets with clusters of word vectors, which group by topic as plain semantic vectors do.
#[test]
fn triplets_of_known_prompts_are_right() {
    let Some(pools) = pools() else { return };
    println!(
        "{:<18} {:>8} {:>9} {:>9} {:>9} {:>12} {:>12} {:>12}",
        "pool", "triplets", "positive", "negative", "triplet", "no template", "no positive", "no negative"
    );
    let mut failures = Vec::new();
    for (name, rows) in pools {
        let texts: Vec<&str> = rows.iter().map(|row| row.prompt.as_str()).collect();
        let set = mine_templates(&TokenPool::of(&texts).unwrap(), &TemplateOptions::default()).unwrap();
        let vectors = word_vectors(&texts);
        let vectors = Vectors::new(&vectors, DIM).unwrap();
        let options = KmeansOptions { n_clusters: rows.len() / 200, ..Default::default() };
        let clusters = coarse_and_fine(vectors, &options, 20).unwrap();
        let found = mine_triplets(&set, &clusters, vectors, &TripletOptions::default()).unwrap();
        let label = |row: u32| rows[row as usize].template.as_str();
        let n = found.triplets.len();
        let right_positives = found.triplets.iter().filter(|t| label(t.anchor) == label(t.positive)).count();
        let right_negatives = found.triplets.iter().filter(|t| label(t.anchor) != label(t.negative)).count();
        let share = |count: usize| count as f64 / n as f64;
        println!(
            "{name:<18} {n:>8} {:>9.4} {:>9.4} {:>9.4} {:>12} {:>12} {:>12}",
            share(right_positives),
            share(right_negatives),
            n as f64 / rows.len() as f64,
            found.n_without_template,
            found.n_without_positive,
            found.n_without_negative,
        );
        if share(right_positives) < 0.95 || share(right_negatives) < 0.95 || n < rows.len() / 3 {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}
