#!/usr/bin/env python3
"""Kills `truing pipeline apply` at random moments and compares with an undisturbed run.

    pipeline-kill-test.py TRUING [--kills 200] [--seed 1] [--seconds 0.03]

The pipeline has a command that draws prompts, `respond` on a mock server of the loopback, a gate that a person passes,
a command that joins answers and responses, `sft`, `merge` and `evaluate` on a tiny model, and a command beside them;
two stages run at a time. A kill is a SIGKILL

- of the pipeline alone: its stages go on, and hold their locks;
- of everything at once, as if the machine went down (all are stopped first, so that none sees another's end);
- of one running stage alone, with what it has started: the pipeline then ends with status 2.

The same command is given again until it ends with status 0, then in a new folder, until the number of kills is reached.
Keys, digests of outputs and figures (but those of speed and memory) in `truing.lock` have to be those of the
undisturbed run; the store has to have one finished run for each stage, none in the making or set aside; and another
`apply` has nothing to do. Temporary files that are left are counted. Standard library only. Exits with status 1 where
something differs; the folders of such runs are kept.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "benches"))
import mock_chat  # noqa: E402
import tiny_model  # noqa: E402

WAITING, FAILED = 75, 2
PATIENCE_SECONDS = 120
# Figures of speed and memory.
MEASURED = "peak_memory_gib", "samples_per_second", "step_time", "tokens_per_second"

PIPELINE = """
[stages.draw]
uses = "command"
[stages.draw.with]
command = ["python3", "slowly.py", "draw", "${output}/rows.jsonl"]
inputs = ["slowly.py"]
outputs = { rows = "rows.jsonl" }

[stages.beside]
uses = "command"
[stages.beside.with]
command = ["python3", "slowly.py", "beside", "${output}/beside.txt"]
inputs = ["slowly.py"]
outputs = { text = "beside.txt" }

[stages.respond]
uses = "respond"
[stages.respond.with]
min_score = 1
round_prompts = 8
select = "threshold"
decoding = [{ n = 4, max_new_tokens = 64, top_k = 0 }]
data = [{ path = "${stages.draw.rows}" }]
reward = [{ kind = { exact_match = {} } }]
[[stages.respond.with.model]]
name = "mock"
server = { base_url = "http://127.0.0.1:PORT/v1", model = "mock", max_concurrency = 4 }

[stages.review]
uses = "gate"
needs = ["respond"]
with = { file = "review.jsonl", message = "say what you think" }

[stages.join]
uses = "command"
[stages.join.with]
command = ["python3", "slowly.py", "join", "${output}/rows.jsonl", "${stages.respond.responses}",
           "${stages.review.file}"]
inputs = ["slowly.py"]
outputs = { rows = "rows.jsonl" }

[stages.sft]
uses = "sft"
[stages.sft.with]
model_name_or_path = "model"
seed = 3
max_length = 256
packs_per_step = 2
max_steps = 12
learning_rate = 1e-3
eval_fraction = 0.1
eval_steps = 4
save_steps = 3
data = [{ path = "${stages.join.rows}" }]

[stages.merge]
uses = "merge"
[stages.merge.with]
method = "linear"
models = [{ model = "model" }, { model = "${stages.sft.model}" }]
parameters = { weight = 0.5 }

