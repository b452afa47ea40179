//! The planner for clusters: bytes and times worked out by hand on a small model, the same bytes as the CPU engine on
//! one device, the table of a 70B model, what must not grow, and what is refused.

use truing_cpu::CpuEngine;
use truing_model::{ComputeDtype, DecoderSpec, Engine, EngineMemory, ModelSpec, TrainableSpec};
use truing_train::cluster::{
    Assumptions, ClusterConfig, ClusterError, ClusterPlan, Degrees, DeviceBytes, DeviceConfig, DeviceMemory,
    FixedDegrees, LayerActivations, LinkConfig, ModelSizes, PeakMoment, REPORT_DEVICES, RolloutShape,
    TrainingShape, ZeroStage, check_sequence_degree, key_heads_per_device, least_devices,
    least_devices_table,
};
use truing_train::{SegmentChoice, SegmentPlan};

use crate::model;

/// Hidden 8, feed-forward 16, 4 layers, 4 query heads and 2 key heads of 2, vocabulary 10, head of its own.
fn small() -> DecoderSpec {
    DecoderSpec {
        architecture: "LlamaForCausalLM".into(),
        vocab_size: 10,
        hidden_size: 8,
        intermediate_size: 16,
        n_layers: 4,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 2,
        tie_word_embeddings: false,
        qk_norm: false,
        sliding_windows: vec![None; 4],
        variant: truing_model::DecoderVariant::default(),
        ..model::spec()
    }
}

/// The sizes of Llama 3 70B.
fn llama_70b() -> DecoderSpec {
    DecoderSpec {
        vocab_size: 128_256,
        hidden_size: 8192,
        intermediate_size: 28_672,
        n_layers: 80,
        n_heads: 64,
        n_kv_heads: 8,
        head_dim: 128,
        sliding_windows: vec![None; 80],
        ..small()
    }
}

/// Two hosts of two devices without any loss: full rates, nothing hidden, no latency, nothing fixed.
fn ideal() -> ClusterConfig {
    ClusterConfig {
        hosts: 2,
        devices_per_host: 2,
        device: DeviceConfig { name: String::new(), memory_gb: 1.0, tflops: 1e-3, memory_gb_per_sec: 1.0 },
        links: LinkConfig { within_host_gb_per_sec: 100.0, between_hosts_gb_per_sec: 10.0 },
        training: TrainingShape {
            sequence_length: 64,
            sequences_per_step: 4,
            micro_batches: vec![1],
            ..TrainingShape::default()
        },
        degrees: FixedDegrees {
            data: Some(2),
            sequence: Some(2),
            zero_stage: Some(3),
            layers_per_segment: Some(2),
        },
        rollouts: None,
        assumptions: Assumptions {
            logits_chunk_mib: 1,
            fixed_gb: 0.0,
            usable_memory: 1.0,
            compute_utilisation: 1.0,
            memory_utilisation: 1.0,
            link_utilisation: 1.0,
            overlap_parameters: 0.0,
            latency_microsecs: 0.0,
            ..Assumptions::default()
        },
    }
}

/// Hosts of 8 devices with 80 GB.
fn hosts_of_80_gb(hosts: usize) -> ClusterConfig {
    ClusterConfig {
        hosts,
        devices_per_host: 8,
        device: DeviceConfig {
            name: "80 GB".into(),
            memory_gb: 80.0,
            tflops: 989.0,
            memory_gb_per_sec: 3350.0,
        },
        links: LinkConfig { within_host_gb_per_sec: 450.0, between_hosts_gb_per_sec: 50.0 },
        training: TrainingShape {
            sequence_length: 16_384,
            sequences_per_step: 256,
            ..TrainingShape::default()
        },
        ..ClusterConfig::default()
    }
}

fn plan(config: &ClusterConfig, spec: &DecoderSpec) -> Result<ClusterPlan, ClusterError> {
    ClusterPlan::resolve(config, spec, &TrainableSpec::default())
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{found} instead of {expected}");
}

