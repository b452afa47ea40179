#!/usr/bin/env python3
"""sentence-transformers on the CPU: texts to vectors, or fine-tuning on triplets; float32.

Prints one line of JSON: seconds and tokens of the texts, or seconds and loss of every step.
"""
import argparse
import json
import os
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402


def rows_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def embed(options, model):
    texts = [row["text"] for row in rows_of(options.data)]
    model.encode(texts[:64], batch_size=options.batch)
    started = time.time()
    vectors = model.encode(texts, batch_size=options.batch, show_progress_bar=False)
    seconds = time.time() - started
    if options.output:
        numpy.save(options.output, vectors)
    print(json.dumps({"seconds": seconds, "n_texts": len(texts)}))


def train(options, model):
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):
        def __init__(self):
            self.begins, self.ends = [], []

        def on_step_begin(self, *args, **kwargs):
            self.begins.append(time.time())

        def on_step_end(self, *args, **kwargs):
            self.ends.append(time.time())

    rows = [{key: row[key] for key in ("anchor", "positive", "negative")} for row in rows_of(options.data)]
    clock = StepClock()
    loss = losses.TripletLoss(model, distance_metric=losses.TripletDistanceMetric.COSINE,
                              triplet_margin=options.margin)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder, max_steps=options.steps, per_device_train_batch_size=options.batch, learning_rate=2e-5,
            lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, seed=0,
            disable_tqdm=True)
        trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), loss=loss,
                                             callbacks=[clock])
        trainer.train()
    losses_logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"steps": [{"seconds": end - begin, "loss": value}
                                for begin, end, value in zip(clock.begins, clock.ends, losses_logged)]}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["embed", "train"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--margin", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = SentenceTransformer(options.model, device="cpu")
    {"embed": embed, "train": train}[options.what](options, model)


main()
