//! Models whose vocabularies differ.

use serde_json::{Value, json};
use truing_model::{DecoderSpec, ModelFiles, SaveDtype, Tensor};
use truing_types::Seed;

use super::{Models, tokenizer};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// `chat` is the model `a` with two more tokens, and with two of its rows exchanged.
fn with_chat_tokens() -> Models {
    let models = Models::llama();
    let spec = DecoderSpec { vocab_size: models.spec.vocab_size + 2, ..models.spec.clone() };
    let mut weights = models.load("a");
    let Tensor { shape, values } = weights.tensors.get_mut(EMBEDDING).unwrap();
    shape[0] += 2;
    values.extend(Seed(6).normals("rows", 2 * shape[1], 0.1));
    for i in 0..shape[1] {
        values.swap(7 * shape[1] + i, 8 * shape[1] + i);
    }
    models.save("chat", &spec, &weights, SaveDtype::F32);
    let mut json = tokenizer(spec.vocab_size, &["<|user|>", "<|bot|>"]);
    json["model"]["vocab"]["t7"] = json!(8);
    json["model"]["vocab"]["t8"] = json!(7);
    std::fs::write(models.path("chat").join("tokenizer.json"), json.to_string()).unwrap();
    models
}

fn rows(models: &Models, name: &str) -> Vec<Vec<f32>> {
    let tensor = models.load(name).take(EMBEDDING).unwrap();
    tensor.values.chunks(tensor.shape[1]).map(<[f32]>::to_vec).collect()
}

fn mean(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32).collect()
}

#[test]
fn unequal_vocabularies_are_an_error_until_something_is_said() {
    let models = with_chat_tokens();
    let list = json!([{"model": "b"}, {"model": "chat"}]);
    let error = models.plan(json!({"method": "linear", "models": list})).unwrap_err().to_string();
    assert!(error.contains("4 tokens are not the same, the first is `t7` (id 7 and id 8)"), "{error}");
    assert!(error.contains("\"base\" or \"union\""), "{error}");
}

#[test]
fn the_bases_vocabulary_matches_rows_by_token() {
    let models = with_chat_tokens();
    models.merge_to(
        "out",
        json!({
            "method": "linear", "tokenizer": "base", "models": [{"model": "b"}, {"model": "chat"}],
        }),
    );
    let (merged, b, a) = (rows(&models, "out"), rows(&models, "b"), rows(&models, "a"));
    assert_eq!(merged.len(), models.spec.vocab_size);
    for (row, merged) in merged.iter().enumerate() {
        assert_eq!(*merged, mean(&b[row], &a[row]), "row {row}");
    }
    let ids = ModelFiles::open(&models.path("out")).unwrap().spec.vocab_size;
    assert_eq!(ids, models.spec.vocab_size);
}

#[test]
fn a_union_has_the_tokens_of_all() {
    let models = with_chat_tokens();
    models.merge_to(
        "out",
        json!({
            "method": "linear", "tokenizer": "union", "models": [{"model": "b"}, {"model": "chat"}],
        }),
    );
    let (merged, b, a, chat) =
        (rows(&models, "out"), rows(&models, "b"), rows(&models, "a"), rows(&models, "chat"));
    let n = models.spec.vocab_size;
    assert_eq!(merged.len(), n + 2);
    for row in 0..n {
        assert_eq!(merged[row], mean(&b[row], &a[row]), "row {row}");
    }
    assert_eq!(merged[n..], chat[n..], "tokens of one model keep their rows");
    let opened = ModelFiles::open(&models.path("out")).unwrap();
    assert_eq!(opened.spec.vocab_size, n + 2);
    let json: Value =
        serde_json::from_slice(&std::fs::read(models.path("out/tokenizer.json")).unwrap()).unwrap();
    assert_eq!(json["added_tokens"][1]["content"], "<|bot|>");
    assert_eq!(json["added_tokens"][1]["id"], n + 1);
    assert_eq!(json["model"]["vocab"]["t7"], 7);
}

#[test]
fn a_models_vocabulary_can_be_chosen() {
    let models = with_chat_tokens();
    models.merge_to(
        "out",
        json!({
            "method": "task_arithmetic", "base_model": "base", "tokenizer": "chat",
            "models": [{"model": "b"}, {"model": "chat"}],
        }),
    );
    let (merged, base, b, chat) =
        (rows(&models, "out"), rows(&models, "base"), rows(&models, "b"), rows(&models, "chat"));
    assert_eq!(merged.len(), models.spec.vocab_size + 2);
    let expected = |base: &[f32], b: &[f32], chat: &[f32]| -> Vec<f32> {
        let sum = |i: usize| {
            let [base, b, chat] = [base[i], b[i], chat[i]].map(f64::from);
            (base + ((b - base) + (chat - base))) as f32
        };
        (0..base.len()).map(sum).collect()
    };
    assert_eq!(merged[7], expected(&base[8], &b[8], &chat[7]));
    assert_eq!(merged[20], expected(&base[20], &b[20], &chat[20]));
    let n = models.spec.vocab_size;
    assert_eq!(merged[n], chat[n], "deltas of a row that only one model has are 0");
}

#[test]
fn rows_without_a_token_are_the_bases() {
    let models = Models::llama();
    for name in ["base", "a", "b", "c"] {
        let json = tokenizer(models.spec.vocab_size - 6, &[]);
        std::fs::write(models.path(name).join("tokenizer.json"), json.to_string()).unwrap();
    }
    let other = tokenizer(models.spec.vocab_size - 5, &["<|x|>"]);
    std::fs::write(models.path("b").join("tokenizer.json"), other.to_string()).unwrap();
    models.merge_to(
        "out",
        json!({"method": "linear", "tokenizer": "union", "models": [{"model": "a"}, {"model": "b"}]}),
    );
    let (merged, a, b) = (rows(&models, "out"), rows(&models, "a"), rows(&models, "b"));
    let n = models.spec.vocab_size - 6;
    assert_eq!(merged[n - 1], mean(&a[n - 1], &b[n - 1]));
    assert_eq!(merged[n], b[n], "the new token takes a padding row");
    assert_eq!(merged[n + 1..], a[n + 1..], "padding");
}