#[test]
fn on_one_device_the_bytes_are_those_of_the_engine_of_this_machine() {
    let untied = DecoderSpec { tie_word_embeddings: false, ..model::spec() };
    let one_head = DecoderSpec { n_heads: 1, n_kv_heads: 1, ..model::spec() };
    for spec in [model::spec(), untied, small(), one_head] {
        for trainable in [TrainableSpec::default(), model::lora(), TrainableSpec::frozen()] {
            let engine: EngineMemory =
                CpuEngine::memory(&ModelSpec::Decoder(spec.clone()), &trainable, ComputeDtype::F32);
            let config = ClusterConfig { assumptions: Assumptions::cpu(), ..ideal() };
            let sizes = ModelSizes::of(&spec, &trainable);
            for zero_stage in ZeroStage::ALL {
                let degrees = Degrees { data: 1, sequence: 1, zero_stage, micro_batch: 1 };
                let device = DeviceMemory::of(&config, &spec, &sizes, &degrees);
                let planned = device.engine;
                assert_eq!(planned.parameter_bytes, engine.parameter_bytes);
                assert_eq!(planned.gradient_bytes, engine.gradient_bytes);
                assert_eq!(planned.optimizer_bytes, engine.optimizer_bytes);
                assert_eq!(planned.cache_bytes_per_token, engine.cache_bytes_per_token);
                assert_eq!(planned.head_bytes_per_token, engine.head_bytes_per_token);
                assert_eq!((device.gathered_bytes, device.exchange_bytes_per_token), (0, 0));
                for k in 1..=spec.n_layers {
                    for keeps_attention in [false, true] {
                        let segments =
                            SegmentPlan { keeps_attention, ..SegmentPlan::checkpoint(spec.n_layers, k) };
                        let activations = |memory| SegmentChoice::of(memory, segments, 100).activation_bytes;
                        assert_eq!(activations(&planned), activations(&engine), "k = {k}");
                    }
                }
            }
        }
    }
}

#[test]
fn in_a_sequence_group_a_layer_keeps_what_the_engine_of_this_machine_keeps() {
    let config = ClusterConfig { assumptions: Assumptions::cpu(), ..ideal() };
    for n_kv_heads in [4, 2, 1] {
        let spec = DecoderSpec { n_heads: 4, n_kv_heads, ..model::spec() };
        let trainable = TrainableSpec::default();
        let sizes = ModelSizes::of(&spec, &trainable);
        let alone = CpuEngine::memory(&ModelSpec::Decoder(spec.clone()), &trainable, ComputeDtype::F32);
        assert_eq!(spec.sequence_parallel_sizes(), [1, 2, 4]);
        for sequence in spec.sequence_parallel_sizes() {
            let degrees = Degrees { data: 1, sequence, zero_stage: ZeroStage::Replicated, micro_batch: 1 };
            let planned = DeviceMemory::of(&config, &spec, &sizes, &degrees).engine;
            let engine = alone.in_sequence_group(&spec, sequence);
            assert_eq!(planned.layer_bytes_per_token, engine.layer_bytes_per_token);
            assert_eq!(planned.attention_bytes_per_token, engine.attention_bytes_per_token);
            // Of a key head that several ranks read each has a copy.
            let n_copies = (sequence / n_kv_heads).max(1) as u64;
            assert_eq!(engine.forward_bytes_per_key, n_copies * alone.forward_bytes_per_key);
            // The exchange is counted in the workspace.
            assert!(engine.workspace_bytes_per_token >= alone.workspace_bytes_per_token);
        }
    }
}

#[test]
fn the_bytes_of_a_device_are_those_counted_by_hand() {
    let (config, spec) = (ideal(), small());
    let sizes = ModelSizes::of(&spec, &TrainableSpec::default());
    // A layer: norms 2 * 8; q and o 2 * 8 * 8; k and v 2 * 8 * 4; gate, up, down 3 * 8 * 16. Outside: 2 * 10 * 8 and a
    // norm.
    assert_eq!((sizes.layer, sizes.outside, sizes.elements), (592, 80, 4 * 592 + 168));

    let plan = plan(&config, &spec).unwrap();
    let bytes = plan.best().bytes;
    // 2536 parameters on 4 devices: 634 each; 2 + 2 + 12 bytes.
    assert_eq!((bytes.parameters, bytes.gradients, bytes.optimizer), (1268, 1268, 7608));
    // Two layers and a head in bf16; a layer's gradient in f32, the head's in bf16: 2528 + 2368 + 160.
    assert_eq!(bytes.gathered, 5056);
    // 32 tokens a device. A segment's input: 8 values. A layer: 16 + 16 + 8 + 32 values, attention once more (8), at 2
    // bytes, and 4 normalisers in f32: 176 bytes. One segment of two left its input, the other keeps two layers.
    assert_eq!((bytes.segment_inputs, bytes.kept_layers, bytes.recomputed_layers), (32 * 16, 32 * 352, 0));
    // 8 + max(16 + 16, 4 * 8 + 2 * 4) values of 2 bytes; exchange 2 * (8 + 2 * 4) of them; the logits' piece.
    assert_eq!((bytes.workspace, bytes.exchange, bytes.head), (32 * 96, 32 * 64, 1 << 20));
    assert_eq!((bytes.kv_cache, bytes.fixed, bytes.moment), (0, 0, PeakMoment::EndOfForward));
    assert_eq!(bytes.total(), 10_144 + 5056 + (1 << 20) + 11_776 + 5120);
    // When the first segment has been computed again its input is used, and two layers are alive.
    let [_, recomputing, sampling] = plan.best().moments;
    assert_eq!(recomputing.total(), 10_144 + 5056 + (1 << 20) + 2 * 32 * 176 + 5120);
    assert_eq!(sampling.total(), 10_144 + 5056 + (1 << 20));
}

