//! safetensors: the header's promises against the file's bytes.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use truing_model::weights::SafetensorsFile;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz.safetensors");
    let Ok(file) = SafetensorsFile::from_reader(Cursor::new(bytes.to_vec()), path) else { return };
    for tensor in &file.tensors {
        let _ = file.read(&tensor.name);
    }
});
