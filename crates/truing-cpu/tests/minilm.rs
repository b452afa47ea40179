//! The vectors of MiniLM, where its weights are at hand.

use std::path::PathBuf;

use truing_conformance::engine::pytorch::vectors_of_minilm;
use truing_cpu::CpuEngine;
use truing_types::TokenId;

#[test]
fn minilm_gives_the_reference_vectors() {
    let (Some(model), Some(shared)) =
        (std::env::var_os("TRUING_TEST_MINILM"), std::env::var_os("TRUING_TEST_SHARED"))
    else {
        println!("skipped: TRUING_TEST_MINILM and TRUING_TEST_SHARED name no weights and no reference");
        return;
    };
    let path = PathBuf::from(shared).join("data/reference/minilm_embeddings.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers = |row: &serde_json::Value, field: &str| -> Vec<f64> {
        row[field].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let token_ids: Vec<Vec<TokenId>> =
        rows.iter().map(|row| numbers(row, "ids").iter().map(|&id| id as TokenId).collect()).collect();
    let vectors: Vec<f32> = rows.iter().flat_map(|row| numbers(row, "embedding")).map(|x| x as f32).collect();
    assert_eq!(vectors.len(), 40 * 384);
    vectors_of_minilm::<CpuEngine>(model.as_ref(), &token_ids, &vectors);
}
