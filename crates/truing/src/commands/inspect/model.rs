//! `truing inspect model`: what a model directory or `.gguf` file holds. Each part is looked at for itself, so that
//! a model that cannot be used still shows what there is of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use truing_eval::classifier::ClassifierSpec;
use truing_model::encoder::OUTPUT_LAYER;
use truing_model::sources::DEFAULT_MODEL;
use truing_model::weights::{SafetensorsFile, SafetensorsFiles};
use truing_model::{
    Activation, AdapterFiles, DecoderSpec, EncoderFiles, EncoderSpec, GgufFile, LoraSpec, ModelError,
    ModelFiles, QkvLayout, RopeScaling, is_adapter,
};
use truing_text::{ChatTemplate, Tokenizer};

use crate::Context;
use crate::commands;
use crate::outcome::Outcome;
use crate::printer::{Printer, Style, one_sentence};
use crate::table::{Align, Table};
use crate::units::{bytes, count};

/// Arguments of `truing inspect model`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model directory, a .gguf file, or a name on the Hugging Face hub.
    #[arg(value_name = "PATH|NAME", default_value = DEFAULT_MODEL)]
    model: String,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
    /// Print the chat template.
    #[arg(long)]
    template: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What there is, and what is wrong with it.
#[derive(Debug, Serialize)]
struct Findings {
    path: PathBuf,
    kind: &'static str,
    spec: Option<ModelSpec>,
    /// What an adapter adapts, and how.
    adapter: Option<AdapterFindings>,
    /// Files that contradict each other, and which of them counts.
    contradictions: Vec<String>,
    /// What the outputs of a classifier or scorer mean.
    classifier: Option<ClassifierSpec>,
    n_parameters: Option<usize>,
    n_tensors: usize,
    n_bytes: u64,
    by_dtype: BTreeMap<String, DtypeTotal>,
    unused_tensors: Vec<String>,
    tensors: Vec<TensorLine>,
    tokenizer: Option<TokenizerFindings>,
    problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
struct AdapterFindings {
    base_model_name_or_path: String,
    base_path: PathBuf,
    #[serde(flatten)]
    lora: LoraSpec,
    whole_parameters: Vec<String>,
}

impl AdapterFindings {
    fn of(adapter: &AdapterFiles) -> Self {
        Self {
            base_model_name_or_path: adapter.base_reference.clone(),
            base_path: adapter.base_path.clone(),
            lora: adapter.lora.clone(),
            whole_parameters: adapter.whole_parameters().map(str::to_owned).collect(),
        }
    }

    fn describe(&self) -> [(&'static str, String); 2] {
        let LoraSpec { rank, alpha, targets } = &self.lora;
        let also = match self.whole_parameters.as_slice() {
            [] => String::new(),
            whole => format!(", and all of {}", whole.join(", ")),
        };
        [
            ("adapter", format!("LoRA of rank {rank}, alpha {alpha} on {}{also}", targets.join(", "))),
            ("base model", self.base_path.display().to_string()),
        ]
    }
}

/// What opening a model found.
struct Opened {
    spec: ModelSpec,
    unused_tensors: Vec<String>,
    contradictions: Vec<String>,
    adapter: Option<AdapterFindings>,
    tokenizer_directory: Option<PathBuf>,
}

/// What a model is, by its kind.
#[derive(Debug, Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "there is one a file")]
enum ModelSpec {
    Decoder(DecoderSpec),
    Encoder(EncoderSpec),
}

impl ModelSpec {
    fn open(path: &Path) -> Result<Opened, ModelError> {
        if EncoderFiles::is_encoder(path) {
            let files = EncoderFiles::open(path)?;
            return Ok(Opened {
                contradictions: files.contradictions(),
                spec: Self::Encoder(files.spec),
                unused_tensors: files.unused_tensors,
                adapter: None,
                tokenizer_directory: None,
            });
        }
        let files = ModelFiles::open(path)?;
        Ok(Opened {
            adapter: files.adapter.as_ref().map(AdapterFindings::of),
            tokenizer_directory: files.tokenizer_directory().map(Path::to_path_buf),
            spec: Self::Decoder(files.spec),
            unused_tensors: files.unused_tensors,
            contradictions: files.contradictions,
        })
    }