[stages.evaluate]
uses = "evaluate"
[stages.evaluate.with]
max_new_tokens = 3
model = { model_name_or_path = "${stages.merge.model}" }
[[stages.evaluate.with.task]]
path = "sums.jsonl"
[stages.evaluate.with.task.custom]
name = "sums"
prompt = "{{ question }}"
scorer = [{ kind = { exact_match = {} } }]
"""

# A program that writes its output piece by piece.
SLOWLY = '''
import json, pathlib, sys, time
what, output, *inputs = sys.argv[1:]
lines = [line for path in inputs for line in pathlib.Path(path).read_text().splitlines()]
with open(output, "w") as file:
    for n in range(30):
        if what == "draw":
            file.write(json.dumps({"prompt": f"What is {n} + {n}?", "answer": str(2 * n)}) + "\\n")
        elif what == "beside":
            file.write(f"{n} {' '.join(sys.argv[4:])}\\n")
        else:
            line = json.loads(lines[n % len(lines)])
            text = line.get("opinion") or "".join(turn["content"] for turn in line["messages"])
            file.write(json.dumps({"messages": [{"role": "user", "content": f"Say line {n}."},
                                                {"role": "assistant", "content": text}]}) + "\\n")
        file.flush()
        time.sleep(0.01)
'''


def answer(text, seed):
    number = int(text.split()[2])
    return str(2 * number + mock_chat.drawn(number, seed) % 3)


def make_folder(folder, port):
    folder.mkdir()
    tiny_model.write(folder / "model")
    (folder / "pipe.toml").write_text(PIPELINE.replace("PORT", str(port)))
    (folder / "slowly.py").write_text(SLOWLY)
    sums = (json.dumps({"question": f"{n} + 1 =", "answer": str(n + 1)}) + "\n" for n in range(4))
    (folder / "sums.jsonl").write_text("".join(sums))


def descendants(pid):
    """The processes that a process has started, and those that these have."""
    children = collections.defaultdict(list)
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name of a program may hold blanks; what follows its bracket does not.
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children[parent].append(int(entry.name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children[found[-1]]
    return found[1:]


def send(pids, what):
    for pid in pids:
        try:
            os.kill(pid, what)
        except ProcessLookupError:
            pass


def kill(child, generator):
    """Kills one of the three ways; returns which."""
    way = generator.choice(["pipeline", "everything", "stage"])
    if way == "everything":
        os.kill(child.pid, signal.SIGSTOP)
        started = descendants(child.pid)
        send(started, signal.SIGSTOP)
        # What was started since is seen now: nothing runs any more.
        send([child.pid, *descendants(child.pid), *started], signal.SIGKILL)
    elif way == "stage":
        stages = descendants(child.pid)
        if not stages:
            return None
        stage = stages[-1] if generator.random() < 0.5 else stages[0]
        send([stage, *descendants(stage)], signal.SIGKILL)
    else:
        child.kill()
    return way


def start(truing, folder):
    command = [truing, "pipeline", "apply", str(folder / "pipe.toml"), "--jobs", "2", "--json"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def pass_gate(folder):
    """A person answers: what they say depends on what they were shown."""
    shown = (folder / "pipeline-out/pipe/respond/responses.jsonl").read_bytes()
    rows = [json.dumps({"opinion": f"Opinion {n} on {mock_chat.drawn(shown) % 1000}."}) + "\n" for n in range(3)]
    partial = folder / "review.part"
    partial.write_text("".join(rows))
    partial.rename(folder / "review.jsonl")


def found_in(folder):
    """What the lock file says of the pipeline, but for what depends on the machine's moment."""
    stages = tomllib.loads((folder / "truing.lock").read_text())["pipelines"]["pipe"]
    for stage in stages.values():
        for name in MEASURED:
            stage.get("figures", {}).pop(name, None)
    return stages


def leftovers(folder, n_runs):
    """What should not be there after a finished run: problems, and temporary files."""
    problems = []
    runs = folder / ".truing/store/runs"
    entries = sorted(runs.iterdir())
    if unfinished := [entry.name for entry in entries if not (entry / "done.json").is_file()]:
        problems.append(f"runs without a result: {unfinished}")
    if len(entries) != n_runs:
        problems.append(f"{len(entries)} runs in the store instead of {n_runs}")
    store = folder / ".truing/store"
    places = [folder, store, store / "locks", store / "pipelines", folder / "pipeline-out/pipe"]
    # The run folder is the stage's own.
    temporary = [str(path.relative_to(folder)) for place in places for path in place.glob(".*.tmp")]
    return problems, temporary


