use std::io::Cursor;
use std::path::Path;

use truing_model::ModelError;
use truing_model::weights::{SafetensorsFile, SafetensorsFiles};

use crate::{Damage, tiny_model};

fn file_bytes(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn open(bytes: Vec<u8>) -> Result<SafetensorsFile, ModelError> {
    SafetensorsFile::from_reader(Cursor::new(bytes), Path::new("test.safetensors"))
}

fn refused(header: &str, data: &[u8], part: &str) {
    let message = open(file_bytes(header, data)).unwrap_err().to_string();
    assert!(message.contains(part), "{message}");
}

#[test]
fn float_types_are_read_at_any_offset() {
    let values = [1.5_f32, -0.25];
    let mut data = vec![7, 8, 9];
    data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    data.extend(values.iter().flat_map(|&v| f64::from(v).to_le_bytes()));
    data.extend(values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()));
    data.extend(values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()));
    let header = r#"{"__metadata__":{"format":"pt"},
        "odd":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
        "f32":{"dtype":"F32","shape":[2],"data_offsets":[3,11]},
        "f64":{"dtype":"F64","shape":[1,2],"data_offsets":[11,27]},
        "f16":{"dtype":"F16","shape":[2,1],"data_offsets":[27,31]},
        "bf16":{"dtype":"BF16","shape":[2],"data_offsets":[31,35]}}"#;
    let file = open(file_bytes(header, &data)).unwrap();
    assert_eq!(file.metadata["format"], "pt");
    for (name, shape) in [("f32", vec![2]), ("f64", vec![1, 2]), ("f16", vec![2, 1]), ("bf16", vec![2])] {
        let tensor = file.read(name).unwrap();
        assert_eq!((tensor.shape, tensor.values), (shape, values.to_vec()), "{name}");
    }
    let message = file.read("odd").unwrap_err().to_string();
    assert!(message.contains("tensor `odd` is stored as U8; readable are F32"), "{message}");
    assert!(matches!(file.read("absent"), Err(ModelError::MissingTensor { .. })));
}

#[test]
fn lying_headers_are_refused() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    refused(&one("F32", "[2]", "[0,8]"), &[0; 4], "the file ends inside the data of tensor `w`");
    refused(&one("F32", "[2]", "[0,8]"), &[0; 12], "4 bytes follow the last tensor");
    refused(&one("F32", "[3]", "[0,8]"), &[0; 8], "cannot have 8 bytes");
    refused(&one("F32", "[2]", "[8,0]"), &[0; 8], "tensor `w` has bytes 8 to 0");
    refused(&one("F32", "[2]", "[4,12]"), &[0; 12], "expected to begin at 0");
    refused(&one("F32", "[4294967296,4294967296,4294967296]", "[0,0]"), &[], "cannot have 0 bytes");
    refused(&one("F77", "[4294967296,4294967296,4294967296]", "[0,0]"), &[], "overflows");
    refused(&one("F32", "[-1]", "[0,4]"), &[0; 4], "not a valid safetensors header");
    let twice = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    refused(twice, &[0; 2], "tensor `w` appears twice");
    refused("[]", &[], "not a valid safetensors header");
    assert!(open(vec![1, 2, 3]).unwrap_err().to_string().contains("the file ends inside the header"));
    assert!(open(1_000_u64.to_le_bytes().to_vec()).unwrap_err().to_string().contains("inside the header"));
    assert!(open(vec![0xff; 64]).unwrap_err().to_string().contains("not a safetensors file"));
}

#[test]
fn shards_are_found_through_their_index_and_faults_name_file_and_tensor() {
    let tensor = |name: &str| format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("one.safetensors"), file_bytes(&tensor("a"), &1.0_f32.to_le_bytes())).unwrap();
    std::fs::write(path("two.safetensors"), file_bytes(&tensor("b"), &2.0_f32.to_le_bytes())).unwrap();
    let index = |map: &str| {
        let text = format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{map}}}"#);
        std::fs::write(path("model.safetensors.index.json"), text).unwrap();
        SafetensorsFiles::open(directory.path())
    };
    let files = index(r#"{"a":"one.safetensors","b":"two.safetensors"}"#).unwrap();
    assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(files.read("b").unwrap().values, [2.0]);

    let message = |map: &str| index(map).unwrap_err().to_string();
    let gone = message(r#"{"a":"one.safetensors","b":"gone.safetensors"}"#);
    assert!(gone.contains("gone.safetensors"), "{gone}");
    let lacking = message(r#"{"a":"one.safetensors","c":"two.safetensors"}"#);
    assert!(lacking.contains("two.safetensors: there is no tensor `c`"), "{lacking}");
    let outside = message(r#"{"a":"../one.safetensors"}"#);
    assert!(outside.contains("is not a file name"), "{outside}");
    std::fs::copy(path("one.safetensors"), path("three.safetensors")).unwrap();
    let twice = message(r#"{"a":"one.safetensors","b":"three.safetensors"}"#);
    assert!(twice.contains("tensor `a` is in both"), "{twice}");
    let nothing = SafetensorsFiles::open(tempfile::tempdir().unwrap().path()).unwrap_err().to_string();
    assert!(nothing.contains("no weights; expected model.safetensors"), "{nothing}");
}

#[test]
fn damaged_files_never_panic() {
    let bytes = std::fs::read(tiny_model("mistral").join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let bytes = &bytes[..header + 4096];
    let mut damage = Damage(2);
    for _ in 0..4000 {
        if let Ok(file) = open(damage.apply(bytes, header)) {
            for tensor in &file.tensors {
                let _ = file.read(&tensor.name);
            }
        }
    }
}
