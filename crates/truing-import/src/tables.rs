//! The tables: every key of each tool with its answer. `docs/coming-from-other-tools.md` says the same in prose, and a
//! test compares them.
//!
//! Checked against TRL 1.16, transformers 5.24, axolotl 0.19, LLaMA-Factory 0.9.5 and verl 0.9.1, with keys of earlier
//! versions that files in use still have.

mod axolotl;
mod llama_factory;
mod transformers;
mod trl;
mod verl;

pub(crate) use axolotl::{AXOLOTL, AXOLOTL_DATA};
pub(crate) use llama_factory::{LLAMA_FACTORY, LLAMA_FACTORY_DATA};
pub(crate) use transformers::TRANSFORMERS;
pub(crate) use trl::{TRL, TRL_DATA};
pub(crate) use verl::VERL;

use crate::answer::{Answer, Copied, Group};

const fn key(names: &'static [&'static str], key: &'static str, copied: Copied) -> Group {
    Group { names, answer: Answer::Key(key, copied) }
}

const fn becomes(names: &'static [&'static str], clause: &'static str) -> Group {
    Group { names, answer: Answer::Becomes(clause) }
}

const fn instead(names: &'static [&'static str], clause: &'static str) -> Group {
    Group { names, answer: Answer::Instead(clause) }
}

const fn no_effect(names: &'static [&'static str], why: &'static str) -> Group {
    Group { names, answer: Answer::NoEffect(why) }
}

const fn not_available(names: &'static [&'static str], why: &'static str) -> Group {
    Group { names, answer: Answer::NotAvailable(why) }
}

// Clauses that several tools share.
const PACKS: &str = "a step is counted in packs: `packs_per_step` or `tokens_per_step`";
const NUMBERS: &str = "computation and the saved model are in float32; `compute_dtype = \"bf16\"` multiplies in \
                       bf16, and `save_dtype = \"bf16\"` saves the model in half the size, rounded";
const LOADING: &str = "rows are read and rendered once, before the first step";
const SPEED: &str = "it changes how the tool computes, not what";
const DEVICES: &str = "the setting `device` names the device, see docs/gpu.md; launchers start several \
                       processes, see docs/scale.md";
const SHARDING: &str = "it splits the work over devices; on several ranks `zero_stage` and \
                        `sequence_parallel_size` do, see docs/scale.md";
pub(crate) const LOGGING: &str =
    "metrics, TensorBoard events and a report are always written to `output_dir`";
const TRACKER: &str = "the option `--metrics-command` sends the metrics to an experiment tracker; docs/fine-tune.md \
                       has the script for Weights & Biases";
const HUB: &str = "nothing is uploaded; the folder `model` in `output_dir` has the layout of the hub, to be uploaded \
                   as it is";
const HUB_NAMES: &str = "models are found by name; the token is the environment variable `HF_TOKEN`";
const CHECKPOINTING: &str = "activation checkpointing is planned: `layers_per_segment` and `memory_gib` \
                             control it, and neither changes a result";
const QUANTISED: &str = "base weights are not quantised";
const OPTIMISER: &str = "the optimiser is AdamW";
const DROPOUT: &str = "LoRA has no dropout";
const NEFTUNE: &str = "there is no noise on embeddings (NEFTune)";
const DORA: &str = "LoRA has no variants such as DoRA, PiSSA, LoftQ or OFT";
const LORA_PLUS: &str = "all adapters have one learning rate";
const LORA_OTHER: &str = "adapters are on linear layers only, all of one rank";
const MEDIA: &str = "text only, no images, audio or video";
const CODE: &str = "models run in truing's own code; none is downloaded with them";
const EARLY_STOP: &str =
    "there is no early stopping; `keep_best` and `load_best_model_at_end` keep the best checkpoint";
const BEST: &str =
    "the best checkpoint is the one with the lowest evaluation loss (in GRPO the highest reward)";
const TOKENS: &str = "the tokenizer and its special tokens are those of the model";
const SAMPLE_ORDER: &str = "the order of samples is random, from `seed`";
const RESUME: &str = "a run is continued with `--resume` on the command line";
const EVAL_BATCH: &str = "evaluations are packed as training is";
const EVAL_WHEN: &str =
    "evaluations are every `eval_steps` steps, or at the end of each epoch if it is not set";
const SAVE_WHEN: &str =
    "checkpoints are every `save_steps` steps, or at the end of each epoch if it is not set";
const SCHEDULE: &str = "`lr_scheduler_type` is `constant`, `linear`, `cosine` or `wsd`";
const SCHEDULE_MORE: &str = "the minimum is `min_lr_ratio`, the end of `wsd` `decay_ratio`";
const MODEL_REVISION: &str = "the revision is part of the name: `model_name_or_path = \"org/name@revision\"`";
const LORA_USED: &str = "a table `[lora]` trains adapters";
const TARGETS: &str = "these are `[lora] targets` (all linear layers of a block if not set)";
const DATA: &str = "data are tables `[[data]]` with a `path`";
const EVAL_DATA: &str =
    "evaluation data are tables `[[eval_data]]` with a `path`, or `eval_fraction` of the training data";
const LOSS_TURNS: &str =
    "assistant turns carry loss, and turns set theirs in the data with `weight` or `loss`";
const REFERENCE: &str = "the reference is the model before training, and does not change";
const AUXILIARY: &str = "there are no mixture-of-experts models";
const LOSS_PREFERENCE: &str = "the loss is `[preference] loss`";
const GENERATION: &str = "it is a setting of generation after training; `truing generate` has its own";
const TOOLS_LOOP: &str = "rollouts are of one turn, without tools";
const REWARDS: &str = "rewards are tables `[[reward]]` with a `kind`, `[reward_model]` and `[judge]`; there \
                       is no custom Python";
const SAMPLER: &str = "the policy samples in the same process, or on the servers that `[rollouts]` names";
const ENTROPY: &str = "there is no entropy bonus";
const LOSS_MORE: &str = "the losses are `grpo`, `dapo` and `dr_grpo`, with a ratio per token or per sequence";