#[test]
fn the_time_of_a_step_is_that_counted_by_hand() {
    let plan = plan(&ideal(), &small()).unwrap();
    let best = plan.best();
    let time = best.time;
    // Two packs of 64 tokens for each group of two devices at 1 GFLOP/s.
    assert_eq!(best.packs_per_step, 2);
    let secs = |flops: f64| 2.0 * flops / 2e9;
    // 4 layers of 576 weights, 6 operations a weight and token; 2080 pairs, 7 products; 80 weights of the head.
    assert_close(time.layers, secs(6.0 * 2304.0 * 64.0));
    assert_close(time.attention, secs(7.0 * 2.0 * 2080.0 * 8.0 * 4.0));
    assert_close(time.head, secs(6.0 * 80.0 * 64.0));
    // Half of the layers forward again.
    assert_close(time.recomputation, secs((2.0 * 2304.0 * 64.0 + 2.0 * 2.0 * 2080.0 * 8.0 * 4.0) / 2.0));
    // 32 tokens, 2 * (8 + 4) values of 2 bytes, half of which leaves the device: 768 bytes; 4 + 4 + 2 passes, 2 packs.
    assert_close(time.exchange, 2.0 * 10.0 * 768.0 / 100e9);
    // 8 + 1 layers and the rest of 168, 2 bytes: 10 992. Half is on the other host, and two links share it.
    assert_close(time.gather, 2.0 * 10_992.0 / 2.0 / 2.0 / 10e9);
    // 2536 gradients of 2 bytes.
    assert_close(time.reduce, 2.0 * 5072.0 / 2.0 / 2.0 / 10e9);
    // 634 parameters: states of 12 bytes read and written, gradient read, weight written.
    assert_close(time.optimizer, 634.0 * 28.0 / 1e9);
    assert_close(time.hidden, 0.0);
    let sum: f64 = time.terms().iter().map(|(_, secs)| secs).sum();
    assert_close(time.total(), sum);
    assert_close(best.tokens_per_sec, 256.0 / sum);
}

#[test]
fn collectives_follow_the_stage_and_the_links() {
    let spec = small();
    let time = |config: &ClusterConfig| plan(config, &spec).unwrap().best().time;
    let staged = |zero_stage| {
        let config = ideal();
        time(&ClusterConfig {
            degrees: FixedDegrees { zero_stage: Some(zero_stage), ..config.degrees },
            ..config
        })
    };
    // Reducing the gradients once: 5072 bytes, half on the other host, over two links.
    let once = 5072.0 / 4.0 / 10e9;
    let expected = [(0.0, 2.0 * once), (once, once), (once, 2.0 * once)];
    for (stage, (gather, reduce)) in expected.into_iter().enumerate() {
        let time = staged(stage as u8);
        assert_close(time.gather, gather);
        assert_close(time.reduce, reduce);
    }

    // Without a common copy each device receives three quarters of all over its own link.
    let mut flat = ideal();
    flat.assumptions.one_copy_per_host = false;
    assert_close(time(&flat).gather, 2.0 * 10_992.0 * 0.75 / 10e9);

    // Four devices of two hosts share a sequence: half of what a device has goes to the other host.
    let mut wide = ideal();
    wide.degrees = FixedDegrees { data: Some(1), sequence: Some(4), ..wide.degrees };
    // 16 tokens, 2 * (8 + 2 * 4) values, since key heads are copied; 4 packs, 10 passes.
    assert_close(time(&wide).exchange, 4.0 * 10.0 * (16.0 * 32.0 * 2.0 / 2.0) / 10e9);

    // Latency: 2 collectives a pass within two devices; what overlaps is not waited for.
    let mut late = ideal();
    late.assumptions.latency_microsecs = 3.0;
    assert_close(time(&late).exchange, time(&ideal()).exchange + 2.0 * 10.0 * 2.0 * 3e-6);
    let mut overlapped = ideal();
    overlapped.assumptions.overlap_parameters = 1.0;
    let hidden = time(&overlapped);
    assert_close(hidden.hidden, hidden.gather + hidden.reduce);
    assert_close(hidden.exposed(), hidden.exchange);
}

