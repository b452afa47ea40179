use std::path::Path;

use serde_json::{Map, Value, json};
use truing_model::families::{ConfigFile, FAMILIES, config_from_spec, spec_from_config, with_head};
use truing_model::{DecoderSpec, HeadKind, LoraSpec, ModelError, RopeScaling};

use crate::{Damage, TINY_MODELS, tiny_model};

fn read(fields: Value) -> Result<DecoderSpec, ModelError> {
    let Value::Object(fields) = fields else { panic!("a test's configuration is an object") };
    spec_from_config(&ConfigFile::from_fields(fields, Path::new("config.json")))
}

fn fixture(name: &str) -> DecoderSpec {
    spec_from_config(&ConfigFile::open(&tiny_model(name).join("config.json")).unwrap()).unwrap()
}

/// The smallest Llama configuration, with changes.
fn llama(changes: Value) -> Value {
    let mut fields = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 96, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 2, "num_attention_heads": 6,
    });
    for (field, value) in changes.as_object().unwrap() {
        fields[field] = value.clone();
    }
    fields
}

fn refused(fields: Value, message: &str) {
    let found = read(fields).unwrap_err().to_string();
    assert_eq!(found, format!("config.json: {message}"));
}

#[test]
fn fields_left_out_mean_what_transformers_takes_them_to_mean() {
    let spec = read(llama(json!({}))).unwrap();
    assert_eq!((spec.n_kv_heads, spec.head_dim, spec.max_position_embeddings), (6, 8, 2048));
    assert_eq!((spec.rms_norm_eps, spec.rope_theta, spec.rope_scaling), (1e-6, 10_000.0, None));
    assert_eq!((spec.bos_token_id, spec.eos_token_ids), (Some(1), vec![2]));
    assert!(!spec.tie_word_embeddings && !spec.qkv_bias && !spec.output_bias && !spec.mlp_bias);
    let spec = read(llama(json!({"eos_token_id": [5, 7], "bos_token_id": null, "head_dim": null}))).unwrap();
    assert_eq!((spec.bos_token_id, spec.eos_token_ids, spec.head_dim), (None, vec![5, 7], 8));

    let mistral = llama(json!({"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2}));
    assert_eq!(read(mistral.clone()).unwrap().sliding_windows, [Some(4096); 2]);
    let mut without = mistral;
    without["sliding_window"] = Value::Null;
    assert_eq!(read(without).unwrap().sliding_windows, [None; 2]);

    let qwen2 = |changes: Value| {
        let mut fields = llama(json!({"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2}));
        fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(fields).unwrap()
    };
    let spec = qwen2(json!({"sliding_window": 8, "max_window_layers": 1}));
    assert!(spec.qkv_bias && !spec.output_bias);
    assert_eq!((spec.sliding_windows, spec.eos_token_ids), (vec![None; 2], vec![]));
    let spec = qwen2(json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}));
    assert_eq!(spec.sliding_windows, [None, Some(8)]);
    let types = json!(["sliding_attention", "full_attention"]);
    let spec = qwen2(json!({"use_sliding_window": true, "sliding_window": 8, "layer_types": types}));
    assert_eq!(spec.sliding_windows, [Some(8), None]);

    let qwen3 = llama(json!({"architectures": ["Qwen3ForCausalLM"], "num_key_value_heads": 2}));
    let spec = read(qwen3).unwrap();
    assert_eq!((spec.head_dim, spec.qk_norm), (128, true));
}

#[test]
fn configurations_of_transformers_5_are_read() {
    let spec = fixture("llama_tied_llama3_rope");
    assert_eq!((spec.n_layers, spec.n_kv_heads, spec.tie_word_embeddings), (3, 2, true));
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32.0,
    };
    assert_eq!(spec.rope_scaling, Some(llama3));
    let spec = fixture("llama_untied_biases");
    assert!(spec.qkv_bias && spec.output_bias && spec.mlp_bias);
    assert_eq!(spec.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    let spec = fixture("qwen2");
    assert_eq!((spec.rope_theta, spec.sliding_windows), (1e6, vec![None, None, Some(5)]));
    assert_eq!(fixture("qwen3").head_dim, 12);
    assert_eq!(fixture("mistral").sliding_windows, [Some(8); 2]);
}

#[test]
fn rotary_scaling_is_read_in_the_old_form_and_the_new() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    let old = read(llama(json!({"rope_theta": 500000.0, "rope_scaling": llama3}))).unwrap();
    let mut both = llama3.clone();
    both["rope_theta"] = json!(500000.0);
    let new = read(llama(json!({"rope_parameters": both}))).unwrap();
    assert_eq!(old, new);
    let Some(RopeScaling::Llama3 { original_max_position_embeddings, .. }) = old.rope_scaling else {
        panic!("{:?}", old.rope_scaling)
    };
    assert_eq!(original_max_position_embeddings, 2048.0);
    let linear = read(llama(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}))).unwrap();
    assert_eq!(linear.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    let plain = read(llama(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}))).unwrap();
    assert_eq!((plain.rope_theta, plain.rope_scaling), (7.0, None));
}

