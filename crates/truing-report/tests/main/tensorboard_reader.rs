//! TensorBoard's own reader must find what was written, after a resume too.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use truing_report::tensorboard::{EventFile, tag};

#[test]
fn tensorboards_own_reader_finds_every_scalar_once() {
    let Some(python) = std::env::var_os("TRUING_TEST_PYTHON") else {
        println!("skipped: TRUING_TEST_PYTHON names no Python with tensorboard");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventFile::create(folder.path(), 1000.0).unwrap();
    let (loss, eval_loss) = (tag("loss"), tag("eval_loss"));
    for step in 1..=200 {
        file.append(1000.0 + step as f64, step, [(loss.as_str(), 1.0 / step as f64)]).unwrap();
    }
    drop(file);
    let mut file = EventFile::resume(folder.path(), 150, None, 2000.0).unwrap();
    file.append(2000.5, 151, [(loss.as_str(), 0.25), (eval_loss.as_str(), 0.125)]).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_events.py");
    let output = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let scalars: Vec<Value> = output
        .stdout
        .split(|&b| b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    let losses: Vec<&Value> = scalars.iter().filter(|s| s["tag"] == "train/loss").collect();
    let steps: Vec<u64> = losses.iter().map(|s| s["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=151).collect::<Vec<u64>>());
    assert_eq!(losses[150]["value"], 0.25);
    assert_eq!(losses[150]["wall_time"], 2000.5);
    let evals: Vec<&Value> = scalars.iter().filter(|s| s["tag"] == "eval/loss").collect();
    assert_eq!((evals.len(), &evals[0]["value"]), (1, &Value::from(0.125)));
}