#[test]
fn heads_decide_the_sequence_degrees_and_key_heads_are_copied() {
    let heads =
        |n_heads, n_kv_heads| DecoderSpec { n_heads, n_kv_heads, ..small() }.sequence_parallel_sizes();
    assert_eq!(heads(64, 8), [1, 2, 4, 8, 16, 32, 64]);
    assert_eq!(heads(9, 3), [1, 3, 9]);
    assert_eq!(heads(12, 8), [1, 2, 4]);
    assert_eq!(heads(6, 1), [1, 2, 3, 6]);
    let spec = llama_70b();
    assert_eq!([1, 8, 16, 64].map(|degree| key_heads_per_device(&spec, degree)), [8, 1, 1, 1]);
    assert_eq!(check_sequence_degree(&spec, 16), Ok(()));
    let error = check_sequence_degree(&spec, 3).unwrap_err();
    assert!(error.to_string().contains("1, 2, 4, 8, 16, 32 or 64 devices"), "{error}");
}

/// The report's figures: 128 devices without k-layer checkpointing, 40 with it.
#[test]
fn the_table_of_a_70b_model_has_the_cells_of_the_report() {
    let table = least_devices_table(&hosts_of_80_gb(1), &llama_70b(), &TrainableSpec::default()).unwrap();
    assert_eq!(table.columns, [None, Some(1), Some(2), Some(4), Some(8), Some(10)]);
    let n = Some;
    let expected = [
        (LayerActivations::Products, 16, 1, [None, n(40), n(32), n(32), n(40), n(48)]),
        (LayerActivations::Products, 16, 2, [None, n(32), n(24), n(24), n(32), n(32)]),
        (LayerActivations::Products, 16, 4, [None, n(24), n(24), n(24), n(24), n(24)]),
        (LayerActivations::Products, 16, 8, [n(48), n(24), n(24), n(24), n(24), n(24)]),
        (LayerActivations::Products, 18, 1, [None, n(48), n(40), n(40), n(48), n(64)]),
        (LayerActivations::Products, 18, 2, [None, n(32), n(32), n(32), n(32), n(40)]),
        (LayerActivations::Products, 18, 4, [None, n(32), n(32), n(32), n(32), n(32)]),
        (LayerActivations::Products, 18, 8, [n(64), n(32), n(24), n(32), n(32), n(32)]),
        (LayerActivations::Megatron, 16, 1, [None, n(40), n(32), n(40), n(72), n(144)]),
        (LayerActivations::Megatron, 16, 2, [None, n(32), n(32), n(32), n(32), n(40)]),
        (LayerActivations::Megatron, 16, 4, [None, n(24), n(24), n(24), n(32), n(32)]),
        (LayerActivations::Megatron, 16, 8, [n(128), n(24), n(24), n(24), n(24), n(24)]),
        (LayerActivations::Megatron, 18, 1, [None, n(48), n(40), n(48), n(88), n(208)]),
        (LayerActivations::Megatron, 18, 2, [None, n(32), n(32), n(32), n(40), n(48)]),
        (LayerActivations::Megatron, 18, 4, [None, n(32), n(32), n(32), n(32), n(32)]),
        (LayerActivations::Megatron, 18, 8, [n(192), n(32), n(32), n(32), n(32), n(32)]),
    ];
    assert_eq!(table.rows.len(), expected.len());
    for (row, (layer_activations, state_bytes, sequence, least)) in table.rows.iter().zip(expected) {
        assert_eq!((row.layer_activations, row.state_bytes), (layer_activations, state_bytes));
        assert_eq!((row.sequence, row.least.as_slice()), (sequence, least.as_slice()));
    }
    // 128 is one cell, in which everything is kept; 40 is ten cells, in which layers are recomputed.
    let [without, with] = REPORT_DEVICES;
    let cells: Vec<_> = table.cells(without).collect();
    assert_eq!(cells.len(), 1);
    assert_eq!((cells[0].0.layer_activations, cells[0].0.sequence), (LayerActivations::Megatron, 8));
    assert_eq!(cells[0].1, None);
    assert_eq!(table.cells(with).count(), 10);
}

