#!/usr/bin/env python3
"""`truing sft` against TRL, pair by pair: same model, same conversations, same tokens a step, alternating.

    python against_trl.py --truing ../target/release/truing --work WORK [--pairs 3] [--steps 6] [--padded]

WORK comes from prepare.py. `--padded` adds TRL's plain way, a padded batch of four, to each round. The program
that goes first changes from pair to pair. The first two steps of a run are warm-up and not counted; speed is real
tokens (no padding) over the rest. Peak memory is the kernel's high-water mark of the whole process.
"""
import argparse
import pathlib
import sys
import tempfile

import running

WARM_UP = 2


def trl(options, *arguments):
    finished = running.run([sys.executable, running.HERE / "peers/sft_trl.py", "--model", options.work / "model",
                            "--data", options.work / "sft.jsonl", "--steps", options.steps,
                            "--threads", options.threads, *arguments])
    steps = running.json_lines(finished.stdout)[-1]["steps"]
    counted = steps[WARM_UP:]
    speed = sum(step["tokens"] for step in counted) / sum(step["seconds"] for step in counted)
    return speed, finished, [step["loss"] for step in steps]


def truing(options):
    with tempfile.TemporaryDirectory() as folder:
        recipe = running.truing_recipe(pathlib.Path(folder), model=options.work / "model",
                                       data=options.work / "sft.jsonl", pack=options.pack, steps=options.steps,
                                       extra=options.extra)
        ran = running.run_truing(options.truing, recipe, "--threads", options.threads)
    return running.tokens_per_second(ran.steps, WARM_UP), ran.finished, [round(step["loss"], 4) for step in ran.steps]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pack", type=int, default=1024)
    parser.add_argument("--padded", action="store_true")
    parser.add_argument("--extra", default="", help="more lines for truing's recipe, for instance 'memory_gib = 2.6'")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.work = options.work.resolve()
    programs = {"truing": truing, "TRL packed": lambda o: trl(o, "--pack", o.pack)}
    if options.padded:
        programs["TRL padded"] = lambda o: trl(o, "--batch", 4)

    print("| pair | program | real tokens/s | peak MiB | whole run, s | own cores | others' cores | losses |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    speeds, peaks = {name: [] for name in programs}, {name: [] for name in programs}
    for pair in range(options.pairs):
        for name in sorted(programs, reverse=pair % 2 == 0):
            speed, finished, losses = programs[name](options)
            speeds[name].append(speed)
            peaks[name].append(finished.peak_rss_mib)
            print(f"| {pair + 1} | {name} | {speed:.1f} | {finished.peak_rss_mib:.0f} | {finished.seconds:.0f} "
                  f"| {finished.cores_own:.2f} | {finished.cores_others:.2f} | {' '.join(map(str, losses))} |", flush=True)
    for name in programs:
        if name != "truing":
            ratios = [ours / theirs for ours, theirs in zip(speeds["truing"], speeds[name])]
            memory = [ours / theirs for ours, theirs in zip(peaks["truing"], peaks[name])]
            print(f"\ntruing over {name}: speed {' '.join(f'{x:.2f}' for x in ratios)}, median {running.median(ratios):.2f}; "
                  f"peak memory median {running.median(memory):.2f}")


main()
