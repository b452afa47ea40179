//! What the tools share, because all of them train with transformers: steps, schedule, optimiser, evaluation, saving,
//! LoRA. They differ in names and defaults.

use crate::error::ImportError;
use crate::job::{Job, as_number};
use crate::recipe::{number, string, strings};
use crate::yaml::{Node, Value};

type Result<T> = std::result::Result<T, ImportError>;

/// The names of a tool's keys.
pub(crate) struct Names {
    pub(crate) rows: &'static str,
    pub(crate) accumulation: &'static str,
    pub(crate) epochs: &'static str,
    pub(crate) scheduler: &'static str,
    pub(crate) optimiser: &'static str,
}

pub(crate) const TRANSFORMERS: Names = Names {
    rows: "per_device_train_batch_size",
    accumulation: "gradient_accumulation_steps",
    epochs: "num_train_epochs",
    scheduler: "lr_scheduler_type",
    optimiser: "optim",
};
pub(crate) const AXOLOTL: Names = Names {
    rows: "micro_batch_size",
    accumulation: "gradient_accumulation_steps",
    epochs: "num_epochs",
    scheduler: "lr_scheduler",
    optimiser: "optimizer",
};

/// What a tool does if the file does not say.
pub(crate) struct Defaults {
    pub(crate) learning_rate: f64,
    pub(crate) epochs: f64,
    pub(crate) scheduler: &'static str,
    pub(crate) warmup_ratio: f64,
    pub(crate) rows: u64,
    /// Steps between checkpoints; none for the end of each epoch.
    pub(crate) save_steps: Option<u64>,
}

/// The rows of a step: of one device, and of all with accumulation.
pub(crate) struct Step {
    pub(crate) total: u64,
    /// How the total comes about.
    pub(crate) formula: String,
}

/// The number of rows of an optimiser step.
pub(crate) fn step(job: &mut Job<'_>, names: &Names, defaults: &Defaults) -> Result<Step> {
    let place = job.peek(names.rows);
    let rows = job.count(names.rows)?;
    let accumulation = job.count(names.accumulation)?;
    let processes = job.options.processes.max(1);
    let (n_rows, n_accumulated) = (rows.unwrap_or(defaults.rows), accumulation.unwrap_or(1));
    let total = n_rows.checked_mul(n_accumulated).and_then(|n| n.checked_mul(processes));
    let Some(total) = total.filter(|&total| total <= 1_000_000_000) else {
        let node =
            place.cloned().unwrap_or(Node { place: crate::Place { line: 1, column: 1 }, value: Value::Null });
        return Err(job.misfit(names.rows, &node, "fewer rows in a step"));
    };
    let by_default = if rows.is_none() { " (default)" } else { "" };
    let mut formula = format!("{} {n_rows}{by_default}", names.rows);
    if accumulation.is_some() {
        formula.push_str(&format!(" x {} {n_accumulated}", names.accumulation));
    }
    formula.push_str(&format!(" x {processes} {}", if processes == 1 { "process" } else { "processes" }));
    Ok(Step { total, formula })
}

/// Sets what a step holds. With packing a row of the tool is a pack; without it a row is a sample.
pub(crate) fn packs(job: &mut Job<'_>, names: &Names, step: &Step, is_packed: bool, what: &str) {
    job.set("packs_per_step", step.total.to_string(), step.formula.clone());
    let n = step.total;
    if job.has(names.accumulation) {
        job.changed(names.accumulation, "part of `packs_per_step`");
    }
    if is_packed {
        job.changed(names.rows, format!("`packs_per_step = {n}`: {}", step.formula));
        return;
    }
    job.set("packing", string("none"), format!("one {what} a pack, so that a step has {n}"));
    job.changed(
        names.rows,
        format!(
            "`packs_per_step = {n}` with `packing = \"none\"`: {}. Faster with about the same step: leave \
             out `packing`, and set `tokens_per_step` to {n} times the mean length of a {what}",
            step.formula
        ),
    );
}

/// Epochs, learning rate, schedule, optimiser. `updates` is the number of optimiser updates in a step of truing.
pub(crate) fn schedule(job: &mut Job<'_>, names: &Names, defaults: &Defaults, updates: u64) -> Result<()> {
    if job.copy_number("learning_rate", "learning_rate")?.is_none() {
        job.default("learning_rate", number(defaults.learning_rate));
    }
    let steps = steps(job, names, defaults, updates)?;
    let kind = scheduler(job, names, defaults, steps)?;
    warmup(job, defaults, updates, kind)?;
    if job.copy_number("weight_decay", "weight_decay")?.is_none() {
        job.default("weight_decay", number(0.0));
    }
    optimiser(job, names)
}

