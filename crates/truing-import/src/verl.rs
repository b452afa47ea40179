//! verl: the configuration of `verl.trainer.main_ppo`, with its tables flattened to dotted keys.

use crate::data::{self, Named};
use crate::error::ImportError;
use crate::job::{Job, as_flag, as_number, as_text};
use crate::recipe::{Line, number, string};
use crate::stages;
use crate::training::{self, Targets};
use crate::yaml::Value;

type Result<T> = std::result::Result<T, ImportError>;

const ACTOR: &str = "actor_rollout_ref.actor";
const ROLLOUT: &str = "actor_rollout_ref.rollout";
const MODEL: &str = "actor_rollout_ref.model";

pub(crate) fn import(job: &mut Job<'_>) -> Result<&'static str> {
    let estimator = job.text("algorithm.adv_estimator")?;
    let algorithm = match estimator.as_deref() {
        Some("grpo" | "grpo_vectorized") => "grpo",
        Some("rloo" | "rloo_vectorized") => "rloo",
        Some("reinforce_plus_plus_baseline") => "reinforce_plus_plus",
        None | Some("gae") => {
            return Err(job.refused(
                "algorithm.adv_estimator",
                "PPO with a critic (`adv_estimator: gae`, the default) is not available, expected grpo, rloo or \
                 reinforce_plus_plus_baseline",
            ));
        }
        Some(other) => {
            let reason = format!(
                "the advantage estimator `{other}` is not available, expected grpo, rloo or \
                 reinforce_plus_plus_baseline"
            );
            return Err(job.refused("algorithm.adv_estimator", reason));
        }
    };
    stages::begin(job, "grpo");
    job.translated("algorithm.adv_estimator", "algorithm", string(algorithm));
    model(job)?;
    let updates = step(job)?;
    sampling(job)?;
    kl(job)?;
    clipping(job)?;
    loss(job, algorithm)?;
    optimiser(job, updates)?;
    trainer(job)?;
    rewards(job)?;
    files(job, "data.train_files", "data.train_max_samples", "data")?;
    files(job, "data.val_files", "data.val_max_samples", "eval_data")?;
    skip_what_is_off(job);
    if !job.recipe.has_list("data") {
        return Err(ImportError::NoData { path: job.path.to_path_buf(), key: "data.train_files" });
    }
    Ok("grpo")
}

/// A configuration that verl has written itself has all keys. Those of what is off need nothing.
fn skip_what_is_off(job: &mut Job<'_>) {
    job.skip("a run is continued with `--resume` on the command line", |key| {
        key.starts_with("trainer.resume_")
    });
    job.skip("it names a class of verl", |key| key == "_target_" || key.ends_with("._target_"));
    let switches = [".enable", ".enabled"];
    let off: Vec<String> = job
        .keys()
        .filter(|key| job.peek(key).and_then(as_flag) == Some(false))
        .filter_map(|key| switches.iter().find_map(|switch| Some(format!("{}.", key.strip_suffix(switch)?))))
        .collect();
    job.skip("off in the file", |key| off.iter().any(|table| key.starts_with(table.as_str())));
    let is = |key: &str, value: &str| job.peek(key).and_then(as_text).is_none_or(|text| text == value);
    let conditions = [
        (is(&format!("{ACTOR}.policy_loss.loss_mode"), "vanilla"), format!("{ACTOR}.policy_loss.")),
        (is(&format!("{ACTOR}.policy_loss.loss_mode"), "vanilla"), format!("{ACTOR}.tau_")),
        (is(&format!("{ACTOR}.optim.lr_scheduler_type"), "constant"), format!("{ACTOR}.optim.num_cycles")),
        (
            is(&format!("{ROLLOUT}.agent.default_agent_loop"), "single_turn_agent"),
            format!("{ROLLOUT}.agent."),
        ),
        (is("algorithm.kl_ctrl.type", "fixed"), "algorithm.kl_ctrl.".to_owned()),
        (is("algorithm.use_pf_ppo", "false"), "algorithm.pf_ppo.".to_owned()),
        (!job.has("reward.sandbox_fusion.url"), "reward.sandbox_fusion.".to_owned()),
        (!job.has("sandbox_fusion.url"), "sandbox_fusion.".to_owned()),
        (!job.recipe.has("lora.rank"), format!("{MODEL}.lora.")),
        (is("algorithm.rollout_correction.rollout_is", "none"), "algorithm.rollout_correction.".to_owned()),
        (is("reward.reward_manager.source", "register"), "reward.reward_manager.module.".to_owned()),
        (is("reward.reward_manager.source", "register"), "reward.reward_manager.source".to_owned()),
        (is("data.reward_fn_key", "data_source"), "data.reward_fn_key".to_owned()),
    ];
    for (is_off, beginning) in conditions {
        if is_off {
            job.skip("not used by what the file does", |key| key.starts_with(&beginning));
        }
    }
}

fn model(job: &mut Job<'_>) -> Result<()> {
    let key = format!("{MODEL}.path");
    if let Some(name) = job.text(&key)? {
        let model = job.model(&name, None);
        job.translated(&key, "model_name_or_path", string(&model));
    }
    // The rank of 0 means no adapters.
    let own = |name: &str| [format!("{MODEL}.lora_{name}"), format!("{MODEL}.lora.{name}")];
    let rank_key =
        own("rank").into_iter().find(|key| job.peek(key).and_then(as_number).is_some_and(|rank| rank > 0.0));
    let alpha_key = own("alpha").into_iter().find(|key| job.has(key));
    if let Some(rank_key) = rank_key {
        job.copy_count(&rank_key, "lora.rank")?;
        match alpha_key {
            Some(key) => {
                job.copy_number(&key, "lora.alpha")?;
            }
            None => job.default("lora.alpha", number(16.0)),
        }
        let key = format!("{MODEL}.target_modules");
        match job.texts(&key)? {
            Some(names) if names != ["all-linear"] => training::targets(job, &key, Targets::Names(names)),
            _ => training::targets(job, &key, Targets::All),
        }
    }
    for key in own("rank").into_iter().chain(own("alpha")).chain([format!("{MODEL}.target_modules")]) {
        if !job.recipe.has("lora.rank") && job.take(&key).is_some() {
            job.not_needed(&key, "there are no adapters");
        }
    }
    Ok(())
}

/// Prompts and updates of a step; the number of updates.
fn step(job: &mut Job<'_>) -> Result<u64> {
    let prompts = match job.copy_count("data.train_batch_size", "prompts_per_step")? {
        Some(prompts) => prompts,
        None => {
            job.default("prompts_per_step", "1024".to_owned());
            1024
        }
    };
    let key = format!("{ROLLOUT}.n");
    let generations = job.copy_count(&key, "num_generations")?;
    if generations.is_none_or(|n| n == 1) {
        return Err(
            job.refused(&key, "a group of one completion has no advantage: expected `n` of at least 2")
        );
    }
    let key = format!("{ACTOR}.ppo_mini_batch_size");
    let mini = job.count(&key)?.unwrap_or(256).min(prompts);
    let minibatches = (prompts / mini.max(1)).max(1);
    job.set(
        "minibatches",
        minibatches.to_string(),
        format!("train_batch_size {prompts} / ppo_mini_batch_size {mini}"),
    );
    if job.has(&key) {
        job.note_translated(&key, "`minibatches`");
    }
    let iterations = job.copy_count(&format!("{ACTOR}.ppo_epochs"), "num_iterations")?.unwrap_or(1);
    for (from, own) in [
        ("data.max_prompt_length", "max_prompt_length"),
        ("data.max_response_length", "max_completion_length"),
    ] {
        if job.copy_count(from, own)?.is_none() {
            job.default(own, "512".to_owned());
        }
    }
    if let Some(truncation) = job.text("data.truncation")? {
        match truncation.as_str() {
            "error" => job.changed(
                "data.truncation",
                "prompts longer than `max_prompt_length` are dropped and counted, which is not an error",
            ),
            _ => job.changed(
                "data.truncation",
                "prompts longer than `max_prompt_length` are dropped and counted, not cut",
            ),
        }
    }
    if job.take("data.filter_overlong_prompts").is_some() {
        job.not_needed("data.filter_overlong_prompts", "longer prompts are always dropped");
    }
    let key = format!("{ACTOR}.ppo_max_token_len_per_gpu");
    let is_dynamic = job.flag(&format!("{ACTOR}.use_dynamic_bsz"))?;
    if is_dynamic == Some(true) {
        job.copy_count(&key, "max_tokens_per_pack")?;
        job.note_translated(&format!("{ACTOR}.use_dynamic_bsz"), "`max_tokens_per_pack`");
    } else {
        if is_dynamic.is_some() {
            job.not_needed(&format!("{ACTOR}.use_dynamic_bsz"), "packs are always filled by tokens");
        }
        if job.take(&key).is_some() {
            job.not_needed(&key, "`use_dynamic_bsz` is off");
        }
    }
    Ok(minibatches.saturating_mul(iterations))
}

fn sampling(job: &mut Job<'_>) -> Result<()> {
    let key = format!("{ROLLOUT}.top_k");
    if let Some(top_k) = job.integer(&key)? {
        job.translated(&key, "top_k", top_k.max(0).to_string());
    }
    let key = format!("{ROLLOUT}.do_sample");
    match job.flag(&key)? {
        Some(true) => job.not_needed(&key, "a `temperature` above 0 samples"),
        Some(false) => job
            .missing(&key, "a policy has to sample; evaluations are greedy unless `eval_temperature` is set"),
        None => {}
    }
    let [temperature, samples] =
        ["temperature", "do_sample"].map(|name| format!("{ROLLOUT}.val_kwargs.{name}"));
    let is_sampled = job.flag(&samples)? == Some(true);
    let value = job.number(&temperature)?;
    if is_sampled && let Some(value) = value {
        job.translated(&temperature, "eval_temperature", number(value));
        job.note_translated(&samples, "`eval_temperature`");
    } else {
        for key in [&temperature, &samples] {
            if job.has(key) {
                job.not_needed(key, "evaluations are greedy");
            }
        }
    }
    Ok(())
}

fn kl(job: &mut Job<'_>) -> Result<()> {
    let [in_loss, in_reward] = [format!("{ACTOR}.use_kl_loss"), "algorithm.use_kl_in_reward".to_owned()];
    let is_in_loss = job.flag(&in_loss)? == Some(true);
    let is_in_reward = job.flag(&in_reward)? == Some(true);
    let of_loss = [format!("{ACTOR}.kl_loss_coef"), format!("{ACTOR}.kl_loss_type")];
    let of_reward = ["algorithm.kl_ctrl.kl_coef".to_owned(), "algorithm.kl_penalty".to_owned()];
    let (switch, placement, [coefficient, estimator]) = if is_in_loss {
        (&in_loss, "loss", of_loss.clone())
    } else {
        (&in_reward, "reward", of_reward.clone())
    };
    if !is_in_loss && !is_in_reward {
        job.set("kl", string("none"), "neither use_kl_loss nor use_kl_in_reward");
        job.set("beta", number(0.0), "");
        for key in [&in_loss, &in_reward] {
            if job.has(key) {
                job.note_translated(key, "`kl = \"none\"`");
            }
        }
        for key in of_loss.iter().chain(&of_reward) {
            if job.take(key).is_some() {
                job.not_needed(key, "there is no KL");
            }
        }
        return Ok(());
    }
    if is_in_loss && is_in_reward {
        job.missing(&in_reward, "the KL is in the loss or in the reward, not in both");
    }
    job.note_translated(switch, &format!("`kl_placement = \"{placement}\"`"));
    if job.copy_number(&coefficient, "beta")?.is_none() {
        job.default("beta", number(0.001));
    }
    job.set("kl_placement", string(placement), switch.clone());
    job.set("kl", string("k3"), estimator.clone());
    match job.text(&estimator)?.as_deref() {
        Some("low_var_kl" | "k3") => job.note_translated(&estimator, "`kl = \"k3\"`"),
        None if is_in_loss => {}
        Some(other) => {
            job.changed(&estimator, format!("`kl = \"k3\"`: truing has k3 and the exact KL, not `{other}`"))
        }
        None => job.changed(&estimator, "`kl = \"k3\"`: truing has k3 and the exact KL, not `kl` (k1)"),
    }
    let rest = if is_in_loss { of_reward } else { of_loss };
    for key in rest.iter().chain([&in_loss, &in_reward]) {
        if key != switch && job.take(key).is_some() {
            job.not_needed(key, "the KL is elsewhere");
        }
    }
    Ok(())
}

fn clipping(job: &mut Job<'_>) -> Result<()> {
    let [both, low, high] =
        ["clip_ratio", "clip_ratio_low", "clip_ratio_high"].map(|name| format!("{ACTOR}.{name}"));
    let base = job.number(&both)?;
    for (key, own) in [(&low, "epsilon"), (&high, "epsilon_high")] {
        match (job.number(key)?, base) {
            (Some(value), _) => job.translated(key, own, number(value)),
            (None, Some(value)) => job.translated(&both, own, number(value)),
            (None, None) => job.default(own, number(0.2)),
        }
    }
    if job.has(&low) && job.has(&high) && base.is_some() {
        job.not_needed(&both, "`clip_ratio_low` and `clip_ratio_high` replace it");
    }
    if !job.has(&format!("{ACTOR}.clip_ratio_c")) {
        job.missing(
            &format!("{ACTOR}.clip_ratio_c"),
            "3.0 there: there is no second clipping of negative advantages (dual-clip)",
        );
    }
    Ok(())
}

fn loss(job: &mut Job<'_>, algorithm: &str) -> Result<()> {
    let key = format!("{ACTOR}.loss_agg_mode");
    let mode = job.text(&key)?;
    match mode.as_deref() {
        None => job.default("loss_type", string("dapo")),
        Some("token-mean") => job.translated(&key, "loss_type", string("dapo")),
        Some("seq-mean-token-mean") => job.translated(&key, "loss_type", string("grpo")),
        Some(mode @ ("seq-mean-token-sum-norm" | "seq-mean-token-sum")) => {
            job.translated(&key, "loss_type", string("dr_grpo"));
            if mode == "seq-mean-token-sum" {
                job.changed(
                    &key,
                    "`loss_type = \"dr_grpo\"` divides by `max_completion_length`: the learning rate means \
                     something else",
                );
            }
        }
        Some(other) => return Err(job.refused(&key, format!("the mean `{other}` is not available"))),
    }
    let key = "algorithm.norm_adv_by_std_in_grpo";
    if algorithm == "grpo" {
        match job.flag(key)? {
            None => job.default("scale_rewards", string("sample_deviation")),
            Some(is_scaled) => job.translated(
                key,
                "scale_rewards",
                string(if is_scaled { "sample_deviation" } else { "none" }),
            ),
        }
    } else if job.take(key).is_some() {
        job.not_needed(key, "it is for `grpo` only");
    }
    let key = "algorithm.filter_groups.max_num_gen_batches";
    if let Some(rounds) = job.integer(key)? {
        let is_on = job.peek("algorithm.filter_groups.enable").and_then(as_flag) == Some(true);
        if is_on && rounds > 0 {
            job.translated(key, "max_resample_rounds", rounds.to_string());
        } else if is_on {
            job.changed(key, "no limit there; `max_resample_rounds` is 4 unless it is set");
        } else {
            job.not_needed(key, "`filter_groups` is off");
        }
    }
    let key = format!("{ACTOR}.policy_loss.loss_mode");
    match job.text(&key)?.as_deref() {
        None => {}
        Some("vanilla") => job.not_needed(&key, "the clipped ratio is the loss"),
        Some("gspo") => job.translated(&key, "importance_sampling_level", string("sequence")),
        Some(other) => {
            job.missing(&key, format!("no policy loss `{other}`; the recipe has the clipped ratio"))
        }
    }
    Ok(())
}

fn optimiser(job: &mut Job<'_>, updates: u64) -> Result<()> {
    let key = |name: &str| format!("{ACTOR}.optim.{name}");
    if job.copy_number(&key("lr"), "learning_rate")?.is_none() {
        job.default("learning_rate", number(1e-6));
    }
    if job.copy_number(&key("weight_decay"), "weight_decay")?.is_none() {
        job.default("weight_decay", number(0.01));
    }
    let scheduler = job.text(&key("lr_scheduler_type"))?;
    let older = job.text(&key("warmup_style"))?;
    let from = if scheduler.is_some() { key("lr_scheduler_type") } else { key("warmup_style") };
    match scheduler.or(older).as_deref() {
        None => job.default("lr_scheduler_type", string("constant")),
        Some(own @ ("constant" | "cosine" | "linear")) => {
            job.translated(&from, "lr_scheduler_type", string(own))
        }
        Some(other) => job.missing(&from, format!("no schedule `{other}`; the recipe has `constant`")),
    }
    let steps = job.integer(&key("lr_warmup_steps"))?;
    let ratio = job.number(&key("lr_warmup_steps_ratio"))?;
    if let Some(steps) = steps.and_then(|steps| u64::try_from(steps).ok()).filter(|&steps| steps > 0) {
        job.translated(&key("lr_warmup_steps"), "warmup_steps", steps.div_ceil(updates).to_string());
        if ratio.is_some() {
            job.not_needed(&key("lr_warmup_steps_ratio"), "`lr_warmup_steps` replaces it");
        }
    } else {
        if steps.is_some() {
            job.not_needed(&key("lr_warmup_steps"), "off in the file");
        }
        match ratio {
            Some(ratio) => job.translated(&key("lr_warmup_steps_ratio"), "warmup_ratio", number(ratio)),
            None => job.default("warmup_ratio", number(0.0)),
        }
    }
    if let Some(node) = job.take(&key("betas")) {
        let Value::List(items) = &node.value else {
            return Err(job.misfit(&key("betas"), node, "a list of two numbers"));
        };
        let [Some(first), Some(second)] = [items.first(), items.get(1)].map(|item| item.and_then(as_number))
        else {
            return Err(job.misfit(&key("betas"), node, "a list of two numbers"));
        };
        job.set("adam_beta1", number(first), key("betas"));
        job.set("adam_beta2", number(second), key("betas"));
        job.note_translated(&key("betas"), "`adam_beta1` and `adam_beta2`");
    }
    for from in [key("clip_grad"), format!("{ACTOR}.grad_clip")] {
        if !job.recipe.has("max_grad_norm") {
            job.copy_number(&from, "max_grad_norm")?;
        } else if job.take(&from).is_some() {
            job.not_needed(&from, "`optim.clip_grad` is read");
        }
    }
    if let Some(name) = job.text(&key("optimizer"))? {
        if name == "AdamW" {
            job.not_needed(&key("optimizer"), "the optimiser is AdamW");
        } else {
            job.missing(&key("optimizer"), format!("no optimiser `{name}`, only AdamW"));
        }
    }
    if job.take(&key("optimizer_impl")).is_some() {
        job.not_needed(&key("optimizer_impl"), "the optimiser is truing's own");
    }
    Ok(())
}

fn trainer(job: &mut Job<'_>) -> Result<()> {
    let names = ["project_name", "experiment_name"]
        .map(|name| job.peek(&format!("trainer.{name}")).and_then(as_text));
    match job.text("trainer.default_local_dir")? {
        Some(folder) => {
            let path = job.output_path(&folder);
            job.translated("trainer.default_local_dir", "output_dir", string(&path));
        }
        None => {
            let [project, experiment] = names;
            let folder = format!(
                "checkpoints/{}/{}",
                project.as_deref().unwrap_or("verl_examples"),
                experiment.as_deref().unwrap_or("gsm8k")
            );
            let path = job.output_path(&folder);
            job.default("output_dir", string(&path));
        }
    }
    match job.integer("trainer.total_training_steps")? {
        Some(steps) if steps > 0 => {
            job.translated("trainer.total_training_steps", "max_steps", steps.to_string());
            if job.take("trainer.total_epochs").is_some() {
                job.not_needed("trainer.total_epochs", "`total_training_steps` replaces it");
            }
        }
        _ => {
            if job.copy_number("trainer.total_epochs", "num_train_epochs")?.is_none() {
                job.default("num_train_epochs", number(30.0));
            }
        }
    }
    for (from, own) in [("trainer.test_freq", "eval_steps"), ("trainer.save_freq", "save_steps")] {
        match job.integer(from)? {
            Some(steps) if steps > 0 => job.translated(from, own, steps.to_string()),
            Some(_) => job.changed(
                from,
                format!("truing evaluates at the end, and saves every 20 steps unless `{own}` is set"),
            ),
            None => {}
        }
    }
    if let Some(n) = job.integer("trainer.max_actor_ckpt_to_keep")?.filter(|&n| n > 0) {
        job.translated("trainer.max_actor_ckpt_to_keep", "save_total_limit", n.to_string());
    }
    if !job.has("trainer.val_before_train") {
        job.default("eval_on_start", "true".to_owned());
    }
    Ok(())
}

fn rewards(job: &mut Job<'_>) -> Result<()> {
    let mut has_custom = false;
    for key in ["reward.custom_reward_function.path", "custom_reward_function.path"] {
        if let Some(path) = job.text(key)? {
            job.missing(
                key,
                format!(
                    "the function in `{path}`: there are no rewards in Python; see the kinds of \
                     `[[reward]]`, or ask a `[judge]`"
                ),
            );
            has_custom = true;
        }
    }
    let has_manager = job.take("reward.reward_manager.name").is_some();
    for key in ["reward.custom_reward_function.name", "custom_reward_function.name"] {
        if job.take(key).is_some() {
            job.not_needed(key, "there are no rewards in Python");
        }
    }
    let mut has_model = false;
    for (switch, path) in [
        ("reward.reward_model.enable", "reward.reward_model.model_path"),
        ("reward_model.enable", "reward_model.model.path"),
    ] {
        let is_on = job.peek(switch).and_then(as_flag) == Some(true);
        if job.take(switch).is_some() {
            if is_on {
                job.note_translated(switch, "the table `[reward_model]`");
            } else {
                job.not_needed(switch, "off in the file");
            }
        }
        let Some(name) = job.text(path)? else { continue };
        if is_on {
            let model = job.model(&name, None);
            job.translated(path, "reward_model.model_name_or_path", string(&model));
            has_model = true;
        } else {
            job.not_needed(path, "the reward model is off");
        }
    }
    if has_model || has_custom {
        if has_manager {
            job.changed(
                "reward.reward_manager.name",
                "rewards are the tables `[[reward]]`, `[reward_model]` and `[judge]`",
            );
        }
        return Ok(());
    }
    let kind = "{ math_answer = { column = \"answer\" } }";
    job.recipe.push("reward", vec![Line::new("kind", kind.to_owned(), "verl chooses by `data_source`")]);
    job.changed(
        "reward.reward_manager.name",
        "verl chooses the reward of a row by its `data_source` and compares with \
         `reward_model.ground_truth`; the recipe has `math_answer`, which reads the column `answer`: copy \
         the reference answers to it, or choose another kind",
    );
    Ok(())
}

fn files(job: &mut Job<'_>, key: &'static str, limit: &str, list: &'static str) -> Result<()> {
    let limit = match job.integer(limit)? {
        Some(n) if n > 0 => Some(n as u64),
        _ => None,
    };
    let Some(files) = job.texts(key)? else { return Ok(()) };
    let column = job.peek("data.prompt_key").and_then(as_text).unwrap_or_else(|| "prompt".to_owned());
    let mut sets = Vec::new();
    for file in &files {
        let place = job.place(key);
        let named = Named { name: file, split: None, revision: None, subset: None, key, place };
        let mut set = data::locate(job, &named);
        set.comment = String::new();
        set.max_samples = limit;
        set.column("prompt", &column);
        sets.push(set);
    }
    job.note_translated(key, &format!("tables `[[{list}]]`"));
    if list == "data" && job.take("data.prompt_key").is_some() {
        job.note_translated("data.prompt_key", "`[[data]] columns`");
    }
    data::push(job, list, &sets);
    Ok(())
}