    fn n_parameters(&self) -> usize {
        match self {
            Self::Decoder(spec) => spec.n_parameters(),
            Self::Encoder(spec) => spec.n_parameters(),
        }
    }

    fn vocab_size(&self) -> usize {
        match self {
            Self::Decoder(spec) => spec.vocab_size,
            Self::Encoder(spec) => spec.vocab_size,
        }
    }

    fn describe(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Decoder(spec) => describe(spec),
            Self::Encoder(spec) => describe_encoder(spec),
        }
    }
}

/// Everything that is stored in one type.
#[derive(Debug, Default, Serialize)]
struct DtypeTotal {
    n_tensors: usize,
    n_values: u64,
    n_bytes: u64,
}

#[derive(Debug, Serialize)]
struct TensorLine {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    n_bytes: u64,
}

#[derive(Debug, Serialize)]
struct TokenizerFindings {
    vocab_size: usize,
    n_special_tokens: usize,
    bos: Option<String>,
    eos: Option<String>,
    adds_bos: bool,
    chat_templates: BTreeMap<String, String>,
    marks_generation: Option<bool>,
}

/// Looks at every part and prints what is there.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let path = the_model(&commands::model::find(&arguments.model, context)?)?;
    let mut problems = Vec::new();
    let mut note = |error: anyhow::Error| problems.push(one_sentence(&error));
    let tensors = list_tensors(&path).map_err(|error| note(error.into())).unwrap_or_default();
    let found = ModelSpec::open(&path).map_err(|error| note(error.into())).ok();
    let classifier = path.join(ClassifierSpec::FILE_NAME).is_file().then(|| ClassifierSpec::open(&path));
    let classifier = classifier.and_then(|spec| spec.map_err(|error| note(error.into())).ok());
    let of_model = found.as_ref().and_then(|found| found.tokenizer_directory.clone());
    let tokenizer_folder = of_model.unwrap_or_else(|| transformer_folder(&path));
    let tokenizer = look_at_tokenizer(&tokenizer_folder, &mut note).map_err(&mut note).ok();

    let mut by_dtype: BTreeMap<String, DtypeTotal> = BTreeMap::new();
    for tensor in &tensors {
        let total = by_dtype.entry(tensor.dtype.clone()).or_default();
        total.n_tensors += 1;
        total.n_values += tensor.shape.iter().map(|&n| n as u64).product::<u64>();
        total.n_bytes += tensor.n_bytes;
    }
    let (spec, unused_tensors, contradictions, adapter) = match found {
        Some(found) => (Some(found.spec), found.unused_tensors, found.contradictions, found.adapter),
        None => (None, Vec::new(), Vec::new(), None),
    };
    if let (Some(spec), Some(tokenizer)) = (&spec, &tokenizer)
        && tokenizer.vocab_size > spec.vocab_size()
    {
        problems.push(format!(
            "the tokenizer has {} entries, but the embedding only {} rows",
            tokenizer.vocab_size,
            spec.vocab_size()
        ));
    }
    let findings = Findings {
        kind: match path.is_dir() {
            true if is_adapter(&path) => "adapter",
            true => "model directory",
            false => "GGUF file",
        },
        adapter,
        contradictions,
        n_parameters: spec.as_ref().map(ModelSpec::n_parameters),
        unused_tensors,
        spec,
        classifier,
        n_tensors: tensors.len(),
        n_bytes: tensors.iter().map(|tensor| tensor.n_bytes).sum(),
        by_dtype,
        tensors,
        tokenizer,
        problems,
        path,
    };
    if arguments.json {
        context.printer.json(&findings)?;
    } else {
        print(&findings, arguments, context.printer)?;
    }
    Ok(if findings.problems.is_empty() { Outcome::Fine } else { Outcome::Finding })
}

