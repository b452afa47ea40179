//! `truing bench` from the outside, with a tiny model.

use serde_json::Value;

use crate::command::run;
use crate::tiny_model;

#[test]
fn a_quick_bench_measures_every_kind_of_work_against_a_peak() {
    let home = tempfile::tempdir().unwrap();
    tiny_model::write(&home.path().join("model"));
    let model = home.path().join("model").to_string_lossy().into_owned();
    let bench = ["bench", "--quick", "--tokens", "32", "--model", &model, "--json"];
    let finished = run(home.path(), ["--threads", "2", "--quiet"].into_iter().chain(bench)).expect_status(0);
    assert!(finished.stderr.is_empty(), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&report["model"], &report["is_quick"]), (&model.as_str().into(), &true.into()));
    assert_eq!((&report["threads"], &report["n_tokens"]), (&2.into(), &32.into()));

    let peaks = report["peaks"]["by_threads"].as_array().unwrap();
    let n_threads: Vec<u64> = peaks.iter().map(|peak| peak["n_threads"].as_u64().unwrap()).collect();
    assert_eq!(n_threads, [1, 2]);
    for name in ["multiply_add_gflops", "bf16_gflops", "memory_read_gb_per_second"] {
        assert!(peaks.iter().all(|peak| peak[name].as_f64().unwrap() > 0.01), "{peaks:?}");
    }

    let rows = report["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let projections = ["[32, 32]", "[16, 32]", "[64, 32]", "[32, 64]"];
    let of_shape = |shape: &&str| {
        ["product", "product bf16"].map(|format| {
            ["forward", "d input", "d weight"].map(|product| format!("{format} {shape}, {product}"))
        })
    };
    let products = projections.iter().flat_map(of_shape).flatten();
    let mut expected: Vec<String> = products.collect();
    expected.push("training step, 32 tokens".into());
    for weights in ["f32", "int8"] {
        expected.extend([1, 8].map(|batch| format!("decoding {weights}, batch {batch}")));
    }
    expected.push("embedding, MiniLM-L6's shape, 64 tokens".into());
    assert_eq!(names, expected);
    for row in rows {
        let of = |name: &str| row["rate"][name].as_f64().unwrap();
        assert!(0.0 < of("lowest") && of("lowest") <= of("median") && of("median") <= of("highest"), "{row}");
        let share = row["share_of_peak"].as_f64().unwrap();
        // Other programs slow either measurement; only nonsense is caught here.
        assert!(share > 0.0 && share < 20.0, "{row}");
        let peak = match row["name"].as_str().unwrap() {
            name if name.ends_with("batch 1") => "memory_read",
            name if name.contains("bf16") => "bf16",
            _ => "multiply_add",
        };
        assert_eq!(row["peak"], peak, "{row}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_first() {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), ["bench", "--tokens", "8"])
        .expect_status(2)
        .expect_stderr(&["`--tokens` is 8, expected at least 16"]);
    run(home.path(), ["bench", "--tokens", "18446744073709551615"])
        .expect_status(2)
        .expect_stderr(&["`--tokens` is 18446744073709551615, expected at most 16777216"]);
    run(home.path(), ["bench", "--model", "no/such/model"]).expect_status(2);
}