#[test]
fn bytes_do_not_grow_with_devices_or_stages_and_the_terms_add_up() {
    let spec = llama_70b();
    let sizes = ModelSizes::of(&spec, &TrainableSpec::default());
    let config = hosts_of_80_gb(1);
    let segments = SegmentPlan::checkpoint(80, 4);
    let peak = |data, sequence, zero_stage, layers: SegmentPlan| {
        let degrees = Degrees { data, sequence, zero_stage, micro_batch: 1 };
        let memory = DeviceMemory::of(&config, &spec, &sizes, &degrees);
        let tokens = DeviceMemory::tokens(&config, &degrees);
        let choice = SegmentChoice::of(&memory.engine, layers, tokens);
        let bytes = DeviceBytes::of(&memory, &choice, tokens);
        assert_eq!(bytes.total(), choice.peak_bytes);
        (bytes.total(), bytes.parameters + bytes.gradients + bytes.optimizer)
    };
    for zero_stage in ZeroStage::ALL {
        for data in [2, 4, 8, 16] {
            assert!(peak(2 * data, 1, zero_stage, segments).0 <= peak(data, 1, zero_stage, segments).0);
        }
        for sequence in [2, 4] {
            let halved = peak(8, 2 * sequence, zero_stage, segments).0;
            assert!(halved <= peak(8, sequence, zero_stage, segments).0);
        }
        for k in 1..=80 {
            peak(4, 8, zero_stage, SegmentPlan::checkpoint(80, k));
        }
    }
    let states = ZeroStage::ALL.map(|stage| peak(8, 1, stage, segments).1);
    assert!(states.is_sorted_by(|more, less| less < more), "{states:?}");
    assert_eq!(peak(8, 1, ZeroStage::Parameters, segments).1, 2 * 8 * 70_553_706_496 / 8);
}

#[test]
fn a_plan_is_sorted_fits_and_says_what_would_change_it() {
    let (config, spec) = (hosts_of_80_gb(5), llama_70b());
    let plan = plan(&config, &spec).unwrap();
    assert!(plan.choices.is_sorted_by_key(|choice| choice.time.total()));
    assert!(plan.choices.len() <= plan.n_combinations);
    for choice in &plan.choices {
        assert_eq!(choice.degrees.n_devices(), 40);
        assert!(choice.bytes.total() <= plan.usable_bytes);
        assert!(
            choice.flops_utilisation > 0.0
                && choice.flops_utilisation <= config.assumptions.compute_utilisation
        );
    }
    let chosen = plan.best().segments.layers_per_segment;
    assert!(plan.by_layers_per_segment.iter().any(|way| way.segments.layers_per_segment == chosen));
    let found = least_devices(&config, &spec, &TrainableSpec::default()).unwrap().unwrap();
    assert_eq!(plan.least_devices, Some(found));
    assert!(found.peak_bytes <= plan.usable_bytes && found.n_devices <= 24, "{found:?}");

    for variation in &plan.variations {
        let best = variation.best.as_ref().unwrap();
        assert!(best.tokens_per_sec >= 0.99 * plan.best().tokens_per_sec, "{}", variation.what);
        assert!(variation.least_devices.unwrap() <= found.n_devices, "{}", variation.what);
    }
    let named = |what: &str| plan.variations.iter().find(|variation| variation.what == what).unwrap();
    let faster = named("twice the rate of computing").best.as_ref().unwrap();
    assert!(faster.tokens_per_sec > plan.best().tokens_per_sec);
}