/// The path itself, or the one GGUF file of a directory without a configuration.
fn the_model(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_dir() && !path.join("config.json").is_file() && !is_adapter(path) {
        let mut gguf_files: Vec<PathBuf> = fs::read_dir(path)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.extension().is_some_and(|extension| extension == "gguf"))
            .collect();
        if gguf_files.len() == 1 {
            return Ok(gguf_files.remove(0));
        }
    }
    fs::metadata(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
    Ok(path.to_path_buf())
}

fn list_tensors(path: &Path) -> Result<Vec<TensorLine>, ModelError> {
    if !path.is_dir() {
        let file = GgufFile::open(path)?;
        let line = |tensor: &truing_model::gguf::TensorInfo| TensorLine {
            name: tensor.name.clone(),
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            n_bytes: tensor.dtype.byte_len(tensor.n_elements()).unwrap_or(0) as u64,
        };
        return Ok(file.tensors.iter().map(line).collect());
    }
    let mut lines = Vec::new();
    if is_adapter(path) {
        add_lines(&SafetensorsFile::open(path.join("adapter_model.safetensors"))?, &mut lines)?;
        return Ok(lines);
    }
    let output_layer = path.join(OUTPUT_LAYER);
    let folders = [transformer_folder(path)].into_iter().chain(output_layer.is_dir().then_some(output_layer));
    for folder in folders {
        for file in SafetensorsFiles::open(&folder)?.files() {
            add_lines(file, &mut lines)?;
        }
    }
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(lines)
}

fn add_lines(file: &SafetensorsFile, lines: &mut Vec<TensorLine>) -> Result<(), ModelError> {
    let length =
        fs::metadata(&file.path).map_err(|source| ModelError::Io { path: file.path.clone(), source })?.len();
    // Tensors lie back to back, so each ends where the next begins.
    let ends = file.tensors.iter().skip(1).map(|tensor| tensor.offset).chain([length]);
    lines.extend(file.tensors.iter().zip(ends).map(|(tensor, end)| TensorLine {
        name: tensor.name.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        n_bytes: end.saturating_sub(tensor.offset),
    }));
    Ok(())
}

/// Where weights and tokenizer lie: old encoders have them in a folder of their own.
fn transformer_folder(path: &Path) -> PathBuf {
    let own = path.join("0_Transformer");
    if own.is_dir() && !path.join("config.json").is_file() { own } else { path.to_path_buf() }
}

fn look_at_tokenizer(path: &Path, note: &mut impl FnMut(anyhow::Error)) -> anyhow::Result<TokenizerFindings> {
    let tokenizer = Tokenizer::load(path)?;
    let named = |id: Option<u32>| id.map(|id| format!("{} ({id})", tokenizer.token_display(id)));
    let template = if tokenizer.chat_templates().is_empty() {
        None
    } else {
        ChatTemplate::from_tokenizer(&tokenizer).map_err(|error| note(error.into())).ok()
    };
    Ok(TokenizerFindings {
        vocab_size: tokenizer.vocab_size(),
        n_special_tokens: tokenizer.special_tokens().count(),
        bos: named(tokenizer.bos()),
        eos: named(tokenizer.eos()),
        adds_bos: tokenizer.adds_bos(),
        chat_templates: tokenizer.chat_templates().clone(),
        marks_generation: template.map(|template| template.marks_generation()),
    })
}

