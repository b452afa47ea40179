#!/usr/bin/env python3
"""From starting the process to the first training step, model on disk: `truing sft` and TRL in turn.

    python startup.py --truing ../target/release/truing --work WORK [--pairs 3]

TRL's process says itself when its first step begins, in seconds since it was started. For `truing` the first
step's line in the run's metrics is watched from outside and the step's own time, which that line tells, is taken off.
"""
import argparse
import pathlib
import sys
import tempfile

import running


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    options.work = options.work.resolve()
    ours, theirs = [], []
    for _ in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            recipe = running.truing_recipe(pathlib.Path(folder), model=options.work / "model",
                                           data=options.work / "sft.jsonl", pack=1024, steps=1)
            ran = running.run_truing(options.truing, recipe)
        step_seconds = ran.steps[0]["num_tokens"] / ran.steps[0]["tokens_per_second"]
        ours.append(ran.first_step_line_seen - step_seconds - ran.finished.started)
        peer = running.run([sys.executable, running.HERE / "peers/sft_trl.py", "--model", options.work / "model",
                            "--data", options.work / "sft.jsonl", "--pack", 1024, "--steps", 1])
        theirs.append(running.json_lines(peer.stdout)[-1]["start_to_first_step_seconds"])
        print(f"truing {ours[-1]:.2f} s, TRL {theirs[-1]:.2f} s", flush=True)
    print(f"medians: truing {running.median(ours):.2f} s, TRL {running.median(theirs):.2f} s")


main()
