//! Reads a model and writes it again, so that `tests/python/check_saved.py` can show that transformers and PEFT
//! read what is written:
//!
//! `resave IN OUT [dtype=f32|bf16|f16] [shard=BYTES] [config=fresh] [adapter=DIRECTORY]`
//!
//! With an adapter, OUT gets the merged model, and `OUT/adapter` the adapter written again.

#![allow(clippy::print_stdout, reason = "an example talks")]

use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

use truing_model::adapters::{merge_lora, open_adapter, save_adapter};
use truing_model::{ModelError, ModelFiles, ParameterSpec, SaveDtype, SaveOptions, Weights, save_pretrained};

fn values<'w>(weights: &'w Weights, parameter: &ParameterSpec) -> Result<Cow<'w, [f32]>, ModelError> {
    Ok(Cow::Borrowed(weights.get(&parameter.name).map_or(&[][..], |tensor| &tensor.values)))
}

fn main() -> Result<(), ModelError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, options @ ..] = arguments.as_slice() else {
        println!("resave IN OUT [dtype=f32|bf16|f16] [shard=BYTES] [config=fresh] [adapter=DIRECTORY]");
        return Ok(());
    };
    let option = |name: &str| options.iter().find_map(|option| option.strip_prefix(name));
    let started = Instant::now();
    let files = ModelFiles::open(Path::new(from))?;
    println!("opened after {:.3} s", started.elapsed().as_secs_f64());
    let mut model = files.load()?;
    println!("loaded after {:.3} s", started.elapsed().as_secs_f64());
    let dtype = match option("dtype=") {
        Some("bf16") => SaveDtype::Bf16,
        Some("f16") => SaveDtype::F16,
        _ => SaveDtype::F32,
    };
    if let Some(adapter) = option("adapter=") {
        let (lora, weights) = open_adapter(Path::new(adapter), &model.spec)?;
        merge_lora(&mut model.weights, &model.spec, &lora, &weights)?;
        let directory = Path::new(to).join("adapter");
        let options = SaveOptions { dtype, ..SaveOptions::default() };
        save_adapter(&directory, &model.spec, &lora, Some(from), &options, |p| values(&weights, p))?;
    }
    let options = SaveOptions {
        dtype,
        max_shard_bytes: option("shard=").and_then(|bytes| bytes.parse().ok()).unwrap_or(u64::MAX),
        original_config: files.config.as_ref().filter(|_| option("config=").is_none()),
        generation_config: files.generation_config.as_ref(),
        tokenizer_files: &[],
        output_names: &[],
        pad_token_id: None,
    };
    save_pretrained(Path::new(to), &model.spec, &options, |parameter| values(&model.weights, parameter))?;
    println!("saved after {:.3} s", started.elapsed().as_secs_f64());
    Ok(())
}