fn print(findings: &Findings, arguments: &Arguments, printer: Printer) -> anyhow::Result<()> {
    printer.line(printer.styled(Style::Bold, format!("{} ({})", findings.path.display(), findings.kind)))?;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    for (what, value) in findings.adapter.iter().flat_map(AdapterFindings::describe) {
        table.row([what.to_owned(), value]);
    }
    if let Some(spec) = &findings.spec {
        for (what, value) in spec.describe() {
            table.row([what.to_owned(), value]);
        }
    }
    for part in findings.classifier.iter().flat_map(|classifier| &classifier.parts) {
        let outputs = part.labels().map_or_else(|| "a score".to_owned(), |labels| labels.join(", "));
        table.row([format!("outputs of {}", part.name), outputs]);
    }
    if let Some(tokenizer) = &findings.tokenizer {
        for (what, value) in describe_tokenizer(tokenizer) {
            table.row([what.to_owned(), value]);
        }
    }
    print_table(&table, printer)?;
    if findings.n_tensors > 0 {
        printer.line("")?;
        let right = [("tensors", Align::Right), ("values", Align::Right), ("size", Align::Right)];
        let mut table = Table::new(&[[("stored as", Align::Left)].as_slice(), &right].concat());
        for (dtype, total) in &findings.by_dtype {
            table.row([
                dtype.clone(),
                total.n_tensors.to_string(),
                count(total.n_values),
                bytes(total.n_bytes),
            ]);
        }
        let n_values = findings.by_dtype.values().map(|total| total.n_values).sum();
        table.row([
            "all".to_owned(),
            findings.n_tensors.to_string(),
            count(n_values),
            bytes(findings.n_bytes),
        ]);
        print_table(&table, printer)?;
    }
    if arguments.tensors {
        printer.line("")?;
        let right = [("size", Align::Right)];
        let left = [("tensor", Align::Left), ("stored as", Align::Left), ("shape", Align::Left)];
        let mut table = Table::new(&[left.as_slice(), &right].concat());
        for tensor in &findings.tensors {
            let shape = format!("{:?}", tensor.shape);
            table.row([tensor.name.clone(), tensor.dtype.clone(), shape, bytes(tensor.n_bytes)]);
        }
        print_table(&table, printer)?;
    }
    if arguments.template {
        for (name, source) in findings.tokenizer.iter().flat_map(|tokenizer| &tokenizer.chat_templates) {
            printer.line("")?;
            printer.line(printer.styled(Style::Bold, format!("chat template `{name}`")))?;
            printer.line(source)?;
        }
    }
    if !findings.unused_tensors.is_empty() {
        printer.line("")?;
        let names = findings.unused_tensors.join(", ");
        let text = format!("{} tensors are not read: {names}", findings.unused_tensors.len());
        printer.line(printer.styled(Style::Yellow, text))?;
    }
    for contradiction in &findings.contradictions {
        printer.line("")?;
        printer.line(printer.styled(Style::Yellow, format!("warning: {contradiction}")))?;
    }
    for problem in &findings.problems {
        printer.line("")?;
        printer.line(printer.styled(Style::Red, format!("problem: {problem}")))?;
    }
    Ok(())
}

fn print_table(table: &Table, printer: Printer) -> anyhow::Result<()> {
    for line in table.lines() {
        printer.line(line)?;
    }
    Ok(())
}

fn describe_encoder(spec: &EncoderSpec) -> Vec<(&'static str, String)> {
    let outputs = match spec.n_outputs {
        Some(n) => format!("{n} outputs"),
        None if spec.is_normalized => format!("a vector of {}, divided by its norm", spec.hidden_size),
        None => format!("a vector of {}", spec.hidden_size),
    };
    let case = if spec.is_lower_cased { ", lower-cased first" } else { "" };
    vec![
        ("architecture", "BERT encoder".to_owned()),
        ("parameters", count(spec.n_parameters() as u64)),
        ("layers", spec.n_layers.to_string()),
        ("width", format!("{}, feed-forward {}", spec.hidden_size, spec.intermediate_size)),
        ("attention heads", format!("{} of width {}", spec.n_heads, spec.head_dim())),
        ("vocabulary", count(spec.vocab_size as u64)),
        ("longest text", format!("{} tokens{case}", count(spec.max_sequence_length as u64))),
        ("pooling", format!("{:?}", spec.pooling).to_lowercase()),
        ("gives", outputs),
    ]
}