#[test]
fn scalings_that_depend_on_the_length_are_those_of_short_sequences() {
    let spec = read(llama(json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}}))).unwrap();
    assert_eq!(spec.rope_scaling, Some(RopeScaling::Dynamic { factor: 4.0 }));
    assert_eq!(spec.longest_sequence(), Some(2048));
    let plain = read(llama(json!({}))).unwrap();
    assert_eq!(spec.rotary_inverse_frequencies(), plain.rotary_inverse_frequencies());
    assert_eq!(plain.longest_sequence(), None);

    let divisors = json!([1.0, 2.0, 3.0, 4.0]);
    let scaling = json!({"rope_type": "longrope", "short_factor": divisors, "long_factor": divisors});
    let fields = json!({"rope_scaling": scaling, "original_max_position_embeddings": 512});
    let spec = read(llama(fields)).unwrap();
    assert_eq!((spec.max_position_embeddings, spec.longest_sequence()), (512, Some(512)));
    let (frequencies, factor) = spec.rotary_inverse_frequencies();
    let (expected, _) = plain.rotary_inverse_frequencies();
    let pairs = frequencies.iter().zip(&expected).zip([1.0, 2.0, 3.0, 4.0]);
    assert!(pairs.clone().all(|((found, plain), divisor)| (found * divisor / plain - 1.0).abs() < 1e-6));
    assert!((f64::from(factor) - (1.0 + 4f64.ln() / 512f64.ln()).sqrt()).abs() < 1e-6);
}

#[test]
fn yarn_takes_its_factor_from_the_contexts_where_it_has_none() {
    let scaling = json!({"rope_type": "yarn", "original_max_position_embeddings": 512});
    let spec = read(llama(json!({"rope_scaling": scaling}))).unwrap();
    let Some(RopeScaling::Yarn { factor, attention_factor, beta_fast, .. }) = spec.rope_scaling else {
        panic!("{:?}", spec.rope_scaling)
    };
    assert_eq!((factor, attention_factor, beta_fast), (4.0, 0.1 * 4f64.ln() + 1.0, 32.0));
}

