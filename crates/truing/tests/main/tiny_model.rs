//! A Llama with two layers and a tokenizer of single bytes, written at run time: small enough to train in a blink.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// Sizes of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_key_value_heads: usize,
    /// Rows of the embedding and the head. Those past the tokens would be the likeliest ones.
    pub(crate) n_rows: usize,
}

pub(crate) const TINY: Sizes =
    Sizes { hidden: 32, intermediate: 64, n_layers: 2, n_heads: 4, n_key_value_heads: 2, n_rows: VOCAB };

const SPECIAL_TOKENS: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];
const VOCAB: usize = 256 + SPECIAL_TOKENS.len();

/// ChatML, with the turn that the model is to write marked for the loss.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}\
    {% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\
    {% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Writes config.json, model.safetensors, tokenizer.json and tokenizer_config.json into `folder`.
pub(crate) fn write(folder: &Path) {
    write_with(folder, TINY);
}

/// The same with other sizes.
pub(crate) fn write_with(folder: &Path, sizes: Sizes) {
    fs::create_dir_all(folder).unwrap();
    let save = |name: &str, value: &Value| {
        fs::write(folder.join(name), serde_json::to_vec_pretty(value).unwrap()).unwrap();
    };
    save(
        "config.json",
        &json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
            "hidden_act": "silu", "hidden_size": sizes.hidden, "intermediate_size": sizes.intermediate,
            "num_hidden_layers": sizes.n_layers, "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.n_key_value_heads, "vocab_size": sizes.n_rows, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
            "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
        }),
    );
    save("tokenizer.json", &tokenizer());
    save(
        "tokenizer_config.json",
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>", "add_bos_token": false, "model_max_length": 2048,
            "chat_template": CHAT_TEMPLATE,
        }),
    );
    fs::write(folder.join("model.safetensors"), weights(sizes)).unwrap();
}

/// Byte-level BPE without a single merge.
fn tokenizer() -> Value {
    let mut vocab: Map<String, Value> =
        (0..=255_u8).map(|byte| (byte_char(byte).to_string(), json!(byte))).collect();
    let mut added = Vec::new();
    for (idx, content) in SPECIAL_TOKENS.iter().enumerate() {
        vocab.insert((*content).to_owned(), json!(256 + idx));
        added.push(json!({
            "id": 256 + idx, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
    }
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
        },
    })
}

/// GPT-2's printable stand-in for a byte.
fn byte_char(byte: u8) -> char {
    let is_printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|&b| !is_printable(b)).count() as u32;
    char::from_u32(256 + place).unwrap()
}

/// One safetensors file with random weights that are the same every time.
fn weights(sizes: Sizes) -> Vec<u8> {
    let Sizes { hidden, intermediate, .. } = sizes;
    let kv = sizes.n_key_value_heads * (hidden / sizes.n_heads);
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![VOCAB, hidden]),
        ("model.norm.weight".into(), vec![hidden]),
    ];
    for layer in 0..sizes.n_layers {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![intermediate, hidden]),
            ("mlp.up_proj", vec![intermediate, hidden]),
            ("mlp.down_proj", vec![hidden, intermediate]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut data: Vec<u8> = Vec::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for (name, shape) in tensors {
        let begin = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            // xorshift64, scaled to a uniform number in [-0.1, 0.1).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let random = ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5) * 0.2;
            let value = if shape.len() == 1 { 1.0 + random } else { random };
            data.extend_from_slice(&value.to_le_bytes());
        }
        let mut shape = shape;
        if shape[0] == VOCAB {
            // Twice a row of the tokens: a logit of twice the size.
            let rows = data[begin..].to_vec();
            let row_bytes = 4 * sizes.hidden;
            for row in 0..sizes.n_rows - VOCAB {
                for value in rows[row * row_bytes..(row + 1) * row_bytes].chunks_exact(4) {
                    let value = f32::from_le_bytes(value.try_into().unwrap());
                    data.extend_from_slice(&(2.0 * value).to_le_bytes());
                }
            }
            shape[0] = sizes.n_rows;
        }
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] }));
    }
    let mut header = serde_json::to_vec(&Value::Object(header)).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
