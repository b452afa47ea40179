#!/usr/bin/env python3
"""Kills `truing respond`, `prefer` and every builder of `build` at random moments, against a mock server on the
loopback, and compares.

    kill-test.py TRUING [--kills 200] [--stages respond,prefer,constraints,tools] [--seed 1]

`--stages` names stages and builders; without it all run. `code_python` (the builder `code` on tasks with tests) and
`code_interpreter` run Python in the sandbox.

Each stage first runs without interruption: the reference run. Then it is started and killed by SIGKILL, repeatedly in
the same folder, until a run finishes; then in a new folder, until the number of kills is reached. Checked are:

- lost rows and other output: every file has to equal that of the reference run, byte by byte (except the path of the
  folder). The reference run has to have a line for every row, and some that were kept;
- repeated calls: no reply is requested again, except those that were sent within 0.5 s of a kill. These may not have
  been saved, and are lost with the process, at most `max_concurrency` for each kill. They are counted and printed.

Exits with status 1 where something differs; the folders of all runs are then kept.
"""
import argparse
import hashlib
import json
import math
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "benches"))
import builder_models  # noqa: E402
import mock_chat  # noqa: E402

CONCURRENCY = 4
# A reply that was sent so long ago has been saved, on a busy machine too.
SETTLED_SECONDS = 0.5
# In so long the server has read all that a killed process sent.
QUIET_SECONDS = 0.2


def server(port, name):
    return (f'server = {{ base_url = "http://127.0.0.1:{port}/v1", model = "{name}", '
            f'max_concurrency = {CONCURRENCY} }}\n')


def respond(port):
    rows = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(30)]
    recipe = ('stage = "respond"\noutput_dir = "out"\nmin_score = 1\nround_prompts = 8\nselect = "threshold"\n'
              '[[decoding]]\nn = 4\nmax_new_tokens = 64\ntop_k = 0\n[[data]]\npath = "rows.jsonl"\n'
              '[[reward]]\nkind = { exact_match = {} }\n[[model]]\nname = "mock"\n' + server(port, "mock"))
    return recipe, {"rows.jsonl": builder_models.jsonl(rows)}, len(rows)


def answer_respond(text, seed):
    number = int(text.split()[2])
    return str(2 * number + mock_chat.drawn(number, seed) % 3)


def prefer(port):
    rows = [{"prompt": f"Name the number {n}.",
             "responses": [f"It is {n}.", f"Perhaps {n + 1}?", f"No idea, {n} or so."]} for n in range(20)]
    recipe = ('stage = "prefer"\noutput_dir = "out"\nmin_gap = 0.1\n[[data]]\npath = "rows.jsonl"\n'
              '[[judge]]\nname = "pairs"\nkind = "pairwise"\n[judge.model]\n' + server(port, "judge"))
    return recipe, {"rows.jsonl": builder_models.jsonl(rows)}, len(rows)


def answer_prefer(text, _seed):
    first = text.split("<response_a>\n")[1].split("\n")[0]
    second = text.split("<response_b>\n")[1].split("\n")[0]
    ranks = ["It is", "Perhaps", "No idea"]
    rank = [next(rank for rank, begin in enumerate(ranks) if response.startswith(begin))
            for response in (first, second)]
    return f"The first is {ranks[rank[0]]}.\n[[{'A' if rank[0] < rank[1] else 'B'}]]"


def build(builder):
    """The stage of one builder: its writer and its checker are two models of the server."""
    def make(port):
        recipe = (f'stage = "build"\nability = "{builder.ability}"\noutput_dir = "out"\n{builder.recipe}'
                  f"[writer]\n{server(port, 'writer')}[checker]\n{server(port, 'checker')}")
        return recipe, builder.files, builder.n_rows
    answer = {"writer": builder.writer, "checker": builder.checker}
    return Stage("build", make, answer, "fates.jsonl", "rows.jsonl", n_models=2)


@dataclass
class Stage:
    command: str
    # Makes the recipe, the files beside it and the number of rows, given the port of the server.
    make: Callable
    # What the server answers.
    answer: Callable | dict
    # A file with a line for every row.
    rows_file: str
    # The file with what is kept.
    result_file: str
    # Models with requests of their own at the same time.
    n_models: int = 1


STAGES = {
    "respond": Stage("respond", respond, answer_respond, "candidates.jsonl", "responses.jsonl"),
    "prefer": Stage("prefer", prefer, answer_prefer, "fates.jsonl", "pairs.jsonl"),
    **{name: build(make()) for name, make in builder_models.BUILDERS.items()},
}


def written(folder):
    """The files of a finished run, without what differs by folder: the cache and where its paths begin."""
    def text(path):
        return path.read_text().replace(str(folder), "")
    files = sorted((folder / "out").glob("*.json*"))
    return {path.name: hashlib.sha256(text(path).encode()).hexdigest() for path in files}


