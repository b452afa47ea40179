#!/usr/bin/env python3
"""`truing embed` and `truing embed train` against sentence-transformers, pair by pair: same model, same texts, alternating.

    python embedding.py --truing ../target/release/truing --model MINILM --data SHARED/data [--pairs 3] [--what embed,train]

MINILM is a sentence-transformers directory. Texts are prompts filled from templates, triplets two prompts of one template
and one of another (`templates/p3_filled_prompts.jsonl.gz` of SHARED). Speed of encoding leaves out starting and loading on
both sides; of training, the first two steps. Peak memory is the kernel's high-water mark of the whole process.
"""
import argparse
import collections
import gzip
import json
import pathlib
import random
import sys
import tempfile

import running

WARM_UP = 2


def make_data(options, folder):
    with gzip.open(options.data / "templates/p3_filled_prompts.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    draw = random.Random(0)
    draw.shuffle(rows)
    texts = [row["prompt"] for row in rows if len(row["prompt"]) < options.longest][: options.texts]
    with open(folder / "texts.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    by_template = collections.defaultdict(list)
    for row in rows:
        by_template[row["dataset"], row["template"]].append(row["prompt"])
    templates = [key for key, prompts in by_template.items() if len(prompts) > 1]
    with open(folder / "triplets.jsonl", "w", encoding="utf-8") as file:
        for _ in range(options.batch * options.steps):
            one, other = draw.sample(templates, 2)
            anchor, positive = draw.sample(by_template[one], 2)
            triplet = {"anchor": anchor, "positive": positive, "negative": draw.choice(by_template[other])}
            file.write(json.dumps(triplet) + "\n")


def embed_with_truing(options, folder):
    finished = running.run([options.truing, "embed", "--model", options.model, "--data", folder / "texts.jsonl",
                            "--output", folder / "truing.npy", "--json", "--threads", options.threads])
    result = json.loads(finished.stdout)
    return result["n_texts"] / result["seconds"], finished, f"{result['n_tokens'] / result['seconds']:.0f} tokens/s"


def embed_with_peer(options, folder):
    finished = running.run([sys.executable, running.HERE / "peers/embed_st.py", "embed", "--model", options.model, "--data",
                            folder / "texts.jsonl", "--output", folder / "peer.npy", "--threads", options.threads])
    result = running.json_lines(finished.stdout)[-1]
    return result["n_texts"] / result["seconds"], finished, ""


def train_with_truing(options, folder):
    with tempfile.TemporaryDirectory() as inner:
        inner = pathlib.Path(inner)
        (inner / "recipe.toml").write_text(f"""
stage = "embed"
model_name_or_path = "{options.model}"
output_dir = "{inner / 'run'}"
train_data = "{folder / 'triplets.jsonl'}"
triplet_margin = 1.0
max_steps = {options.steps}
batch_size = {options.batch}
lr_scheduler_type = "constant"
warmup_ratio = 0.0
""", encoding="utf-8")
        finished = running.run([options.truing, "embed", "train", inner / "recipe.toml", "--threads", options.threads])
        steps = running.json_lines((inner / "run/metrics.jsonl").read_text())
    seconds = sum(step["step_time"] for step in steps[WARM_UP:])
    speed = options.batch * len(steps[WARM_UP:]) / seconds
    return speed, finished, " ".join(f"{step['loss']:.3f}" for step in steps)


def train_with_peer(options, folder):
    finished = running.run([sys.executable, running.HERE / "peers/embed_st.py", "train", "--model", options.model, "--data",
                            folder / "triplets.jsonl", "--batch", options.batch, "--steps", options.steps,
                            "--threads", options.threads])
    steps = running.json_lines(finished.stdout)[-1]["steps"]
    seconds = sum(step["seconds"] for step in steps[WARM_UP:])
    speed = options.batch * len(steps[WARM_UP:]) / seconds
    return speed, finished, " ".join(f"{step['loss']:.3f}" for step in steps)


def difference(folder):
    import numpy

    ours, theirs = numpy.load(folder / "truing.npy"), numpy.load(folder / "peer.npy")
    return float(abs(ours - theirs).max())


def compare(options, folder, what, programs):
    unit = {"embed": "texts/s", "train": "triplets/s"}[what]
    print(f"\n| pair | program | {unit} | peak MiB | whole run, s | own cores | others' cores | |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    speeds, peaks = collections.defaultdict(list), collections.defaultdict(list)
    for pair in range(options.pairs):
        for name in sorted(programs, reverse=pair % 2 == 0):
            speed, finished, note = programs[name](options, folder)
            speeds[name].append(speed)
            peaks[name].append(finished.peak_rss_mib)
            print(f"| {pair + 1} | {name} | {speed:.1f} | {finished.peak_rss_mib:.0f} | {finished.seconds:.1f} "
                  f"| {finished.cores_own:.2f} | {finished.cores_others:.2f} | {note} |", flush=True)
    ours, theirs = "truing", "sentence-transformers"
    ratios = [a / b for a, b in zip(speeds[ours], speeds[theirs])]
    memory = [a / b for a, b in zip(peaks[ours], peaks[theirs])]
    print(f"\n{what}: truing over {theirs}: speed {' '.join(f'{x:.2f}' for x in ratios)}, median "
          f"{running.median(ratios):.2f}; peak memory median {running.median(memory):.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--what", default="embed,train")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--longest", type=int, default=500, help="characters of the longest text to embed")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.model = options.model.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_data(options, folder)
        if "embed" in options.what:
            compare(options, folder, "embed",
                    {"truing": embed_with_truing, "sentence-transformers": embed_with_peer})
            print(f"largest difference of a value: {difference(folder):.1e}")
        if "train" in options.what:
            compare(options, folder, "train",
                    {"truing": train_with_truing, "sentence-transformers": train_with_peer})


main()