/// Sets the number of steps or epochs. The number of steps, if the file has one.
fn steps(job: &mut Job<'_>, names: &Names, defaults: &Defaults, updates: u64) -> Result<Option<u64>> {
    let max_steps =
        job.integer("max_steps")?.and_then(|steps| u64::try_from(steps).ok()).filter(|&steps| steps > 0);
    let Some(max_steps) = max_steps else {
        if job.copy_number(names.epochs, "num_train_epochs")?.is_none() {
            job.default("num_train_epochs", number(defaults.epochs));
        }
        return Ok(None);
    };
    let own = max_steps.div_ceil(updates.max(1));
    if updates > 1 {
        job.set("max_steps", own.to_string(), format!("max_steps {max_steps} / {updates} updates of a step"));
        job.changed("max_steps", format!("`max_steps = {own}`: a step of GRPO has {updates} updates"));
    } else {
        job.translated("max_steps", "max_steps", own.to_string());
    }
    if job.take(names.epochs).is_some() {
        job.not_needed(names.epochs, "`max_steps` replaces it");
    }
    Ok(Some(own))
}

/// Whether there is a warm-up before the schedule.
#[derive(Clone, Copy, PartialEq)]
enum WarmUp {
    Yes,
    No,
}

fn scheduler(job: &mut Job<'_>, names: &Names, defaults: &Defaults, steps: Option<u64>) -> Result<WarmUp> {
    let given = job.text(names.scheduler)?;
    let kwargs = job.take("lr_scheduler_kwargs");
    let of = |key: &str| kwargs.and_then(|kwargs| kwargs.get(key)).and_then(as_number);
    let name = given.clone().unwrap_or_else(|| defaults.scheduler.to_owned());
    let own = match name.as_str() {
        "constant" | "constant_with_warmup" => "constant",
        "linear" => "linear",
        "cosine" | "cosine_with_min_lr" | "cosine_warmup_with_min_lr" => "cosine",
        "warmup_stable_decay" | "wsd" => "wsd",
        "polynomial" => {
            job.changed(names.scheduler, "`lr_scheduler_type = \"linear\"`: a polynomial of power 1");
            "linear"
        }
        _ => {
            let text = format!(
                "no schedule `{name}`; the recipe has `cosine` instead, choose another if it does not fit"
            );
            job.missing(names.scheduler, text);
            job.set("lr_scheduler_type", string("cosine"), format!("instead of {name}"));
            return Ok(WarmUp::Yes);
        }
    };
    match &given {
        Some(name) if name == own => job.translated(names.scheduler, "lr_scheduler_type", string(own)),
        Some(name) => {
            job.set("lr_scheduler_type", string(own), format!("{} {name}", names.scheduler));
            if name != "polynomial" {
                job.note_translated(names.scheduler, &format!("`lr_scheduler_type = \"{own}\"`"));
            }
        }
        None => job.default("lr_scheduler_type", string(own)),
    }
    if let Some(kwargs) = kwargs {
        minimum(job, own, kwargs, of("min_lr"), of("min_lr_rate").or_else(|| of("min_lr_ratio")));
        if own == "wsd" {
            decay(job, of("num_decay_steps"), steps);
        }
        let Value::Table(pairs) = &kwargs.value else {
            return Err(job.misfit("lr_scheduler_kwargs", kwargs, "a table"));
        };
        for pair in pairs {
            if !["min_lr", "min_lr_rate", "min_lr_ratio", "num_decay_steps", "num_stable_steps"]
                .contains(&pair.key.as_str())
            {
                let key = format!("lr_scheduler_kwargs.{}", pair.key);
                job.finding_at(
                    crate::Kind::NoCounterpart,
                    &key,
                    Some(pair.place),
                    "the schedules have no such setting",
                );
            }
        }
    }
    Ok(if name == "constant" { WarmUp::No } else { WarmUp::Yes })
}

