//! GGUF: header, every tensor's values, and the decoder that the metadata describes.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use truing_model::GgufFile;
use truing_model::families::decoder_from_gguf;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = GgufFile::from_reader(Cursor::new(bytes.to_vec()), Path::new("fuzz.gguf")) else { return };
    for tensor in &file.tensors {
        let _ = file.dequantize(&tensor.name);
    }
    if let Ok(decoder) = decoder_from_gguf(&file) {
        for (ours, theirs) in decoder.names() {
            let _ = decoder.read_tensor(ours.as_deref().unwrap_or(theirs), theirs);
        }
    }
});