#[test]
fn yarn_follows_mscale_and_is_refused_where_it_gives_no_numbers() {
    let scaling = json!({"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0});
    let spec = read(llama(json!({"rope_scaling": scaling}))).unwrap();
    // As transformers 5.23 computes it.
    assert!((spec.rotary_inverse_frequencies().1 - 0.921_042).abs() < 1e-6);
    let fields = json!({"rope_theta": 1.0, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}});
    let message = read(llama(fields)).unwrap_err().to_string();
    assert!(message.contains("field `rope_scaling` is"), "{message}");
    assert!(message.contains("whose frequencies and factor f32 can hold"), "{message}");
}

#[test]
fn rotary_frequencies_are_those_of_transformers() {
    for name in TINY_MODELS {
        let file =
            truing_model::weights::SafetensorsFile::open(tiny_model(name).join("expected.safetensors"))
                .unwrap();
        let read = |tensor: &str| file.tensor(tensor).map(|_| file.read(tensor).unwrap().values);
        let (found, factor) = fixture(name).rotary_inverse_frequencies();
        assert_eq!(Some(found), read("rotary_inverse_frequencies"), "{name}");
        assert_eq!(factor, read("attention_factor").map_or(1.0, |factor| factor[0]), "{name}");
        let local = fixture(name).local_rotary_inverse_frequencies();
        assert_eq!(local, read("local_rotary_inverse_frequencies"), "{name}");
    }
}

#[test]
fn every_specification_survives_its_own_config() {
    for name in TINY_MODELS {
        let spec = fixture(name);
        let fields = config_from_spec(&spec).unwrap();
        let back = spec_from_config(&ConfigFile::from_fields(fields, Path::new("config.json"))).unwrap();
        assert_eq!(back, spec, "{name}");
    }
    let spec = DecoderSpec { qkv_bias: true, ..fixture("llama_tied_llama3_rope") };
    let message = config_from_spec(&spec).unwrap_err().to_string();
    assert_eq!(
        message,
        "a config.json of `LlamaForCausalLM` cannot say whether the output projection has a bias"
    );
}

/// The smallest configuration of another family.
fn of_family(architecture: &str, changes: Value) -> Value {
    let mut fields = llama(json!({"architectures": [architecture]}));
    if architecture.starts_with("Gemma") {
        fields["num_key_value_heads"] = json!(2);
    }
    fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fields
}

#[test]
fn gemma_is_read_in_the_form_of_older_files() {
    let spec = read(of_family("Gemma2ForCausalLM", json!({"hidden_act": "gelu_pytorch_tanh"}))).unwrap();
    assert_eq!((spec.n_kv_heads, spec.head_dim, spec.max_position_embeddings), (2, 256, 8192));
    assert_eq!(spec.sliding_windows, [Some(4096), None]);
    let variant = spec.variant;
    assert_eq!((variant.attention_soft_cap, variant.logit_soft_cap), (Some(50.0), Some(30.0)));
    assert_eq!((variant.attention_scale, variant.embedding_scale), (Some(1.0 / 16.0), Some(48f32.sqrt())));
    assert!(spec.tie_word_embeddings && variant.norms_add_one && variant.has_post_norms && !spec.qk_norm);
    let none = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    let variant = read(of_family("Gemma2ForCausalLM", none)).unwrap().variant;
    assert_eq!((variant.attention_soft_cap, variant.logit_soft_cap), (None, None));

    let changes = json!({
        "num_hidden_layers": 7, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 512,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    });
    let spec = read(of_family("Gemma3ForCausalLM", changes)).unwrap();
    let window = Some(512);
    assert_eq!(spec.sliding_windows, [window, window, window, window, window, None, window]);
    assert_eq!((spec.rope_theta, spec.variant.local_rope_theta), (1e6, Some(1e4)));
    assert_eq!(spec.rope_scaling, Some(RopeScaling::Linear { factor: 8.0 }));
    assert!(spec.qk_norm && spec.variant.logit_soft_cap.is_none());
    refused(
        of_family("Gemma3ForCausalLM", json!({"hidden_activation": "silu"})),
        "field `hidden_activation` is \"silu\", expected \"gelu_pytorch_tanh\"",
    );
    for architecture in ["Gemma2ForCausalLM", "Gemma3ForCausalLM"] {
        refused(
            of_family(architecture, json!({"sliding_window": null})),
            "field `sliding_window` is null, expected a whole number above 0, for layers with `sliding_attention`",
        );
    }
    refused(
        of_family("Gemma2ForCausalLM", json!({"attn_logit_softcapping": 1e-60})),
        "field `attn_logit_softcapping` is 1e-60, expected a number above 0 that f32 can hold",
    );
}

#[test]
fn gemma_3_with_a_score_has_the_name_of_its_text_model() {
    let (model, score) = ("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification");
    let head = HeadKind::Score { n_outputs: 1 };
    assert_eq!((with_head(model, head), with_head(score, head)), (score.to_owned(), score.to_owned()));
    assert_eq!(with_head(score, HeadKind::LanguageModel), model);
    let spec = read(of_family(score, json!({"num_labels": 1}))).unwrap();
    assert_eq!((spec.head, spec.qk_norm), (head, true));
    let fields = config_from_spec(&spec).unwrap();
    assert_eq!((&fields["architectures"][0], &fields["model_type"]), (&json!(score), &json!("gemma3_text")));
}

#[test]
fn phi_is_read_in_the_form_of_older_files() {
    let divisors = json!([1.0, 1.5, 2.0]);
    let scaling = json!({"type": "su", "short_factor": divisors, "long_factor": divisors});
    let changes = json!({
        "rope_scaling": scaling, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75, "sliding_window": 2047,
    });
    let spec = read(of_family("Phi3ForCausalLM", changes)).unwrap();
    assert_eq!((spec.max_position_embeddings, spec.rotary_dim()), (4096, 6));
    assert_eq!(spec.sliding_windows, [Some(2047); 2]);
    let Some(RopeScaling::LongRope { attention_factor, extended_max_position_embeddings, .. }) =
        spec.rope_scaling
    else {
        panic!("{:?}", spec.rope_scaling)
    };
    assert_eq!(extended_max_position_embeddings, 131_072);
    assert!((attention_factor - (1.0 + 32f64.ln() / 4096f64.ln()).sqrt()).abs() < 1e-12);
    // Written in the form that transformers 4 reads too, which refuses more fields.
    let written = config_from_spec(&spec).unwrap();
    let fields: Vec<&String> = written["rope_scaling"].as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), 3, "{fields:?}");
    assert_eq!(read(Value::Object(written)).unwrap(), spec);
    // Left out beside the scaling it is 4096, also where the scaling says otherwise.
    let scaling = json!({
        "type": "su", "short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [2.0, 2.0, 2.0, 2.0],
        "original_max_position_embeddings": 1024,
    });
    let changes = json!({"rope_scaling": scaling, "max_position_embeddings": 131072});
    let spec = read(of_family("Phi3ForCausalLM", changes)).unwrap();
    assert_eq!(spec.longest_sequence(), Some(4096));
    // As transformers 5.23 computes it.
    assert!((spec.rotary_inverse_frequencies().1 - 1.190_238).abs() < 1e-6);
    refused(
        of_family("Phi3ForCausalLM", json!({"partial_rotary_factor": 0.4})),
        "field `partial_rotary_factor` is 0.4, expected a part of the head width 8 that is an even number",
    );
}

