//! What models compute on: `--device` and a recipe's `device`, with libtorch's engine and without.

use std::fs;

use serde_json::Value;

use crate::command::run;
use crate::sft::Workshop;

#[cfg(not(feature = "torch"))]
#[test]
fn without_libtorchs_engine_a_gpu_is_an_error_that_says_how_to_build() {
    let workshop = Workshop::new();
    let expected = &["device `cuda:0`: this program was built without", "--features torch"];
    run(workshop.home(), workshop.on_recipe("sft", &["--device", "cuda:0"]))
        .expect_status(2)
        .expect_stderr(expected);
    run(workshop.home(), workshop.on_recipe("sft", &["--set", "device=cuda:0"]))
        .expect_status(2)
        .expect_stderr(&["--set device=cuda:0: device `cuda:0`"]);
    run(workshop.home(), workshop.on_recipe("plan", &["--torch-lib", "."]))
        .expect_status(2)
        .expect_stderr(&["`--torch-lib`: this program was built without"]);
    assert!(!workshop.path("run").exists());
}

#[test]
fn the_processor_is_a_device() {
    let workshop = Workshop::new();
    run(workshop.home(), workshop.on_recipe("plan", &["--device", "cpu"])).expect_status(0);
    let recipe = workshop.path("recipe.toml");
    let text = fs::read_to_string(&recipe).unwrap().replace("seed = 3\n", "seed = 3\ndevice = \"cpu\"\n");
    fs::write(&recipe, text).unwrap();
    run(workshop.home(), workshop.on_recipe("plan", &[])).expect_status(0);
}

/// Training losses by step.
fn losses(workshop: &Workshop) -> Vec<f64> {
    let text = fs::read_to_string(workshop.path("run/metrics.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter_map(|row| row.get("loss").and_then(Value::as_f64)).collect()
}

/// The losses of bf16 are near those of f32 and not the same, and a run is resumed in the format that it started in.
#[test]
fn the_processor_trains_in_bf16() {
    let (f32, bf16) = (Workshop::new(), Workshop::new());
    let in_bf16 = ["--set", "compute_dtype=bf16"];
    run(f32.home(), f32.on_recipe("sft", &[])).expect_status(0);
    run(bf16.home(), bf16.on_recipe("sft", &in_bf16)).expect_status(0);
    let (expected, found) = (losses(&f32), losses(&bf16));
    assert_eq!((expected.len(), found.len()), (12, 12));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= 0.02 * expected, "{found}, expected {expected}");
    }
    assert_ne!(found, expected);
    // The flag does without `--device`, and is the same as the recipe's key.
    let by_flag = Workshop::new();
    run(by_flag.home(), by_flag.on_recipe("sft", &["--compute-dtype", "bf16"])).expect_status(0);
    assert_eq!(losses(&by_flag), found);
    fs::remove_dir_all(by_flag.path("run/model")).unwrap();
    run(by_flag.home(), by_flag.on_recipe("sft", &["--resume"])).expect_status(2);
    run(by_flag.home(), by_flag.on_recipe("sft", &["--resume", "--compute-dtype", "bf16"])).expect_status(0);
    // Named or not, the default is the same format.
    fs::remove_dir_all(f32.path("run/model")).unwrap();
    run(f32.home(), f32.on_recipe("sft", &["--resume", "--compute-dtype", "f32"])).expect_status(0);
    run(by_flag.home(), by_flag.on_recipe("plan", &["--compute-dtype", "f16"]))
        .expect_status(2)
        .expect_stderr(&["expected `f32` or `bf16`"]);
    // The saved model is what a run ends with.
    fs::remove_dir_all(bf16.path("run/model")).unwrap();
    run(bf16.home(), bf16.on_recipe("sft", &["--resume"])).expect_status(2);
    run(bf16.home(), bf16.on_recipe("sft", &[&in_bf16[..], &["--resume"]].concat())).expect_status(0);
}

#[cfg(feature = "torch")]
mod libtorch {
    use super::*;

    /// The folder that `TORCH_LIB` names, where the variable is set.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn folder() -> Option<String> {
        let folder = std::env::var("TORCH_LIB").ok();
        if folder.is_none() {
            println!("skipped: TORCH_LIB is not set");
        }
        folder
    }

    #[test]
    fn libtorch_trains_as_the_other_engine_does() {
        let Some(folder) = folder() else { return };
        let (own, torch) = (Workshop::new(), Workshop::new());
        run(own.home(), own.on_recipe("sft", &[])).expect_status(0);
        let device = ["--device", "libtorch-cpu", "--torch-lib", &folder];
        run(torch.home(), torch.on_recipe("sft", &device)).expect_status(0);
        let (expected, found) = (losses(&own), losses(&torch));
        assert_eq!((expected.len(), found.len()), (12, 12));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-3 * expected, "{found}, expected {expected}");
        }
    }

    #[test]
    fn libtorch_that_is_not_there_is_named_with_its_reason() {
        let workshop = Workshop::new();
        let arguments = ["--device", "cuda:0", "--torch-lib", "no-such-folder"];
        run(workshop.home(), workshop.on_recipe("sft", &arguments))
            .expect_status(2)
            .expect_stderr(&["--torch-lib `no-such-folder`: there is no such folder"]);
        run(workshop.home(), workshop.on_recipe("sft", &["--device", "gpu"]))
            .expect_status(2)
            .expect_stderr(&["`gpu` is no device"]);
    }

    #[test]
    fn libtorchs_devices_are_in_what_doctor_finds() {
        let Some(folder) = folder() else { return };
        let workshop = Workshop::new();
        let found = run(workshop.home(), ["doctor", "--no-measure", "--torch-lib", &folder]);
        assert!(found.stdout.contains("libtorch-cpu"), "{}", found.stdout);
    }
}
