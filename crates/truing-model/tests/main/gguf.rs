use std::io::Cursor;
use std::path::Path;

use truing_model::ModelError;
use truing_model::gguf::{GgufFile, MetadataValue};

use crate::{Damage, fixture};

fn open(bytes: Vec<u8>) -> Result<GgufFile, ModelError> {
    GgufFile::from_reader(Cursor::new(bytes), Path::new("test.gguf"))
}

fn all_types() -> Vec<u8> {
    std::fs::read(fixture("gguf/all_types.gguf")).unwrap()
}

/// Little-endian building blocks of a file made by hand.
fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

fn header(version: u32, n_tensors: u64, n_metadata: u64) -> Vec<u8> {
    [b"GGUF", &version.to_le_bytes()[..], &n_tensors.to_le_bytes(), &n_metadata.to_le_bytes()].concat()
}

fn tensor_entry(name: &str, dimensions: &[u64], dtype: u32, offset: u64) -> Vec<u8> {
    let mut entry = [&text(name)[..], &(dimensions.len() as u32).to_le_bytes()].concat();
    dimensions.iter().for_each(|size| entry.extend(size.to_le_bytes()));
    entry.extend(dtype.to_le_bytes());
    entry.extend(offset.to_le_bytes());
    entry
}

#[test]
fn every_format_dequantizes_to_the_bits_of_the_reference() {
    let file = GgufFile::open(fixture("gguf/all_types.gguf")).unwrap();
    let expected: Vec<f32> = std::fs::read(fixture("gguf/all_types.expected.f32"))
        .unwrap()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(file.tensors.len() * 512, expected.len());
    for (tensor, expected) in file.tensors.iter().zip(expected.chunks_exact(512)) {
        assert_eq!(tensor.shape, [2, 256]);
        let values = file.dequantize(&tensor.name).unwrap();
        for (i, (value, expected)) in values.iter().zip(expected).enumerate() {
            assert_eq!(value, expected, "{} value {i}", tensor.name);
        }
    }
}

#[test]
fn metadata_of_every_type_is_read() {
    let file = GgufFile::open(fixture("gguf/all_types.gguf")).unwrap();
    assert_eq!(file.version, 3);
    assert_eq!(file.require::<u64>("t.uint8").unwrap(), 200);
    assert_eq!(file.metadata["t.int8"], MetadataValue::Signed(-100));
    assert_eq!(file.require::<u64>("t.uint16").unwrap(), 60000);
    assert_eq!(file.metadata["t.int16"], MetadataValue::Signed(-30000));
    assert_eq!(file.require::<u64>("t.uint32").unwrap(), 4_000_000_000);
    assert_eq!(file.metadata["t.int32"], MetadataValue::Signed(-2_000_000_000));
    assert_eq!(file.require::<u64>("t.uint64").unwrap(), 1 << 63);
    assert_eq!(file.metadata["t.int64"], MetadataValue::Signed(-(1 << 62)));
    assert_eq!(file.require::<f64>("t.float32").unwrap(), 0.25);
    assert_eq!(file.require::<f64>("t.float64").unwrap(), 1e-300);
    assert!(file.require::<bool>("t.bool").unwrap());
    assert_eq!(file.require::<&str>("t.string").unwrap(), "grüße \u{2028} ✓");
    assert_eq!(file.require::<&[i64]>("t.integers").unwrap(), [1, -2, 3]);
    assert_eq!(file.require::<&[f32]>("t.floats").unwrap(), [0.5, -1.5]);
    assert_eq!(file.require::<&[bool]>("t.booleans").unwrap(), [true, false]);
    assert_eq!(file.require::<&[String]>("t.texts").unwrap(), ["a", "", "b c"]);
    assert_eq!(file.find::<u64>("t.absent").unwrap(), None);
}

#[test]
fn getters_name_the_key_and_the_expected_type() {
    let file = GgufFile::open(fixture("gguf/all_types.gguf")).unwrap();
    let message = file.require::<u64>("t.string").unwrap_err().to_string();
    assert!(message.ends_with("metadata `t.string` is a text, expected an unsigned integer"), "{message}");
    let message = file.require::<&[String]>("tokenizer.ggml.tokens").unwrap_err().to_string();
    assert!(message.ends_with("metadata has no `tokenizer.ggml.tokens` (an array of texts)"), "{message}");
    let message = file.dequantize("nothing").unwrap_err().to_string();
    assert!(message.ends_with("there is no tensor `nothing`"), "{message}");
}

