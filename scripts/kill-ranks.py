#!/usr/bin/env python3
"""Kills, stops and delays ranks of a training job at random moments, resumes it, and compares weights.

    kill-ranks.py TRUING [--rounds 100] [--ranks 2,3] [--steps 60] [--seed 1] [--set zero_stage=2]

Writes a tiny model with random weights and trains it with `truing launch --transport tcp`: first without disturbance,
once for each number of ranks (the reference). Then, in each round, a rank and a moment are drawn, and one of

- kill:  SIGKILL. The job has to end within 10 s, with a message that names the rank;
- stop:  SIGSTOP. The same;
- delay: SIGSTOP, and SIGCONT after at most 2.5 s. The job has to go on as if nothing had happened.

A job that ended is continued with `--resume` in the same folder, and may be disturbed again, until it finishes. Then
its weights have to equal those of the reference bit for bit, and its metrics have to list every step once. A rank that
is stopped before all ranks have found each other is missed after TRUING_JOIN_SECONDS, here 3, and the reply to it: such
a job has 15 s.

Prints a line of JSON for each kind, and all problems. Exits with status 1 where there is one; the folders of all jobs
are then kept. Needs Linux, for /proc.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tiny_model

KINDS = ("kill", "stop", "delay")
LIMIT_SECONDS = 10.0
LIMIT_SECONDS_BEFORE_JOINED = 15.0
JOIN_SECONDS = 3
LONGEST_DELAY_SECONDS = 2.5
# A job that does not end is given up after this time.
HANG_SECONDS = 60.0


def write_inputs(scratch, n_steps):
    """The model, some conversations and the recipe; returns the recipe's path."""
    tiny_model.write(scratch / "model")
    rows = ({"messages": [{"role": "user", "content": f"Count to {n}."},
                          {"role": "assistant", "content": " ".join(str(i) for i in range(1, n % 13 + 2))}]}
            for n in range(80))
    (scratch / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = scratch / "recipe.toml"
    recipe.write_text(
        'stage = "sft"\nmodel_name_or_path = "model"\noutput_dir = "run"\nseed = 3\nmax_length = 256\n'
        f'packs_per_step = 3\nmax_steps = {n_steps}\nlearning_rate = 1e-3\neval_fraction = 0.1\neval_steps = 10\n'
        'save_steps = 4\n\n[[data]]\npath = "rows.jsonl"\n')
    return recipe


class Job:
    """`truing launch` in one folder."""

    def __init__(self, harness, folder, n_ranks):
        self.folder, self.n_ranks = folder, n_ranks
        self.mark = f"{os.getpid()}-{harness.n_jobs}"
        harness.n_jobs += 1
        command = [harness.truing, "launch", "-n", str(n_ranks), "--transport", "tcp", "--", "sft", str(harness.recipe),
                   "--set", f"output_dir={folder}", *harness.settings]
        if folder.exists():
            command.append("--resume")
        environment = dict(os.environ, KILL_RANKS_JOB=self.mark, TRUING_JOIN_SECONDS=str(JOIN_SECONDS))
        self.started = time.monotonic()
        # A file, since a pipe that nobody reads would stop the job.
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        self.launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                         stderr=self.errors, env=environment)

    def processes(self):
        """The processes of the job by rank."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ranks = [variable[5:] for variable in variables if variable.startswith(b"RANK=")]
            if ranks and f"KILL_RANKS_JOB={self.mark}".encode() in variables:
                found[int(ranks[0])] = int(entry.name)
        return found

    def wait(self, seconds):
        """The exit status; `None` where the job has not ended within the time."""
        try:
            return self.launcher.wait(timeout=max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return None

    def said(self):
        self.errors.seek(0)
        return self.errors.read()

    def give_up(self):
        for pid in self.processes().values():
            send(pid, signal.SIGKILL)
        self.launcher.kill()
        self.launcher.wait()


def send(pid, number):
    """Whether the process was there to get the signal."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


