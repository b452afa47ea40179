#!/usr/bin/env python3
"""`truing reward train` and `truing grpo` against TRL, pair by pair: same model, same data, same work a step, alternating.

    python alignment.py reward --truing ../target/release/truing --work WORK [--pairs 2]
    python alignment.py grpo   --truing ../target/release/truing --work WORK [--pairs 2] [--steps 3]

WORK comes from prepare.py. Peak memory is the kernel's high-water mark of the whole process. Reward: pairs a second over
one pass of the same 24 pairs, TRL's in batches of four, truing's in packs; every step counts. GRPO: the first step is
warm-up and not counted; steps a second, a step a step of 2 prompts with 8 completions
of at most 96 tokens each, no KL; both programs draw with temperature 1 and take the same kind of reward.
"""
import argparse
import pathlib
import sys
import tempfile

import running

WARM_UP = 1
N_PAIRS = 24


def recipe(folder, options, stage, text):
    path = folder / "recipe.toml"
    path.write_text(f"""
stage = "{stage}"
model_name_or_path = "{options.work / 'model'}"
output_dir = "{folder / 'run'}"
lr_scheduler_type = "constant"
weight_decay = 0.0
save_steps = 1000
{text}
""", encoding="utf-8")
    return path


def run_truing(options, command, text):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        path = recipe(folder, options, {"reward": "reward_model"}.get(command[0], command[0]), text)
        finished = running.run([options.truing, *command, path, "--threads", options.threads])
        rows = running.json_lines((folder / "run" / "metrics.jsonl").read_text())
    return [row for row in rows if "step_time" in row], finished


def run_trl(options, script, data, n_steps):
    finished = running.run([sys.executable, running.HERE / "peers" / script, "--model", options.work / "model",
                            "--data", data, "--steps", n_steps, "--threads", options.threads])
    return running.json_lines(finished.stdout)[-1]["steps"], finished


def some_pairs(options):
    path = options.work / f"pairs_{N_PAIRS}.jsonl"
    lines = (options.work / "pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:N_PAIRS]), encoding="utf-8")
    return path


def reward_truing(options):
    text = f"""
learning_rate = 1e-5
warmup_steps = 0
max_length = 1536
long_samples = "truncate"
packs_per_step = 1
num_train_epochs = 1
{options.extra}
[reward_model]
mse_coefficient = 0.0
[[data]]
path = "{some_pairs(options)}"
"""
    steps, finished = run_truing(options, ["reward", "train"], text)
    return N_PAIRS / sum(step["step_time"] for step in steps), finished, f"{len(steps)} steps"


def reward_trl(options):
    steps, finished = run_trl(options, "reward_trl.py", some_pairs(options), N_PAIRS // 4)
    return N_PAIRS / sum(step["seconds"] for step in steps), finished, f"{len(steps)} steps"


def grpo_truing(options):
    text = f"""
max_steps = {options.steps}
algorithm = "dr_grpo"
num_generations = 8
prompts_per_step = 2
max_completion_length = 96
learning_rate = 1e-6
keep_rollouts = false
{options.extra}
[[data]]
path = "{options.work / 'prompts.jsonl'}"
[[reward]]
kind = {{ math_answer = {{ column = "answer" }} }}
[[reward]]
name = "has_number"
weight = 0.1
kind = {{ format = {{ pattern = "[0-9]" }} }}
"""
    steps, finished = run_truing(options, ["grpo"], text)
    steps = steps[WARM_UP:]
    mean = lambda name: sum(step[name] for step in steps) / len(steps)
    parts = f"drawing {mean('step_time/generating'):.1f} s, updating {mean('step_time/updating'):.1f} s, {mean('completions/mean_length'):.0f} tokens a completion"
    return 1 / mean("step_time"), finished, parts


def grpo_trl(options):
    steps, finished = run_trl(options, "grpo_trl.py", options.work / "prompts.jsonl", options.steps)
    steps = steps[WARM_UP:]
    mean = lambda name: sum(step[name] for step in steps) / len(steps)
    parts = f"drawing {mean('generating'):.1f} s, the rest {mean('seconds') - mean('generating'):.1f} s, {mean('tokens') / 16:.0f} tokens a completion"
    return 1 / mean("seconds"), finished, parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_of", choices=["reward", "grpo"])
    parser.add_argument("--truing", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="of a GRPO run")
    parser.add_argument("--extra", default="", help="more lines for truing's recipe, for instance 'memory_gib = 3.5'")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.work = options.work.resolve()
    programs = {"reward": {"truing": reward_truing, "TRL": reward_trl}, "grpo": {"truing": grpo_truing, "TRL": grpo_trl}}[options.work_of]
    unit = {"reward": "pairs/s", "grpo": "steps/s"}[options.work_of]
    print(f"| pair | program | {unit} | peak MiB | own cores | others' cores | |")
    print("|---|---|---|---|---|---|---|", flush=True)
    ratios, memory = [], []
    for pair in range(options.pairs):
        found = {}
        for name in sorted(programs, reverse=pair % 2 == 0):
            speed, finished, remark = programs[name](options)
            found[name] = (speed, finished.peak_rss_mib)
            print(f"| {pair + 1} | {name} | {speed:.3f} | {finished.peak_rss_mib:.0f} | {finished.cores_own:.2f} "
                  f"| {finished.cores_others:.2f} | {remark} |", flush=True)
        ratios.append(found["truing"][0] / found["TRL"][0])
        memory.append(found["truing"][1] / found["TRL"][1])
    print(f"\ntruing over TRL: speed {' '.join(f'{x:.2f}' for x in ratios)}, median {running.median(ratios):.2f}; "
          f"peak memory median {running.median(memory):.2f}")


main()