fn minimum(job: &mut Job<'_>, own: &str, kwargs: &Node, rate: Option<f64>, ratio: Option<f64>) {
    let peak = job.peek("learning_rate").and_then(as_number).filter(|&peak| peak > 0.0);
    let ratio = match (rate, ratio, peak) {
        (Some(rate), _, Some(peak)) => Some(rate / peak),
        (_, ratio, _) => ratio,
    };
    if let Some(ratio) = ratio {
        job.set("min_lr_ratio", number(ratio), "lr_scheduler_kwargs");
        job.note_translated("lr_scheduler_kwargs", "`min_lr_ratio`");
        if own == "constant" {
            job.missing("lr_scheduler_kwargs", "a constant schedule has no minimum");
        }
    } else if kwargs.get("min_lr").is_some() {
        job.missing(
            "lr_scheduler_kwargs",
            "the minimum is a fraction of `learning_rate`, which is not in the file: `min_lr_ratio`",
        );
    }
}

fn decay(job: &mut Job<'_>, decay_steps: Option<f64>, steps: Option<u64>) {
    match (decay_steps, steps) {
        (Some(decay), Some(steps)) if decay > 0.0 => {
            let ratio = (decay / steps as f64).min(1.0);
            job.set("decay_ratio", number(ratio), format!("num_decay_steps {decay} of {steps}"));
            job.note_translated("lr_scheduler_kwargs", "`decay_ratio`");
        }
        _ => job.missing(
            "lr_scheduler_kwargs",
            "the decay is a fraction of the steps, whose number is not in the file: `decay_ratio` (0.1 if \
             not set)",
        ),
    }
}

fn warmup(job: &mut Job<'_>, defaults: &Defaults, updates: u64, kind: WarmUp) -> Result<()> {
    let steps = job.number("warmup_steps")?.filter(|&steps| steps > 0.0);
    let ratio = job.number("warmup_ratio")?;
    if kind == WarmUp::No {
        for key in ["warmup_steps", "warmup_ratio"] {
            if job.has(key) {
                job.not_needed(key, "the schedule `constant` of transformers has no warm-up");
            }
        }
        job.set("warmup_ratio", number(0.0), "constant has no warm-up there");
        return Ok(());
    }
    match (steps, ratio) {
        // Since transformers 5 a number below 1 is a fraction.
        (Some(steps), _) if steps < 1.0 => {
            job.set("warmup_ratio", number(steps), "warmup_steps, a fraction");
            job.note_translated("warmup_steps", "`warmup_ratio`");
        }
        (Some(steps), _) => {
            let own = whole(steps / updates.max(1) as f64);
            job.translated("warmup_steps", "warmup_steps", own.to_string());
            if job.has("warmup_ratio") {
                job.not_needed("warmup_ratio", "`warmup_steps` replaces it");
            }
        }
        (None, Some(ratio)) => job.translated("warmup_ratio", "warmup_ratio", number(ratio)),
        (None, None) => job.default("warmup_ratio", number(defaults.warmup_ratio)),
    }
    Ok(())
}

fn optimiser(job: &mut Job<'_>, names: &Names) -> Result<()> {
    let Some(name) = job.text(names.optimiser)? else { return Ok(()) };
    let plain = [
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_hf",
        "adamw_torch_xla",
        "adamw_apex_fused",
        "adamw",
        "AdamW",
    ];
    if plain.contains(&name.as_str()) {
        job.not_needed(names.optimiser, "the optimiser is AdamW");
    } else if name.contains("adamw") {
        job.changed(names.optimiser, format!("AdamW with moments in float32 instead of `{name}`"));
    } else {
        job.missing(
            names.optimiser,
            format!("no optimiser `{name}`, only AdamW; the learning rate may have to be another"),
        );
    }
    Ok(())
}

