#!/usr/bin/env python3
"""Supervised fine-tuning with TRL on the CPU: what a user of the Python libraries runs today.

Prints one line of JSON: for every step its seconds, its real tokens (no padding) and its loss.
The loss is on the completion only; full fine-tuning in float32; no gradient checkpointing unless asked for.
"""
import argparse
import json
import os
import tempfile
import time

PROCESS_STARTED = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME)
                                 - int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402


class StepClock(TrainerCallback):
    def __init__(self):
        self.begins, self.ends = [], []

    def on_step_begin(self, *args, **kwargs):
        self.begins.append(time.time())

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.time())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pack", type=int, metavar="TOKENS", help="pack to this many tokens, best fit decreasing; else pad")
    parser.add_argument("--batch", type=int, default=1, help="packs, or padded conversations, a step")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    with open(options.data, encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line)["messages"] for line in file]
    dataset = Dataset.from_list([{"prompt": messages[:-1], "completion": messages[-1:]} for messages in rows])
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation="sdpa")
    clock = StepClock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=dataset,
            callbacks=[clock],
            args=SFTConfig(
                output_dir=scratch, max_length=options.pack or 1024, packing=options.pack is not None,
                packing_strategy="bfd", per_device_train_batch_size=options.batch, max_steps=options.steps,
                learning_rate=options.learning_rate, lr_scheduler_type="constant", warmup_steps=0,
                gradient_checkpointing=options.checkpointing,
                gradient_checkpointing_kwargs={"use_reentrant": False} if options.checkpointing else None,
                logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False, fp16=False,
                disable_tqdm=True, seed=0))
        collate, batches = trainer.data_collator, []

        def count_and_collate(rows):
            batch = collate(rows)
            mask = batch.get("attention_mask")
            batches.append({"slots": batch["input_ids"].numel(),
                            "tokens": batch["input_ids"].numel() if mask is None else int(mask.sum()),
                            "loss_tokens": int((batch["labels"] != -100).sum())})
            return batch

        trainer.data_collator = count_and_collate
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # The loader reads one batch ahead: as many as there were steps are counted.
    steps = [{"seconds": round(end - begin, 3), "loss": round(loss, 4), **batch}
             for begin, end, loss, batch in zip(clock.begins, clock.ends, losses, batches)]
    print(json.dumps({"steps": steps, "start_to_first_step_seconds": round(clock.begins[0] - PROCESS_STARTED, 2),
                      "start_to_end_of_first_step_seconds": round(clock.ends[0] - PROCESS_STARTED, 2)}), flush=True)


main()
