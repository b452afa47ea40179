#!/usr/bin/env python3
"""Decoding against llama.cpp, pair by pair: same model, same prompts, same batches, alternating.

    cargo bench -p truing-generate --bench decoding --no-run        # prints the program's path
    python decoding.py --bench PROGRAM --gguf MODEL.gguf --prompts PROMPTS.jsonl --work WORK [--pairs 3]

`--python` is an interpreter with llama-cpp-python (0.3.36 was measured) and gguf; PROMPTS has a `prompt` a line. WORK receives an f32 and a Q8_0
file made of MODEL. truing's f32 meets llama.cpp's f32, truing's int8 its Q8_0. Ratios are taken inside a pair, of the means
and of the fastest step and the fastest prompt: on a machine that others use too, the fastest is what was disturbed least.
"""
import argparse
import pathlib
import re
import sys

import running

LINE = re.compile(r"(\w+) +batch +(\d+): read \d+ tokens at ([\d.]+)/s, fastest ([\d.]+)/s; engine ([\d.]+) tokens/s, fastest step "
                  r"([\d.]+),")
# Of a batch's four numbers: decoded and read a second on the average, then at best.
NAMES = ["decoding, mean", "reading, mean", "decoding, fastest", "reading, fastest"]


def truing(options, kind):
    command = [options.bench, options.gguf, options.prompts, options.batches, options.new, options.threads, kind]
    finished = running.run(command)
    rows = [LINE.match(line) for line in finished.stdout.splitlines()]
    return {int(row[2]): [float(row[i]) for i in (5, 3, 6, 4)] for row in rows if row}, finished


def llama(options, kind):
    peer = running.HERE / "peers" / "generate_llamacpp.py"
    model = options.work / f"{kind}.gguf"
    if not model.exists():
        source = options.gguf if kind == "f32" else options.work / "f32.gguf"
        running.run([options.python, peer, "--gguf", model, "--prepare", source, "--kind", kind])
    finished = running.run([options.python, peer, "--gguf", model, "--prompts", options.prompts, "--batches", options.batches,
                            "--new", options.new, "--threads", options.threads])
    rows = running.json_lines(finished.stdout)
    keys = ["decoded_per_second", "read_per_second", "fastest_decoded_per_second", "fastest_read_per_second"]
    return {row["batch"]: [row[key] for key in keys] for row in rows}, finished


PROGRAMS = {
    "truing f32": lambda options: truing(options, "f32"),
    "llama.cpp f32": lambda options: llama(options, "f32"),
    "truing int8": lambda options: truing(options, "int8"),
    "llama.cpp Q8_0": lambda options: llama(options, "q8_0"),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bench", required=True)
    arguments.add_argument("--gguf", required=True)
    arguments.add_argument("--prompts", required=True)
    arguments.add_argument("--work", type=pathlib.Path, required=True)
    arguments.add_argument("--python", default=sys.executable)
    arguments.add_argument("--batches", default="1,8,32")
    arguments.add_argument("--new", default="64")
    arguments.add_argument("--threads", default="2")
    arguments.add_argument("--pairs", type=int, default=3)
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for kind in ("f32", "q8_0"):
        if not (options.work / f"{kind}.gguf").exists():
            llama(options, kind)
    batches = [int(batch) for batch in options.batches.split(",")]
    print("| pair | program | " + " | ".join(f"batch {b}: decoded/s, read/s; fastest" for b in batches) + " | others' cores |")
    print("|---|---|" + "---|" * (len(batches) + 1), flush=True)
    found = []
    for pair in range(options.pairs):
        speeds = {}
        for name in sorted(PROGRAMS, reverse=pair % 2 == 1):
            speeds[name], finished = PROGRAMS[name](options)
            cells = " | ".join("{:.1f}, {:.0f}; {:.1f}, {:.0f}".format(*speeds[name][b]) for b in batches)
            print(f"| {pair + 1} | {name} | {cells} | {finished.cores_others:.2f} |", flush=True)
        found.append(speeds)
    print()
    for ours, theirs in [("truing f32", "llama.cpp f32"), ("truing int8", "llama.cpp Q8_0"), ("truing int8", "truing f32"),
                         ("truing int8", "llama.cpp f32")]:
        for batch in batches:
            for i, name in enumerate(NAMES):
                ratios = [speeds[ours][batch][i] / speeds[theirs][batch][i] for speeds in found]
                print(f"{ours} over {theirs}, batch {batch}, {name}: {' '.join(f'{x:.2f}' for x in ratios)}, median "
                      f"{running.median(ratios):.2f}", flush=True)


main()
