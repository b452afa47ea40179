//! Reads a model and writes it again: `resave IN OUT [f32|bf16|f16] [most bytes of a shard]`. With
//! `tests/python/check_saved.py` it shows that transformers reads what is written.

#![allow(clippy::print_stdout, reason = "an example talks")]

use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

use truing_model::{ModelError, ModelFiles, SaveDtype, SaveOptions, save_pretrained};

fn main() -> Result<(), ModelError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, options @ ..] = arguments.as_slice() else {
        println!("resave IN OUT [f32|bf16|f16] [most bytes of a shard]");
        return Ok(());
    };
    let started = Instant::now();
    let files = ModelFiles::open(Path::new(from))?;
    println!("opened in {:.3} s", started.elapsed().as_secs_f64());
    let model = files.load()?;
    println!("loaded in {:.3} s", started.elapsed().as_secs_f64());
    let options = SaveOptions {
        dtype: match options.first().map(String::as_str) {
            Some("bf16") => SaveDtype::Bf16,
            Some("f16") => SaveDtype::F16,
            _ => SaveDtype::F32,
        },
        max_shard_bytes: options.get(1).and_then(|bytes| bytes.parse().ok()).unwrap_or(u64::MAX),
        original_config: files.config.as_ref(),
        generation_config: files.generation_config.as_ref(),
        tokenizer_files: &[],
    };
    save_pretrained(Path::new(to), &model.spec, &options, |parameter| {
        let values = model.weights.get(&parameter.name).map_or(&[][..], |tensor| &tensor.values);
        Ok(Cow::Borrowed(values))
    })
}