class Test:
    def __init__(self, truing, scratch, seconds):
        self.truing, self.scratch = truing, scratch
        self.server = mock_chat.MockChat(answer, seconds)
        self.n_folders, self.ways, self.problems, self.temporary = 0, collections.Counter(), [], collections.Counter()

    def folder(self):
        """A new folder of the same name: rows are named after the path of their file."""
        self.n_folders += 1
        folder = self.scratch / "run"
        if folder.exists():
            shutil.rmtree(folder)
        make_folder(folder, self.server.port)
        return folder

    def finish(self, folder, child, may_fail=False):
        """Waits; returns whether the pipeline is done."""
        said, errors = child.communicate(timeout=PATIENCE_SECONDS)
        if child.returncode == WAITING:
            pass_gate(folder)
            return False
        if child.returncode == FAILED and may_fail:
            return False
        if child.returncode != 0:
            self.problems.append(f"status {child.returncode} in {folder}: {said[-500:]} {errors[-1500:]}")
        return True

    def undisturbed(self):
        folder, started = self.folder(), time.monotonic()
        while not self.finish(folder, start(self.truing, folder)):
            pass
        self.seconds = time.monotonic() - started
        self.expected = found_in(folder)
        self.n_runs = sum(1 for entry in (folder / ".truing/store/runs").iterdir())

    def killed(self, generator, n_left):
        """Kills runs in one folder, at most `n_left` times; returns the number of kills."""
        folder, n_kills, is_done = self.folder(), 0, False
        while not is_done:
            child, way = start(self.truing, folder), None
            if n_kills < n_left:
                try:
                    child.wait(timeout=generator.uniform(0.0, self.seconds))
                except subprocess.TimeoutExpired:
                    if way := kill(child, generator):
                        n_kills += 1
                        self.ways[way] += 1
            if way in ("pipeline", "everything"):
                child.communicate()
                continue
            is_done = self.finish(folder, child, may_fail=way == "stage")
        self.compare(folder, n_kills)
        return n_kills

    def compare(self, folder, n_kills):
        where, n_before = f"run {self.n_folders}, after {n_kills} kills", len(self.problems)
        found = found_in(folder)
        for name in sorted(self.expected.keys() | found.keys()):
            stage, expected = found.get(name, {}), self.expected.get(name, {})
            for part in sorted(stage.keys() | expected.keys()):
                if stage.get(part) != expected.get(part):
                    self.problems.append(
                        f"{where}: {part} of `{name}`: {stage.get(part)} instead of {expected.get(part)}")
        problems, temporary = leftovers(folder, self.n_runs)
        self.problems += [f"{where}: {problem}" for problem in problems]
        self.temporary.update(pathlib.Path(path).name.split(".")[1] for path in temporary)
        again = start(self.truing, folder)
        said, _ = again.communicate(timeout=PATIENCE_SECONDS)
        if again.returncode != 0 or json.loads(said)["ran"] or json.loads(said)["reused"]:
            self.problems.append(f"{where}: another `apply` had something to do: {said}")
        if len(self.problems) > n_before:
            folder.rename(self.scratch / f"run-{self.n_folders}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truing")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.03, help="time of one reply of the mock server")
    arguments = parser.parse_args()
    generator, scratch = random.Random(arguments.seed), pathlib.Path(tempfile.mkdtemp(prefix="pipeline-kill-test-"))
    test = Test(str(pathlib.Path(arguments.truing).resolve()), scratch, arguments.seconds)
    test.undisturbed()
    n_kills = 0
    while n_kills < arguments.kills and len(test.problems) < 5:
        n_kills += test.killed(generator, arguments.kills - n_kills)
    print(json.dumps({
        "kills": n_kills, "ways": test.ways, "runs_to_the_end": test.n_folders, "stages": len(test.expected),
        "seconds_of_a_run": round(test.seconds, 2), "temporary_files_left": test.temporary,
        "problems": test.problems}), flush=True)
    if not test.problems:
        shutil.rmtree(scratch)
    return 1 if test.problems else 0


if __name__ == "__main__":
    sys.exit(main())
