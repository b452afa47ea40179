"""Runs the two programs as child processes and measures them from outside, both in the same way."""
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass
class Finished:
    stdout: str
    seconds: float
    started: float
    peak_rss_mib: float
    cores_own: float
    cores_others: float


def busy_seconds():
    """Processor seconds of the whole machine spent on anything but idling, waiting and other guests."""
    with open("/proc/stat") as file:
        user, nice, kernel, _idle, _wait, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + kernel + irq + softirq) / os.sysconf("SC_CLK_TCK")


def run(command, **environment):
    """Runs to the end; a failure ends the benchmark with the child's own words."""
    command = [str(part) for part in command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        busy, started = busy_seconds(), time.time()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                 env={**os.environ, "HF_HUB_OFFLINE": "1", **environment})
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.time() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        own = usage.ru_utime + usage.ru_stime
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            sys.exit(f"{' '.join(command)}\nended with status {child.returncode}:\n{err.read()[-3000:]}{out.read()[-1000:]}")
        return Finished(out.read(), seconds, started, usage.ru_maxrss / 1024, own / seconds,
                        max(0.0, busy_seconds() - busy - own) / seconds)


def json_lines(text):
    """Lines that are JSON objects; TRL prints dictionaries of Python among them."""
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"')]


def truing_recipe(folder, *, model, data, pack, steps, packs_a_step=1, learning_rate=2e-5, extra=""):
    """Writes a recipe that does what peers/sft_trl.py does, and nothing besides."""
    recipe = folder / "recipe.toml"
    recipe.write_text(f"""
stage = "sft"
model_name_or_path = "{model}"
output_dir = "{folder / 'run'}"
max_steps = {steps}
max_length = {pack}
long_samples = "truncate"
packs_per_step = {packs_a_step}
learning_rate = {learning_rate}
lr_scheduler_type = "constant"
warmup_steps = 0
weight_decay = 0.0
{extra}

[[data]]
path = "{data}"
""", encoding="utf-8")
    return recipe


@dataclasses.dataclass
class TruingRun:
    finished: Finished
    steps: list
    first_step_line_seen: float


def run_truing(program, recipe, *arguments):
    """Runs `truing sft` and reads the run's metrics; notes from outside when the first step's line appeared."""
    metrics, seen = recipe.parent / "run" / "metrics.jsonl", []
    is_over = threading.Event()

    def watch():
        while not is_over.is_set() and not seen:
            if metrics.exists() and any("loss" in row for row in json_lines(metrics.read_text())):
                seen.append(time.time())
            time.sleep(0.005)

    shutil.rmtree(recipe.parent / "run", ignore_errors=True)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    finished = run([program, "sft", recipe, *arguments])
    is_over.set()
    watcher.join()
    steps = [row for row in json_lines(metrics.read_text()) if "loss" in row]
    if not steps:
        sys.exit(f"{metrics} holds no step")
    return TruingRun(finished, steps, seen[0] if seen else time.time())


def tokens_per_second(steps, n_warm_up):
    """Real tokens over seconds of the steps after the first `n_warm_up`; a line tells its step's own speed."""
    tokens = seconds = 0.0
    before = 0
    for idx, step in enumerate(steps):
        n_tokens, before = step["num_tokens"] - before, step["num_tokens"]
        if idx >= n_warm_up:
            tokens += n_tokens
            seconds += n_tokens / step["tokens_per_second"]
    return tokens / seconds


def median(values):
    return statistics.median(values)