#[test]
fn targets_of_adapters_name_the_matrices_that_are_stored() {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let all = names(&["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
    let phi = fixture("phi3");
    assert_eq!(phi.stored_targets(&all), names(&["o_proj", "down_proj", "qkv_proj", "gate_up_proj"]));
    assert_eq!(phi.stored_targets(&names(&["q_proj", "qkv_proj"])), names(&["q_proj", "qkv_proj"]));
    let baichuan = fixture("baichuan").stored_targets(&all);
    assert_eq!(baichuan, names(&["o_proj", "gate_proj", "up_proj", "down_proj", "W_pack"]));
    assert_eq!(fixture("qwen3").stored_targets(&all), all);
    let lora = LoraSpec { rank: 2, alpha: 1.0, targets: all };
    assert_eq!(phi.lora_parameters(&lora).len(), 2 * 4 * phi.n_layers);
}

#[test]
fn baichuan_with_position_biases_is_refused() {
    let spec = read(of_family("BaichuanForCausalLM", json!({"max_position_embeddings": 4096}))).unwrap();
    assert!(spec.variant.has_normalized_head && !spec.tie_word_embeddings);
    refused(
        of_family("BaichuanForCausalLM", json!({"model_max_length": 4096})),
        "field `max_position_embeddings` is missing (a number: models without it (Baichuan 13B) have ALiBi position \
         biases, which are not computed here)",
    );
}

#[test]
fn what_is_missing_or_unusable_is_named() {
    let without = |field: &str| {
        let mut fields: Map<String, Value> = llama(json!({})).as_object().unwrap().clone();
        fields.remove(field);
        Value::Object(fields)
    };
    refused(without("hidden_size"), "field `hidden_size` is missing (a whole number)");
    refused(
        without("architectures"),
        "field `architectures` is missing (a list with the architecture's name)",
    );
    refused(
        llama(json!({"architectures": ["GPT2LMHeadModel"]})),
        "architecture `GPT2LMHeadModel` is not known; known are BaichuanForCausalLM, Gemma2ForCausalLM, \
         Gemma3ForCausalLM, LlamaForCausalLM, MistralForCausalLM, Phi3ForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
    );
    refused(llama(json!({"hidden_size": "48"})), "field `hidden_size` is \"48\", expected a whole number");
    refused(llama(json!({"vocab_size": 0})), "field `vocab_size` is 0, expected a whole number above 0");
    refused(
        llama(json!({"vocab_size": 1_u64 << 40})),
        "field `vocab_size` is 1099511627776, expected at most 16777216",
    );
    refused(
        llama(json!({"num_hidden_layers": 1 << 30})),
        "field `num_hidden_layers` is 1073741824, expected at most 4096",
    );
    refused(
        llama(json!({"num_key_value_heads": 4})),
        "field `num_key_value_heads` is 4, expected a divisor of num_attention_heads 6",
    );
    refused(
        llama(json!({"head_dim": 9})),
        "field `head_dim` is 9, expected an even number (the rotary embedding turns pairs)",
    );
    refused(llama(json!({"hidden_act": "gelu"})), "field `hidden_act` is \"gelu\", expected \"silu\"");
    refused(
        llama(json!({"rope_scaling": {"rope_type": "spiral", "factor": 4.0}})),
        "field `rope_scaling.rope_type` is \"spiral\", expected `default`, `linear`, `dynamic`, `llama3`, `yarn` or \
         `longrope`",
    );
    refused(
        llama(json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0]}})),
        "field `rope_scaling.short_factor` is [1.0,1.0], expected a list of 4 numbers above 0",
    );
    refused(llama(json!({"partial_rotary_factor": 0.5})), "field `partial_rotary_factor` is 0.5, expected 1");
    refused(
        llama(json!({"rope_scaling": {"type": "linear"}})),
        "field `rope_scaling.factor` is missing (a number)",
    );
    refused(
        llama(json!({"quantization_config": {"bits": 4}})),
        "field `quantization_config` is {\"bits\":4}, expected none, or `quant_method` `fp8` or `compressed-tensors` with \
         e4m3 weights: others are not read",
    );
    refused(
        llama(json!({"tie_word_embeddings": 1})),
        "field `tie_word_embeddings` is 1, expected true or false",
    );
    refused(
        llama(json!({"eos_token_id": -1})),
        "field `eos_token_id` is -1, expected a token id or a list of them",
    );
}

#[test]
fn every_family_is_registered_and_has_a_tiny_model() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/families");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| !["config_file", "gguf_metadata", "rotary_fields"].contains(&name.as_str()))
        .collect();
    files.sort();
    let mut registered: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
    registered.sort_unstable();
    assert_eq!(files, registered);
    for family in FAMILIES {
        let has_model = TINY_MODELS.iter().any(|name| fixture(name).architecture == family.architecture);
        assert!(has_model, "{} has no tiny model", family.architecture);
    }
}

#[test]
fn damaged_configurations_never_panic() {
    for (seed, name) in TINY_MODELS.iter().enumerate() {
        let text = std::fs::read(tiny_model(name).join("config.json")).unwrap();
        let mut damage = Damage(seed as u64);
        for _ in 0..1000 {
            let text = damage.apply(&text, text.len());
            if let Ok(config) = ConfigFile::parse(&text, Path::new("config.json"))
                && let Ok(spec) = spec_from_config(&config)
            {
                assert!(spec.n_parameters() > 0);
                let _ = (spec.rotary_inverse_frequencies(), config_from_spec(&spec));
            }
        }
    }
}
