#!/usr/bin/env python3
"""A reward model with TRL on the CPU: Bradley-Terry on padded batches of pairs, float32, no gradient checkpointing.

Prints one line of JSON: for every step its seconds, its pairs and its loss.
"""
import argparse
import json
import os
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import RewardConfig, RewardTrainer  # noqa: E402


class StepClock(TrainerCallback):
    def __init__(self):
        self.begins, self.ends = [], []

    def on_step_begin(self, *args, **kwargs):
        self.begins.append(time.time())

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.time())


def chat(row, side):
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs-a-step", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    with open(options.data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            output_dir=folder, per_device_train_batch_size=options.pairs_a_step, max_steps=options.steps,
            learning_rate=1e-5, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_length=1024,
            gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
            disable_tqdm=True, seed=0)
        trainer = RewardTrainer(
            model=model, args=config, processing_class=tokenizer, callbacks=[clock],
            train_dataset=Dataset.from_list([{"chosen": chat(r, "chosen"), "rejected": chat(r, "rejected")} for r in rows]))
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    print(json.dumps({"steps": [
        {"seconds": end - begin, "pairs": options.pairs_a_step, "loss": round(loss, 4)}
        for begin, end, loss in zip(clock.begins, clock.ends, losses)]}))


main()