class Harness:
    def __init__(self, arguments, scratch):
        self.truing, self.scratch = str(pathlib.Path(arguments.truing).resolve()), scratch
        self.settings = [word for setting in arguments.set for word in ("--set", setting)]
        self.n_steps, self.n_left, self.n_jobs, self.n_folders = arguments.steps, arguments.rounds, 0, 0
        self.recipe = write_inputs(scratch, arguments.steps)
        self.generator = random.Random(arguments.seed)
        self.counts = {kind: {"rounds": 0, "before_all_joined": 0, "longest_seconds": 0.0} for kind in KINDS}
        self.references, self.problems = {}, []

    def folder(self):
        self.n_folders += 1
        return self.scratch / f"run-{self.n_folders}"

    def reference(self, n_ranks):
        job = Job(self, self.folder(), n_ranks)
        status = job.wait(20 * HANG_SECONDS)
        if status != 0:
            job.give_up()
            sys.exit(f"the job that nobody disturbs ended with {status}:\n{job.said()[-2000:]}")
        self.references[n_ranks] = (digest(job.folder), time.monotonic() - job.started)

    def disturb(self, job):
        """Sends a signal at a random moment. Returns the kind, the rank, whether all ranks had joined, and the time;
        `None` where the rank had not begun, or the job had ended."""
        if job.wait(self.generator.uniform(0.0, self.references[job.n_ranks][1])) is not None:
            return None
        kind, rank = self.generator.choice(KINDS), self.generator.randrange(job.n_ranks)
        delay = self.generator.uniform(0.1, LONGEST_DELAY_SECONDS)
        # Rank 0 makes the folder after all have joined. In a folder that is there only time tells.
        has_joined = job.folder.exists() and time.monotonic() - job.started > JOIN_SECONDS
        pid = job.processes().get(rank)
        if pid is None or not send(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP):
            return None
        sent = time.monotonic()
        if kind == "delay":
            time.sleep(delay)
            send(pid, signal.SIGCONT)
        self.n_left -= 1
        self.counts[kind]["rounds"] += 1
        self.counts[kind]["before_all_joined"] += not has_joined
        return kind, rank, has_joined, sent

    def check_end(self, job, disturbance):
        """Waits for the end of a disturbed job; returns its status, `None` where it was given up."""
        kind, rank, has_joined, sent = disturbance
        what = f"{kind} of rank {rank} of {job.n_ranks} in {job.folder.name}"
        status = job.wait(HANG_SECONDS)
        seconds = time.monotonic() - sent
        if status is None:
            job.give_up()
            self.problems.append(f"{what}: the job hangs\n{job.said()[-1000:]}")
            return None
        if kind == "delay":
            # A delay while the ranks find each other may be longer than they wait.
            if status != 0 and has_joined:
                self.problems.append(f"{what}: the job ended with {status}\n{job.said()[-1000:]}")
            return status
        if status == 0:
            # The rank had done its part, or rank 0 does not need it any more.
            return status
        count = self.counts[kind]
        count["longest_seconds"] = round(max(count["longest_seconds"], seconds), 2)
        if seconds > (LIMIT_SECONDS if has_joined else LIMIT_SECONDS_BEFORE_JOINED):
            self.problems.append(f"{what}: the job ended after {seconds:.1f} s")
        said = job.said()
        if not re.search(rf"ranks? (\d+, )*{rank}\b", said):
            self.problems.append(f"{what}: the rank is not named\n{said[-1000:]}")
        return status

    def train_until_it_ends(self, n_ranks):
        """Runs one folder to its end, with disturbances while there are rounds left."""
        folder, n_disturbed = self.folder(), 0
        while True:
            job = Job(self, folder, n_ranks)
            disturbance = self.disturb(job) if self.n_left > 0 else None
            if disturbance:
                n_disturbed += 1
                status = self.check_end(job, disturbance)
            else:
                status = job.wait(20 * HANG_SECONDS)
                if status != 0:
                    job.give_up()
                    self.problems.append(f"{folder.name} after {n_disturbed} disturbances: an undisturbed job ended "
                                         f"with {status}\n{job.said()[-1000:]}")
                    return
            if status == 0:
                break
        if digest(folder) != self.references[n_ranks][0]:
            self.problems.append(f"{folder.name}: other weights after {n_disturbed} disturbances of {n_ranks} ranks")
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [row["step"] for row in rows if "loss" in row]
        if steps != list(range(1, self.n_steps + 1)):
            self.problems.append(f"{folder.name}: metrics have gaps or repeats: {steps}")


def digest(folder):
    path = folder / "model" / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truing")
    parser.add_argument("--rounds", type=int, default=100, help="kills, stops and delays in all")
    parser.add_argument("--ranks", default="2,3", help="numbers of ranks, taken in turn")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps of a run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe; may be repeated")
    arguments = parser.parse_args()
    worlds = [int(n_ranks) for n_ranks in arguments.ranks.split(",")]
    if min(worlds) < 2:
        parser.error(f"--ranks: {arguments.ranks}: expected numbers from 2")
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="kill-ranks-"))
    harness = Harness(arguments, scratch)
    for n_ranks in worlds:
        harness.reference(n_ranks)
    while harness.n_left > 0:
        harness.train_until_it_ends(worlds[harness.n_folders % len(worlds)])
    for kind, count in harness.counts.items():
        print(json.dumps({"kind": kind, **count}))
    print(json.dumps({"runs": harness.n_folders - len(worlds), "jobs": harness.n_jobs, "ranks": worlds,
                      "seconds_of_a_run": {n: round(seconds, 2) for n, (_, seconds) in harness.references.items()},
                      "problems": harness.problems}))
    if harness.problems:
        print(f"the folders are kept in {scratch}", file=sys.stderr)
        return 1
    shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