/// When evaluations are. `strategy_default` is that of the tool; true if there are any.
pub(crate) fn evaluation(
    job: &mut Job<'_>,
    strategy_default: &str,
    logging_default: u64,
    is_grpo: bool,
) -> Result<bool> {
    let keys = ["eval_strategy", "evaluation_strategy"];
    let mut strategy = None;
    for key in keys {
        let given = match job.peek(key).map(|node| &node.value) {
            // `no` without quotes is a boolean.
            Some(Value::Bool(false)) => job.flag(key)?.map(|_| "no".to_owned()),
            _ => job.text(key)?,
        };
        if let Some(given) = given {
            let own = match given.as_str() {
                "no" => "no `[[eval_data]]`",
                "steps" => "`eval_steps`",
                _ => "the default: the end of each epoch",
            };
            job.note_translated(key, own);
            strategy = Some(given);
        }
    }
    match strategy.as_deref().unwrap_or(strategy_default) {
        "no" => {
            if job.take("eval_steps").is_some() {
                job.not_needed("eval_steps", "there are no evaluations");
            }
            Ok(false)
        }
        "epoch" => {
            if job.take("eval_steps").is_some() {
                job.not_needed("eval_steps", "evaluations are at the end of each epoch");
            }
            if is_grpo && strategy.is_some() {
                job.missing(
                    keys[0],
                    "GRPO evaluates every `eval_steps` steps or at the end, not after epochs",
                );
            }
            Ok(true)
        }
        "steps" => {
            interval(job, "eval_steps", Some(("logging_steps", logging_default)))?;
            Ok(true)
        }
        other => {
            let node = job.peek(keys[0]).or_else(|| job.peek(keys[1])).cloned();
            let node = node.unwrap_or(Node {
                place: crate::Place { line: 1, column: 1 },
                value: Value::Text(other.to_owned()),
            });
            Err(job.misfit(keys[0], &node, "`no`, `steps` or `epoch`"))
        }
    }
}

/// When checkpoints are saved.
pub(crate) fn saving(job: &mut Job<'_>, default_steps: Option<u64>, is_grpo: bool) -> Result<()> {
    let given = match job.peek("save_strategy").map(|node| &node.value) {
        Some(Value::Bool(false)) => job.flag("save_strategy")?.map(|_| "no".to_owned()),
        _ => job.text("save_strategy")?,
    };
    let by_steps = job.has("save_steps") || default_steps.is_some();
    match given.as_deref().unwrap_or(if by_steps { "steps" } else { "epoch" }) {
        "steps" => {
            if given.is_some() {
                job.note_translated("save_strategy", "`save_steps`");
            }
            interval(job, "save_steps", default_steps.map(|steps| ("save_steps", steps)))?;
        }
        strategy => {
            if job.take("save_steps").is_some() {
                job.not_needed("save_steps", "`save_strategy` says otherwise");
            }
            match strategy {
                "epoch" if is_grpo && given.is_some() => job.missing(
                    "save_strategy",
                    "GRPO saves a checkpoint every `save_steps` steps (20 if not set)",
                ),
                "epoch" if given.is_some() && !is_grpo => {
                    job.note_translated("save_strategy", "the default: the end of each epoch")
                }
                "epoch" => {}
                "best" => job.changed(
                    "save_strategy",
                    "checkpoints at the end of each epoch; `keep_best = true` keeps the best one",
                ),
                _ => job.changed(
                    "save_strategy",
                    "checkpoints are saved at the end of each epoch, so that a run can be continued",
                ),
            }
            if strategy == "best" {
                job.set("keep_best", "true".to_owned(), "save_strategy best");
            }
        }
    }
    Ok(())
}

/// A number of steps between two things. `default` is the value if the file has none, and the key it comes from.
fn interval(job: &mut Job<'_>, key: &'static str, default: Option<(&str, u64)>) -> Result<()> {
    match job.number(key)? {
        Some(steps) if steps >= 1.0 => job.translated(key, key, whole(steps).to_string()),
        Some(steps) if steps > 0.0 => {
            job.missing(
                key,
                format!(
                    "{steps} of the run's steps, whose number is not in the file; `{key}` is a number of \
                     steps"
                ),
            );
        }
        Some(_) => {}
        None => {
            let Some((from, mut steps)) = default else { return Ok(()) };
            if from != key
                && let Some(given) = job.peek(from).and_then(as_number).filter(|&given| given >= 1.0)
            {
                steps = whole(given);
            }
            job.default(key, steps.to_string());
        }
    }
    Ok(())
}

/// A number of steps; one that no run reaches is as good as the most that TOML can write.
fn whole(steps: f64) -> u64 {
    steps.ceil().clamp(0.0, 1e15) as u64
}

/// How often metrics are written, in training on fixed data.
pub(crate) fn logging(job: &mut Job<'_>) -> Result<()> {
    match job.number("logging_steps")? {
        Some(steps) if steps >= 1.0 => {
            job.translated("logging_steps", "logging_steps", whole(steps).to_string())
        }
        Some(_) => {
            job.not_needed("logging_steps", "a fraction of the run there; metrics are written at each step")
        }
        None => {}
    }
    Ok(())
}

/// The layers with adapters.
pub(crate) enum Targets {
    All,
    Names(Vec<String>),
}