class Checked:
    def __init__(self, truing, name, scratch, seconds):
        self.truing, self.name, self.scratch = truing, name, scratch
        self.stage = STAGES[name]
        self.server = mock_chat.MockChat(self.stage.answer, seconds)
        self.recipe, self.files, self.n_rows = self.stage.make(self.server.port)
        self.n_folders, self.n_again, self.n_lost, self.problems = 0, 0, 0, []

    def folder(self):
        self.n_folders += 1
        folder = self.scratch / f"{self.name}-{self.n_folders}"
        folder.mkdir()
        for name, text in {"recipe.toml": self.recipe, **self.files}.items():
            (folder / name).write_text(text)
        return folder

    def forget(self):
        """In a new folder everything is requested again."""
        with self.server.lock:
            self.server.sent.clear()
            self.server.repeated.clear()

    def start(self, folder):
        command = [self.truing, self.stage.command, str(folder / "recipe.toml")]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                text=True)

    def finish(self, child):
        _, errors = child.communicate()
        if child.returncode not in (0, 1):
            sys.exit(f"{self.name} ended with status {child.returncode}:\n{errors[-2000:]}")

    def reference(self):
        folder = self.folder()
        started = time.monotonic()
        self.finish(self.start(folder))
        self.seconds, self.expected = time.monotonic() - started, written(folder)
        self.n_calls = self.server.n_requests
        lines = (folder / "out" / self.stage.rows_file).read_text().splitlines()
        if len(lines) != self.n_rows:
            self.problems.append(f"{self.stage.rows_file} has {len(lines)} lines for {self.n_rows} rows")
        result = folder / "out" / self.stage.result_file
        self.n_results = len(result.read_text().splitlines()) if result.exists() else 0
        if self.n_results == 0:
            self.problems.append(f"{self.stage.result_file} has no line")

    def look_at_repeats(self, kills):
        """Counts requests whose reply had been sent before. `kills` are the times of all kills in the folder, and the
        times at which the server had read what the killed process sent. The process that sent the first request ended
        at the first kill after it; which process repeats it does not matter."""
        with self.server.lock:
            repeated, self.server.repeated = self.server.repeated, []
        for arrived, sent in repeated:
            kill = next((killed for killed, quiet in kills if quiet >= arrived), math.inf)
            if kill - sent > SETTLED_SECONDS:
                self.n_again += 1
                self.problems.append(
                    f"a reply sent {kill - sent:.2f} s before the end of its process is requested again")
            else:
                self.n_lost += 1

    def kill_until_it_ends(self, generator, n_left):
        """Kills runs in one folder, at most `n_left` times; returns the number of kills."""
        folder, kills, n_lost_before = self.folder(), [], self.n_lost
        self.forget()
        while True:
            child = self.start(folder)
            if len(kills) < n_left:
                try:
                    child.wait(timeout=generator.uniform(0.0, self.seconds))
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.communicate()
                    killed = time.monotonic()
                    time.sleep(QUIET_SECONDS)
                    self.look_at_repeats(kills)
                    kills.append((killed, time.monotonic()))
                    continue
            self.finish(child)
            self.look_at_repeats(kills)
            n_lost = self.n_lost - n_lost_before
            if n_lost > CONCURRENCY * self.stage.n_models * len(kills):
                self.problems.append(f"{n_lost} replies were lost by {len(kills)} kills")
            found = written(folder)
            if found != self.expected:
                names = sorted(name for name in found.keys() | self.expected
                               if found.get(name) != self.expected.get(name))
                self.problems.append(f"after {len(kills)} kills {', '.join(names)} differ, see {folder}")
            return len(kills)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truing")
    parser.add_argument("--kills", type=int, default=200, help="kills of each stage")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--seconds", type=float, default=0.03, help="time of one reply")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    stages = arguments.stages.split(",")
    if unknown := set(stages) - STAGES.keys():
        parser.error(f"--stages: {', '.join(sorted(unknown))}: expected some of {', '.join(STAGES)}")
    generator, is_fine = random.Random(arguments.seed), True
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="kill-test-"))
    for stage in stages:
        checked = Checked(str(pathlib.Path(arguments.truing).resolve()), stage, scratch, arguments.seconds)
        checked.reference()
        n_kills = 0
        while n_kills < arguments.kills:
            n_kills += checked.kill_until_it_ends(generator, arguments.kills - n_kills)
        is_fine &= not checked.problems
        print(json.dumps({
            "stage": stage, "rows": checked.n_rows, "results": checked.n_results, "kills": n_kills,
            "runs_to_the_end": checked.n_folders, "calls_of_a_run": checked.n_calls,
            "seconds_of_a_run": round(checked.seconds, 2), "kept_replies_requested_again": checked.n_again,
            "replies_lost_on_the_way": checked.n_lost, "problems": checked.problems}), flush=True)
    if is_fine:
        shutil.rmtree(scratch)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