#[test]
fn rollouts_count_where_they_need_more_than_training() {
    let mut config = ideal();
    let without = plan(&config, &small()).unwrap();
    config.rollouts = Some(RolloutShape { sequences_per_device: 1000, tokens_per_sequence: 50 });
    let with = plan(&config, &small()).unwrap();
    let bytes = with.best().bytes;
    // Keys and values of 4 layers and 4 values at 2 bytes: 64 a token; 10 logits in f32.
    assert_eq!((bytes.moment, bytes.kv_cache), (PeakMoment::Sampling, 1000 * (50 * 64 + 40)));
    assert_eq!(bytes.total(), 10_144 + 5056 + (1 << 20) + bytes.kv_cache);
    assert_eq!(with.best().time, without.best().time);
    config.rollouts = Some(RolloutShape { sequences_per_device: 1, tokens_per_sequence: 1 });
    assert_eq!(plan(&config, &small()).unwrap().best().bytes, without.best().bytes);
}

#[test]
fn what_does_not_fit_says_what_would() {
    let mut config = hosts_of_80_gb(1);
    config.assumptions.most_devices = 64;
    let error = plan(&config, &llama_70b()).unwrap_err();
    let ClusterError::DoesNotFit { needed_bytes, usable_bytes, least_devices: Some(least), .. } = error
    else {
        panic!("{error:?}");
    };
    assert!(needed_bytes > usable_bytes);
    assert!(plan(&hosts_of_80_gb(least / 8), &llama_70b()).is_ok());
    assert!(plan(&hosts_of_80_gb(least / 8 - 1), &llama_70b()).is_err());
    config.assumptions.most_devices = 8;
    let error = plan(&config, &llama_70b()).unwrap_err();
    assert!(matches!(error, ClusterError::DoesNotFit { least_devices: None, .. }), "{error:?}");
}

#[test]
fn settings_out_of_their_range_are_named() {
    let check = |change: &dyn Fn(&mut ClusterConfig), spec: &DecoderSpec, expected: &str| {
        let mut config = ideal();
        change(&mut config);
        let found = plan(&config, spec).unwrap_err().to_string();
        assert!(found.contains(expected), "{found}\ninstead of\n{expected}");
    };
    let spec = small();
    check(&|c| c.devices_per_host = 0, &spec, "`devices_per_host` is 0, expected 1 to 65536");
    check(&|c| c.hosts = 0, &spec, "`hosts` is 0");
    check(
        &|c| c.device.tflops = 0.0,
        &spec,
        "`device.tflops` is 0, expected a number above 0, which has no default",
    );
    check(&|c| c.device.memory_gb = f64::NAN, &spec, "`device.memory_gb` is NaN");
    check(&|c| c.links.between_hosts_gb_per_sec = 0.0, &spec, "`links.between_hosts_gb_per_sec` is 0");
    check(&|c| c.training.micro_batches.clear(), &spec, "`training.micro_batches` is empty");
    check(&|c| c.training.micro_batches = vec![5], &spec, "`training.micro_batches` is 5, expected 1 to 4");
    check(&|c| c.training.loss_share = 1.5, &spec, "`training.loss_share` is 1.5");
    check(&|c| c.degrees.zero_stage = Some(4), &spec, "`degrees.zero_stage` is 4, expected 0 to 3");
    check(&|c| c.degrees.data = Some(3), &spec, "`degrees.data` is 3, expected a divisor of the 4 devices");
    check(&|c| c.degrees.data = Some(4), &spec, "`degrees.data` is 4, expected 2: all 4 devices are used");
    check(&|c| c.degrees.layers_per_segment = Some(5), &spec, "is 5, expected at most the model's 4 layers");
    check(
        &|c| c.assumptions.overlap_exchange = 1.5,
        &spec,
        "`assumptions.overlap_exchange` is 1.5, expected 0 to 1",
    );
    check(&|c| c.assumptions.usable_memory = 0.0, &spec, "`assumptions.usable_memory` is 0");

    let odd = DecoderSpec { n_heads: 3, n_kv_heads: 3, ..small() };
    check(
        &|_| {},
        &odd,
        "`degrees.sequence` is 2, but a model of 3 attention heads and 3 key heads can be shared by 1 or 3",
    );
    let headless = DecoderSpec { n_heads: 0, n_kv_heads: 0, ..small() };
    check(&|_| {}, &headless, "the model has 0 attention heads");
    // Four groups, and three sequences for them.
    let few = |c: &mut ClusterConfig| {
        c.degrees = FixedDegrees { sequence: Some(1), ..FixedDegrees::default() };
        c.training.sequences_per_step = 3;
    };
    check(&few, &spec, "no degrees use all 4 devices: the sequence degree must be 1 and divide 4");
}