const LINEAR: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Sets the layers with adapters. `from` is the key that names them.
pub(crate) fn targets(job: &mut Job<'_>, from: &str, targets: Targets) {
    let is_given = job.has(from);
    let names = match targets {
        Targets::All => {
            if is_given {
                job.note_translated(from, "the default: all linear layers of a block");
            }
            return;
        }
        Targets::Names(names) => names,
    };
    // `model.layers.*.q_proj` and the like: the last part is the layer.
    let (known, unknown): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| LINEAR.contains(&name.as_str()));
    if !unknown.is_empty() {
        let unknown: Vec<&str> = unknown.iter().map(String::as_str).collect();
        job.missing(
            from,
            format!("adapters are on {} only, not on {}", LINEAR.join(", "), unknown.join(", ")),
        );
    }
    if known.is_empty() {
        return;
    }
    if is_given {
        job.translated(from, "lora.targets", strings(&known));
    } else {
        job.set(
            "lora.targets",
            strings(&known),
            format!("default of {} (PEFT), for Llama, Qwen and Mistral", job.tool),
        );
    }
}

/// The rank and the scale of adapters; of rank-stabilised ones the scale is `alpha / sqrt(rank)`.
pub(crate) fn rank_and_alpha(
    job: &mut Job<'_>,
    [rank_key, alpha_key, stabilised_key]: [&str; 3],
    rank_default: u64,
    alpha_default: impl Fn(u64) -> f64,
) -> Result<()> {
    let rank = match job.copy_count(rank_key, "lora.rank")? {
        Some(rank) => rank,
        None => {
            job.default("lora.rank", rank_default.to_string());
            rank_default
        }
    };
    let given = job.number(alpha_key)?;
    let alpha = given.unwrap_or_else(|| alpha_default(rank));
    if job.flag(stabilised_key)? == Some(true) {
        let own = alpha * (rank as f64).sqrt();
        job.set(
            "lora.alpha",
            number(own),
            format!("{alpha_key} {alpha} x the root of {rank_key} {rank} ({stabilised_key})"),
        );
        job.changed(
            stabilised_key,
            format!(
                "`[lora] alpha = {}`: truing scales by alpha / rank, so that this is alpha / root of rank",
                number(own)
            ),
        );
        if given.is_some() {
            job.changed(alpha_key, "see rank-stabilised LoRA");
        }
    } else if given.is_some() {
        job.translated(alpha_key, "lora.alpha", number(alpha));
    } else {
        job.default("lora.alpha", number(alpha));
    }
    Ok(())
}

/// A part of the data that is held out: a fraction, not a number of rows.
pub(crate) fn held_out(job: &mut Job<'_>, key: &str) -> Result<bool> {
    match job.number(key)? {
        Some(size) if size > 0.0 && size < 1.0 => {
            job.translated(key, "eval_fraction", number(size));
            Ok(true)
        }
        Some(size) if size >= 1.0 => {
            job.missing(key, format!("{size} rows; `eval_fraction` is a fraction of the rows"));
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// The maximum length. A pair of responses counts as one sample, so it has room for both.
pub(crate) fn length(job: &mut Job<'_>, key: &str, default: u64, is_pair: bool) -> Result<()> {
    let given = job.count(key)?;
    let tokens = given.unwrap_or(default);
    let by_default = if given.is_none() { format!("default of {}: ", job.tool) } else { String::new() };
    if is_pair {
        let own = tokens.saturating_mul(2);
        job.set(
            "max_length",
            own.to_string(),
            format!("{by_default}2 x {key} {tokens}: both responses of a pair"),
        );
        job.changed(
            key,
            format!(
                "`max_length = {own}`: it counts the prompt and both responses of a pair, {key} one response with its \
                 prompt. Not more than the context of the model is allowed"
            ),
        );
    } else if given.is_some() {
        job.translated(key, "max_length", tokens.to_string());
    } else {
        job.default("max_length", tokens.to_string());
    }
    Ok(())
}

/// The names of losses that are the same everywhere. None for one that is not available.
pub(crate) fn loss(name: &str) -> Option<&'static str> {
    Some(match name {
        "sigmoid" => "sigmoid",
        "sigmoid_norm" => "sigmoid_norm",
        "robust" => "robust",
        "ipo" => "ipo",
        "hinge" => "hinge",
        "simpo" => "simpo",
        "orpo" => "orpo",
        "kto" => "kto",
        _ => return None,
    })
}
