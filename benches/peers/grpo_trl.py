#!/usr/bin/env python3
"""GRPO with TRL on the CPU: groups of completions of arithmetic questions, the last number against the answer.

Prints one line of JSON: for every step its seconds, those of them spent generating, and the tokens drawn.
"""
import argparse
import json
import os
import re
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402


class StepClock(TrainerCallback):
    def __init__(self):
        self.begins, self.ends = [], []

    def on_step_begin(self, *args, **kwargs):
        self.begins.append(time.time())

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.time())


def last_number_is_right(completions, answer, **_):
    """1 for the right number; a little for any number, so that groups differ."""
    rewards = []
    for completion, right in zip(completions, answer):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", completion[0]["content"].replace(",", ""))
        rewards.append(float(bool(numbers) and numbers[-1] == right) + 0.02 * min(len(numbers), 5))
    return rewards


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--beta", type=float, default=0.0, help="above 0 a reference model is loaded")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    with open(options.data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    prompts = [{"prompt": [{"role": "user", "content": r["prompt"]}], "answer": r["answer"]} for r in rows]
    clock, generating, drawn = StepClock(), [], []
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=options.prompts * options.group,
            num_generations=options.group, max_completion_length=options.new, max_steps=options.steps, beta=options.beta,
            learning_rate=1e-6, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, temperature=1.0,
            gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
            disable_tqdm=True, seed=0)
        trainer = GRPOTrainer(model=model, args=config, processing_class=tokenizer, callbacks=[clock],
                              train_dataset=Dataset.from_list(prompts), reward_funcs=last_number_is_right)
        generate, score = trainer._generate, trainer._generate_and_score_completions

        def timed_generate(*args, **kwargs):
            begin = time.time()
            result = generate(*args, **kwargs)
            generating.append(time.time() - begin)
            return result

        def counted_score(inputs):
            result = score(inputs)
            drawn.append(int(result["completion_mask"].sum()))
            return result

        trainer._generate, trainer._generate_and_score_completions = timed_generate, counted_score
        trainer.train()
    print(json.dumps({"steps": [
        {"seconds": end - begin, "generating": spent, "tokens": tokens}
        for begin, end, spent, tokens in zip(clock.begins, clock.ends, generating, drawn)]}))


main()
