use std::path::{Path, PathBuf};

use truing_model::{DecoderSpec, LoadedModel, ModelFiles, ModelKind, RopeScaling, Tensor, Weights};

use crate::{TINY_MODELS, copied_model, tiny_model};

fn load(path: &Path) -> LoadedModel {
    ModelFiles::open(path).unwrap().load().unwrap()
}

fn error(path: &Path) -> String {
    ModelFiles::open(path).unwrap_err().to_string()
}

/// Writes a safetensors file with other tensors than the model's.
pub(crate) fn write_weights(path: &Path, weights: &Weights) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, tensor) in &weights.tensors {
        let begin = data.len();
        data.extend(tensor.values.iter().flat_map(|v| v.to_le_bytes()));
        let offsets = [begin, data.len()];
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": offsets}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(path, bytes).unwrap();
}

/// A GGUF file in f32 as llama.cpp's converter writes it: for Llama, query and key rows go from
/// `[head, half, j]` to `[head, j, half]`.
pub(crate) fn write_gguf(
    path: &Path,
    architecture: &str,
    model: &LoadedModel,
    rotary_divisors: Option<&[f32]>,
) {
    let spec = &model.spec;
    let text = |value: &str| [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat();
    let number = |name: &str, value: u32| {
        [text(&format!("{architecture}.{name}")), 4_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()]
            .concat()
    };
    let float = |name: &str, value: f32| {
        [text(&format!("{architecture}.{name}")), 6_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()]
            .concat()
    };
    let metadata = [
        [text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text(architecture)].concat(),
        number("block_count", spec.n_layers as u32),
        number("context_length", spec.max_position_embeddings as u32),
        number("embedding_length", spec.hidden_size as u32),
        number("feed_forward_length", spec.intermediate_size as u32),
        number("attention.head_count", spec.n_heads as u32),
        number("attention.head_count_kv", spec.n_kv_heads as u32),
        number("attention.key_length", spec.head_dim as u32),
        number("attention.value_length", spec.head_dim as u32),
        number("rope.dimension_count", spec.head_dim as u32),
        float("attention.layer_norm_rms_epsilon", spec.rms_norm_eps),
        float("rope.freq_base", spec.rope_theta as f32),
    ];
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for parameter in spec.parameters() {
        let mut tensor = model.weights.get(&parameter.name).unwrap().clone();
        let name = parameter
            .name
            .replace("model.embed_tokens", "token_embd")
            .replace("model.norm", "output_norm")
            .replace("lm_head", "output")
            .replace("model.layers", "blk")
            .replace("input_layernorm", "attn_norm")
            .replace("post_attention_layernorm", "ffn_norm")
            .replace("self_attn.q_norm", "attn_q_norm")
            .replace("self_attn.k_norm", "attn_k_norm")
            .replace("self_attn.o_proj", "attn_output")
            .replace("self_attn.q_proj", "attn_q")
            .replace("self_attn.k_proj", "attn_k")
            .replace("self_attn.v_proj", "attn_v")
            .replace("mlp.gate_proj", "ffn_gate")
            .replace("mlp.up_proj", "ffn_up")
            .replace("mlp.down_proj", "ffn_down");
        if architecture == "llama" && (name.contains("attn_q.") || name.contains("attn_k.")) {
            let (rows, half) = (tensor.shape[0], spec.head_dim / 2);
            let width = tensor.values.len() / rows;
            let original = tensor.values.clone();
            for row in 0..rows {
                let (head, inside) = (row / spec.head_dim, row % spec.head_dim);
                let source = head * spec.head_dim + inside % 2 * half + inside / 2;
                tensor.values[row * width..][..width].copy_from_slice(&original[source * width..][..width]);
            }
        }
        tensors.push((name, tensor));
    }
    if let Some(divisors) = rotary_divisors {
        let tensor = Tensor { shape: vec![divisors.len()], values: divisors.to_vec() };
        tensors.push(("rope_freqs.weight".to_owned(), tensor));
    }
    let counts = [tensors.len() as u64, metadata.len() as u64];
    let mut bytes =
        [b"GGUF", &3_u32.to_le_bytes()[..], &counts[0].to_le_bytes(), &counts[1].to_le_bytes()].concat();
    bytes.extend(metadata.concat());
    let mut data = Vec::new();
    for (name, tensor) in &tensors {
        bytes.extend(text(name));
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&size| bytes.extend((size as u64).to_le_bytes()));
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(tensor.values.iter().flat_map(|v| v.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

/// What a GGUF file does not tell is set as it comes back.
fn as_gguf_tells(spec: &DecoderSpec) -> DecoderSpec {
    DecoderSpec {
        rope_scaling: None,
        sliding_windows: vec![None; spec.n_layers],
        bos_token_id: None,
        eos_token_ids: vec![],
        rope_theta: f64::from(spec.rope_theta as f32),
        ..spec.clone()
    }
}

#[test]
fn directories_load_whole() {
    for name in TINY_MODELS {
        let files = ModelFiles::open(&tiny_model(name)).unwrap();
        assert_eq!((files.kind, &files.unused_tensors), (ModelKind::Directory, &vec![]), "{name}");
        let model = files.load().unwrap();
        assert_eq!(model.weights.tensors.len(), model.spec.parameters().len(), "{name}");
    }
}

#[test]
fn gguf_files_give_the_same_weights() {
    let directory = tempfile::tempdir().unwrap();
    for (architecture, name) in [
        ("llama", "llama_tied_llama3_rope"),
        ("llama", "llama_untied_biases"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
    ] {
        let model = load(&tiny_model(name));
        let path = directory.path().join(format!("{name}.gguf"));
        write_gguf(&path, architecture, &model, None);
        let files = ModelFiles::open(&path).unwrap();
        assert_eq!((files.kind, &files.unused_tensors), (ModelKind::Gguf, &vec![]));
        let found = files.load().unwrap();
        assert_eq!(found.spec, as_gguf_tells(&model.spec), "{name}");
        assert!(found.weights == model.weights, "{name}");
    }
    assert!(error(directory.path()).contains("no config.json, and 4 GGUF files"));
}

#[test]
fn llama3_scaling_is_recognised_in_its_divisors() {
    let mut model = load(&tiny_model("llama_tied_llama3_rope"));
    model.spec.rope_theta = 500_000.0;
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let frequencies = |scaling| {
        let spec = DecoderSpec { rope_scaling: scaling, ..model.spec.clone() };
        spec.rotary_inverse_frequencies().0
    };
    let plain = frequencies(None);
    let divisors: Vec<f32> =
        plain.iter().zip(frequencies(Some(scaling.clone()))).map(|(plain, scaled)| plain / scaled).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    write_gguf(&path, "llama", &model, Some(&divisors));
    assert_eq!(ModelFiles::open(directory.path()).unwrap().spec.rope_scaling, Some(scaling));
    write_gguf(&path, "llama", &model, Some(&[1.0, 2.0, 3.0, 5.0]));
    assert!(error(&path).contains("does not follow Llama 3's rotary scaling"));
}

#[test]
fn missing_misshapen_and_superfluous_tensors_are_reported() {
    let directory = copied_model("llama_tied_llama3_rope");
    let weights_path = directory.path().join("model.safetensors");
    let complete = load(directory.path()).weights;

    let mut weights = complete.clone();
    weights.take("model.layers.1.mlp.up_proj.weight").unwrap();
    weights.take("model.norm.weight").unwrap();
    write_weights(&weights_path, &weights);
    let message = error(directory.path());
    assert!(
        message.ends_with("2 of 29 parameters are missing, the first is `model.layers.1.mlp.up_proj.weight`"),
        "{message}"
    );

    let mut weights = complete.clone();
    weights.tensors.get_mut("model.norm.weight").unwrap().shape = vec![1, 48];
    write_weights(&weights_path, &weights);
    let message = error(directory.path());
    assert!(message.ends_with("tensor `model.norm.weight` has shape [1, 48], expected [48]"), "{message}");

    let mut weights = complete.clone();
    let extra = Tensor { shape: vec![1], values: vec![0.0] };
    // A stored copy of the tied head and old rotary buffers are ordinary; a bias is not.
    for name in
        ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.mlp.up_proj.bias"]
    {
        weights.tensors.insert(name.to_owned(), extra.clone());
    }
    write_weights(&weights_path, &weights);
    let files = ModelFiles::open(directory.path()).unwrap();
    assert_eq!(files.unused_tensors, ["model.layers.0.mlp.up_proj.bias"]);
    assert!(files.load().unwrap().weights == complete);
}

#[test]
fn a_type_that_is_no_float_is_refused_before_anything_is_read() {
    let directory = copied_model("llama_tied_llama3_rope");
    let weights_path = directory.path().join("model.safetensors");
    write_weights(&weights_path, &load(directory.path()).weights);
    let mut bytes = std::fs::read(&weights_path).unwrap();
    let place = bytes.windows(5).position(|window| window == b"\"F32\"").unwrap();
    bytes[place + 1..place + 4].copy_from_slice(b"I32");
    std::fs::write(&weights_path, bytes).unwrap();
    let message = error(directory.path());
    assert!(message.ends_with("is stored as I32; readable are F32, F16, BF16 and F64"), "{message}");
}

#[test]
fn end_tokens_of_generation_config_win() {
    let directory = copied_model("qwen2");
    let path = directory.path().join("generation_config.json");
    std::fs::write(&path, r#"{"eos_token_id": [3, 4], "temperature": 0.7}"#).unwrap();
    assert_eq!(ModelFiles::open(directory.path()).unwrap().spec.eos_token_ids, [3, 4]);
    std::fs::write(&path, r#"{"eos_token_id": "x"}"#).unwrap();
    assert!(error(directory.path()).contains("generation_config.json: field `eos_token_id` is \"x\""));
}

#[test]
fn a_path_that_holds_no_model_says_what_would() {
    assert!(error(Path::new("no/such/model")).contains("no/such/model"));
    let directory = tempfile::tempdir().unwrap();
    assert!(error(directory.path()).contains("no config.json, and 0 GGUF files"));
    let text = directory.path().join("notes.txt");
    std::fs::write(&text, "hello, world").unwrap();
    assert!(error(&text).contains("not a GGUF file"));
}

/// The real model's file: 272 tensors, 134,515,008 parameters, a tied head.
#[test]
fn smollm2_loads() {
    let Some(path) = std::env::var_os("TRUING_TEST_GGUF").map(PathBuf::from) else {
        eprintln!("skipped: TRUING_TEST_GGUF is not set");
        return;
    };
    let files = ModelFiles::open(&path).unwrap();
    assert_eq!(files.spec.n_parameters(), 134_515_008);
    assert_eq!((files.spec.rope_theta, files.spec.rms_norm_eps), (100_000.0, 1e-5));
    assert!(files.spec.tie_word_embeddings && files.unused_tensors.is_empty());
    let mut n_tensors = 0;
    files
        .load_weights(|parameter, tensor| {
            n_tensors += 1;
            assert!(tensor.values.iter().all(|v| v.is_finite()), "{}", parameter.name);
            Ok::<_, truing_model::ModelError>(())
        })
        .unwrap();
    assert_eq!(n_tensors, 272);
}

/// The nearest number in 8-bit floating point, by its byte.
fn to_e4m3(value: f32) -> u8 {
    let of_byte = |byte: u8| {
        let (exponent, mantissa) = (i32::from(byte >> 3), f32::from(byte & 7) / 8.0);
        if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) }
    };
    let off = |byte: u8| (of_byte(byte) - value.abs()).abs();
    let nearest = (0..0x7f).min_by(|&a, &b| off(a).total_cmp(&off(b))).unwrap();
    if value < 0.0 { nearest | 0x80 } else { nearest }
}

/// Rewrites the projections of a tiny model in 8 bits, with a scale for each `block` of rows and columns.
pub(crate) fn write_in_8_bits(
    directory: &Path,
    suffix: &str,
    block: [usize; 2],
    scale_shape: fn([usize; 2]) -> Vec<usize>,
) {
    let model = load(directory);
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut put = |name: String, dtype: &str, shape: &[usize], bytes: Vec<u8>| {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend(bytes);
        header.insert(name, serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
    };
    for (name, tensor) in &model.weights.tensors {
        if !name.contains("_proj.weight") {
            let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            put(name.clone(), "F32", &tensor.shape, bytes);
            continue;
        }
        let [rows, columns] = [tensor.shape[0], tensor.shape[1]];
        let [height, width] = [block[0].min(rows), block[1].min(columns)];
        let counts = [rows.div_ceil(height), columns.div_ceil(width)];
        let mut largest = vec![0f32; counts[0] * counts[1]];
        let place = |i: usize| i / columns / height * counts[1] + i % columns / width;
        tensor
            .values
            .iter()
            .enumerate()
            .for_each(|(i, x)| largest[place(i)] = largest[place(i)].max(x.abs()));
        let scales: Vec<f32> = largest.iter().map(|largest| largest / 448.0).collect();
        let bytes = tensor.values.iter().enumerate().map(|(i, x)| to_e4m3(x / scales[place(i)])).collect();
        put(name.clone(), "F8_E4M3", &tensor.shape, bytes);
        let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        put(format!("{name}{suffix}"), "F32", &scale_shape(counts), bytes);
        let layer = name.strip_suffix("weight").unwrap();
        put(format!("{layer}input_scale"), "F32", &[], 1f32.to_le_bytes().to_vec());
    }
    let header = serde_json::to_vec(&header).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(directory.join("model.safetensors"), bytes).unwrap();
}

pub(crate) fn set_quantization(directory: &Path, quantization: serde_json::Value) {
    let path = directory.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["quantization_config"] = quantization;
    std::fs::write(&path, config.to_string()).unwrap();
}

/// The shape of the scales, of the numbers of blocks by rows and columns.
type ScaleShape = fn([usize; 2]) -> Vec<usize>;

#[test]
fn weights_in_8_bits_are_multiplied_by_their_scales() {
    let fp8 = serde_json::json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 20]});
    let compressed = serde_json::json!({"quant_method": "compressed-tensors", "format": "float-quantized"});
    let groups =
        serde_json::json!({"group_0": {"weights": {"strategy": "block", "block_structure": [32, 20]}}});
    let blocks = serde_json::json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups,
    });
    let whole = [usize::MAX; 2];
    let cases: [(&str, [usize; 2], ScaleShape, &serde_json::Value); 5] = [
        ("_scale", [32, 20], |counts| counts.to_vec(), &blocks),
        ("_scale_inv", [32, 20], |counts| counts.to_vec(), &fp8),
        ("_scale", whole, |_| vec![], &compressed),
        ("_scale", whole, |_| vec![1], &compressed),
        ("_scale", [1, usize::MAX], |[rows, _]| vec![rows, 1], &compressed),
    ];
    for name in ["qwen3", "phi3"] {
        let original = load(&tiny_model(name));
        for (suffix, block, scale_shape, quantization) in &cases {
            let directory = copied_model(name);
            write_in_8_bits(directory.path(), suffix, *block, *scale_shape);
            set_quantization(directory.path(), (*quantization).clone());
            let files = ModelFiles::open(directory.path()).unwrap();
            assert!(files.unused_tensors.is_empty(), "{:?}", files.unused_tensors);
            let found = files.load().unwrap();
            assert_eq!(found.spec, original.spec);
            for (name, tensor) in &original.weights.tensors {
                let found = found.weights.get(name).unwrap();
                let largest = tensor.values.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                for (found, value) in found.values.iter().zip(&tensor.values) {
                    let allowed = value.abs() / 16.0 + largest * 2f32.powi(-17);
                    assert!((found - value).abs() <= allowed, "{name}{suffix}: {found}, not {value}");
                }
            }
            assert!(found.weights != original.weights);
        }
    }
}

#[test]
fn weights_in_8_bits_without_their_scales_are_refused() {
    let directory = copied_model("qwen3");
    write_in_8_bits(directory.path(), "_factor", [usize::MAX; 2], |_| vec![1]);
    set_quantization(directory.path(), serde_json::json!({"quant_method": "fp8"}));
    let found = error(directory.path());
    assert!(found.contains("q_proj.weight` is stored as F8_E4M3, but there is no `"), "{found}");
    let directory = copied_model("qwen3");
    write_in_8_bits(directory.path(), "_scale_inv", [32, 20], |counts| counts.to_vec());
    let block = serde_json::json!({"quant_method": "fp8", "weight_block_size": [16, 16]});
    set_quantization(directory.path(), block);
    let found = error(directory.path());
    assert!(found.contains("weight_scale_inv` has shape"), "{found}");
}