fn describe(spec: &DecoderSpec) -> Vec<(&'static str, String)> {
    let heads = if spec.n_heads == spec.n_kv_heads {
        format!("{} of width {}", spec.n_heads, spec.head_dim)
    } else {
        format!("{} of width {}, {} for keys and values", spec.n_heads, spec.head_dim, spec.n_kv_heads)
    };
    let scaling = match &spec.rope_scaling {
        None => String::new(),
        Some(RopeScaling::Llama3 { factor, .. }) => format!(", Llama 3 scaling by {factor}"),
        Some(RopeScaling::Linear { factor }) => format!(", linear scaling by {factor}"),
        Some(RopeScaling::Yarn { factor, .. }) => format!(", YaRN scaling by {factor}"),
        Some(RopeScaling::Dynamic { factor }) => {
            format!(", dynamic scaling by {factor} (longer sequences are refused)")
        }
        Some(RopeScaling::LongRope { extended_max_position_embeddings, .. }) => {
            format!(
                ", LongRoPE up to {extended_max_position_embeddings} (only the original context is supported)"
            )
        }
    };
    let mut features = Vec::new();
    let claims = [
        (spec.tie_word_embeddings, "head tied to the embedding"),
        (spec.qkv_bias, "biases on queries, keys and values"),
        (spec.output_bias, "bias on the attention's output"),
        (spec.mlp_bias, "biases in the feed-forward"),
        (spec.qk_norm, "norms over queries and keys"),
        (spec.variant.activation == Activation::GeluTanh, "GELU gate"),
        (spec.variant.qkv_layout != QkvLayout::Separate, "queries, keys and values in one projection"),
        (spec.variant.has_fused_gate_up, "gate and up in one projection"),
        (spec.variant.has_post_norms, "norms after attention and feed-forward"),
        (spec.variant.has_normalized_head, "head with normalised rows"),
    ];
    let numbers = [
        (spec.variant.attention_soft_cap, "attention scores capped at"),
        (spec.variant.logit_soft_cap, "logits capped at"),
    ];
    features.extend(numbers.iter().filter_map(|(cap, name)| cap.map(|cap| format!("{name} {cap}"))));
    if spec.rotary_dim() != spec.head_dim {
        features.push(format!("{} components of each head turn", spec.rotary_dim()));
    }
    if let Some(theta) = spec.variant.local_rope_theta {
        features.push(format!("rotary base {theta} in layers with a sliding window"));
    }
    features.extend(claims.iter().filter(|(holds, _)| *holds).map(|(_, name)| (*name).to_owned()));
    let windows: Vec<usize> = spec.sliding_windows.iter().copied().flatten().collect();
    if let Some(widest) = windows.iter().max() {
        features.push(format!("sliding window of {widest} tokens in {} layers", windows.len()));
    }
    vec![
        ("architecture", spec.architecture.clone()),
        ("parameters", count(spec.n_parameters() as u64)),
        ("layers", spec.n_layers.to_string()),
        ("width", format!("{}, feed-forward {}", spec.hidden_size, spec.intermediate_size)),
        ("attention heads", heads),
        ("vocabulary", count(spec.vocab_size as u64)),
        (
            "context",
            format!(
                "{} tokens, rotary base {}{scaling}",
                count(spec.max_position_embeddings as u64),
                spec.rope_theta
            ),
        ),
        ("features", if features.is_empty() { "none".to_owned() } else { features.join("; ") }),
    ]
}

fn describe_tokenizer(tokenizer: &TokenizerFindings) -> Vec<(&'static str, String)> {
    let none = || "none".to_owned();
    let bos = match (&tokenizer.bos, tokenizer.adds_bos) {
        (Some(bos), true) => format!("{bos}, put before every raw text"),
        (Some(bos), false) => format!("{bos}, not added to raw texts"),
        (None, _) => none(),
    };
    let names: Vec<String> = tokenizer
        .chat_templates
        .iter()
        .map(|(name, source)| format!("{name} ({} characters)", source.chars().count()))
        .collect();
    let marks = match tokenizer.marks_generation {
        Some(true) => ", marks what the model says",
        _ => "",
    };
    let entries = count(tokenizer.vocab_size as u64);
    vec![
        ("tokenizer", format!("{entries} entries, {} special", tokenizer.n_special_tokens)),
        ("begin of sequence", bos),
        ("end of sequence", tokenizer.eos.clone().unwrap_or_else(none)),
        ("chat template", if names.is_empty() { none() } else { format!("{}{marks}", names.join(", ")) }),
    ]
}