#[test]
fn version_2_is_read_and_others_are_refused() {
    let with_version = |version: u32| {
        let mut bytes = all_types();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        open(bytes)
    };
    assert_eq!(with_version(2).unwrap().version, 2);
    assert!(with_version(1).unwrap_err().to_string().contains("versions 2 and 3 are read"));
    assert!(with_version(3 << 24).unwrap_err().to_string().contains("big-endian"));
}

#[test]
fn unknown_storage_is_listed_and_refused_by_name_when_read() {
    let mut bytes = header(3, 1, 0);
    bytes.extend(tensor_entry("blk.0.attn_q.weight", &[32, 2], 23, 0));
    bytes.extend([0; 64]);
    let file = open(bytes).unwrap();
    let message = file.dequantize("blk.0.attn_q.weight").unwrap_err().to_string();
    assert!(message.contains("tensor `blk.0.attn_q.weight` is stored as IQ4_XS"), "{message}");
}

#[test]
fn hostile_counts_and_shapes_are_refused() {
    let refused = |bytes: Vec<u8>, part: &str| {
        let message = open(bytes).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(b"GG".to_vec(), "not a GGUF file");
    refused(vec![0; 64], "not a GGUF file");
    refused(header(3, u64::MAX, 0), "the tensor table");
    refused(header(3, 0, u64::MAX), "the metadata");
    // A string, then an array, longer than the file.
    refused([&header(3, 0, 1)[..], &u64::MAX.to_le_bytes(), &[0; 32]].concat(), "a metadata key");
    let array = |count: u64| {
        [&header(3, 0, 1)[..], &text("k"), &9u32.to_le_bytes(), &5u32.to_le_bytes(), &count.to_le_bytes()]
            .concat()
    };
    refused(array(u64::MAX / 4 + 1), "metadata `k`");
    // Arrays of arrays without end.
    let mut nested = [&header(3, 0, 1)[..], &text("k"), &9u32.to_le_bytes()].concat();
    for _ in 0..100_000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    refused(nested, "nested deeper");
    // Shapes that overflow, hide an overflow behind a zero, or split a block.
    let tensor = |dimensions: &[u64], dtype, offset| {
        let mut bytes = header(3, 1, 0);
        bytes.extend(tensor_entry("w", dimensions, dtype, offset));
        bytes.extend([0; 256]);
        bytes
    };
    refused(tensor(&[u64::MAX, u64::MAX], 0, 0), "overflows");
    refused(tensor(&[0, u64::MAX, u64::MAX], 0, 0), "overflows");
    refused(tensor(&[1 << 40], 0, 0), "the data of tensor `w`");
    refused(tensor(&[4], 0, u64::MAX), "the data of tensor `w`");
    refused(tensor(&[16, 2], 2, 0), "blocks of 32");
    refused(tensor(&[1, 1, 1, 1, 1], 0, 0), "5 dimensions");
    let twice =
        [&header(3, 2, 0)[..], &tensor_entry("w", &[1], 0, 0), &tensor_entry("w", &[1], 0, 0), &[0; 64]];
    refused(twice.concat(), "tensor `w` appears twice");
}

#[test]
fn every_cut_is_an_error() {
    let bytes = all_types();
    for length in (0..2000).chain((2000..bytes.len()).step_by(97)) {
        assert!(open(bytes[..length].to_vec()).is_err(), "cut at {length}");
    }
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shrinking.gguf");
    std::fs::write(&path, all_types()).unwrap();
    let file = GgufFile::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    // Small files may still sit in the reader's buffer; the last tensor starts beyond any seek in it.
    let last = file.tensors.last().unwrap().name.clone();
    assert!(matches!(file.dequantize(&last), Err(ModelError::Truncated { .. })));
}

#[test]
fn damaged_files_never_panic() {
    let bytes = all_types();
    let mut damage = Damage(1);
    for _ in 0..4000 {
        if let Ok(file) = open(damage.apply(&bytes, 1700)) {
            for tensor in &file.tensors {
                let _ = file.dequantize(&tensor.name);
            }
        }
    }
}
