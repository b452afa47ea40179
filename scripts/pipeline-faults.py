#!/usr/bin/env python3
"""Tries faults of the machine on `truing pipeline`, with the real program.

    pipeline-faults.py TRUING [--only full_disk,damage,...] [--flips 60] [--seed 1]

full_disk     Recipe and store are on a file system with 16 KiB to 1.5 MiB of room (tmpfs; needs root). Expected:
              status 2 and what has no room; with room again the digests of an undisturbed run.
damage        One bit of a file of the store or of the lock file is changed, and its time of modification put back.
              Expected: a result that is used is made again; or status 2 and a reason. Never other digests and status 0.
shared_store  Four pipelines have one store, and `gc` runs beside them. Expected: each result is made once, and the lock
              files are equal.
clock         Inputs with times in the past and in the future, and another content under the same times. Expected: the
              changed one is found, nothing else runs.
half_way      A command fails after half of its output; a stage is killed. Expected: status 2, then the digests of an
              undisturbed run.
data_changes  An input, a gate's file, another stage's result or a model changes while a stage reads it. Expected:
              status 2 and no result of the stage.

Standard library only. Prints one JSON object for each fault; exits with status 1 where something is not as expected.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

import tiny_model

PATIENCE_SECONDS = 120

PIPELINE = """
[pipeline]
store = "STORE"

[stages.draw]
uses = "command"
[stages.draw.with]
command = ["python3", "draw.py", "${output}/rows.jsonl", "number.txt"]
inputs = ["draw.py", "number.txt"]
outputs = { rows = "rows.jsonl" }

[stages.review]
uses = "gate"
with = { file = "review.jsonl" }

[stages.join]
uses = "command"
[stages.join.with]
command = ["python3", "join.py", "${output}/rows.jsonl", "${stages.draw.rows}", "${stages.review.file}"]
inputs = ["join.py"]
outputs = { rows = "rows.jsonl" }

[stages.sft]
uses = "sft"
[stages.sft.with]
model_name_or_path = "model"
seed = 3
max_length = 256
packs_per_step = 2
max_steps = 6
learning_rate = 1e-3
save_steps = 3
data = [{ path = "${stages.join.rows}" }]

[stages.merge]
uses = "merge"
[stages.merge.with]
method = "linear"
models = [{ model = "model" }, { model = "${stages.sft.model}" }]
parameters = { weight = 0.5 }
"""

# Fails half way where a file `fails` is there; goes on slowly where `slow` is.
DRAW = '''
import json, pathlib, sys, time
number = int(pathlib.Path(sys.argv[2]).read_text())
with open(sys.argv[1], "w") as file:
    for n in range(20):
        file.write(json.dumps({"messages": [{"role": "user", "content": f"Say {n + number}."},
                                            {"role": "assistant", "content": "la " * (n % 7 + 1)}]}) + "\\n")
        file.flush()
        if n == 10 and pathlib.Path("fails").exists():
            sys.exit("half way")
        if pathlib.Path("slow").exists():
            time.sleep(0.05)
'''
JOIN = '''
import pathlib, sys, time
text = "".join(pathlib.Path(path).read_text() for path in sys.argv[2:])
if pathlib.Path("slow").exists():
    time.sleep(1)
pathlib.Path(sys.argv[1]).write_text(text)
'''
REVIEW = '{"messages": [{"role": "user", "content": "Good?"}, {"role": "assistant", "content": "yes"}]}\n'


class Folder:
    """A folder with a pipeline."""

    def __init__(self, truing, path, store=".truing/store"):
        self.truing, self.path, self.store = truing, path, store
        path.mkdir(exist_ok=True)
        tiny_model.write(path / "model")
        files = {"pipe.toml": PIPELINE.replace("STORE", store), "draw.py": DRAW, "join.py": JOIN, "number.txt": "0",
                 "review.jsonl": REVIEW}
        for name, text in files.items():
            (path / name).write_text(text)

    def start(self, command="apply", *more):
        arguments = [self.truing, "pipeline", command, str(self.path / "pipe.toml"), "--json", *more]
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env={**os.environ, "TMPDIR": tempfile.gettempdir()})

    def run(self, command="apply", *more):
        """Status, what was printed as JSON, and errors."""
        child = self.start(command, *more)
        said, errors = child.communicate(timeout=PATIENCE_SECONDS)
        return child.returncode, json.loads(said) if said.strip() else None, errors

    def digests(self):
        """The digests of all outputs in the lock file."""
        stages = tomllib.loads((self.path / "truing.lock").read_text())["pipelines"]["pipe"]
        found = {f"{stage}.{name}": output["blake3"] for stage, locked in stages.items()
                 for name, output in locked.get("outputs", {}).items()}
        # A merged model has the paths of its parts: its weights are compared instead.
        if found.pop("merge.model", None):
            weights = self.output("merge", "model/model.safetensors").read_bytes()
            found["merged weights"] = hashlib.sha256(weights).hexdigest()
        return found

    def output(self, stage, name):
        return self.path / "pipeline-out/pipe" / stage / name


def expect(problems, is_so, what):
    if not is_so:
        problems.append(what)


def undisturbed(truing, scratch):
    folder = Folder(truing, scratch / "undisturbed")
    status, _, errors = folder.run()
    if status != 0:
        sys.exit(f"the undisturbed run ended with status {status}: {errors}")
    return folder.digests()


def full_disk(truing, scratch, expected, _arguments):
    """The folder has the same path as that of every other size: nothing is in the way of equal digests."""
    place, problems, outcomes = scratch / "full", [], {}
    place.mkdir()
    sizes = [kib for power in range(4, 11) for kib in (2 ** power, 3 * 2 ** (power - 1))]
    for kib in sizes:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
        if mounted.returncode != 0:
            return {"skipped": mounted.stderr.decode().strip()}, []
        try:
            folder = Folder(truing, place / "work")
            used = int(subprocess.run(["df", "-k", "--output=used", str(place)], capture_output=True, text=True)
                       .stdout.split()[-1])
            remount = lambda size: subprocess.run(["mount", "-o", f"remount,size={size}k", str(place)], check=True)
            remount(used + kib)
            status, _, errors = folder.run()
            outcomes[kib] = status
            told = any(words in errors.lower() for words in ("no room", "no space", "storage full", "disk"))
            expect(problems, status == 0 or (status == 2 and told), f"{kib} KiB: status {status}: {errors[-600:]}")
            remount(used + 8192)
            status, _, errors = folder.run()
            expect(problems, status == 0, f"{kib} KiB, with room again: status {status}: {errors[-600:]}")
            expect(problems, status != 0 or folder.digests() == expected, f"{kib} KiB: other digests")
            status, said, _ = folder.run()
            expect(problems, status == 0 and not said["ran"], f"{kib} KiB: again {status} {said}")
        finally:
            subprocess.run(["umount", str(place)], check=True)
    return {"room_kib_and_status": outcomes}, problems


def damage(truing, scratch, expected, arguments):
    generator, problems, outcomes = random.Random(arguments.seed), [], {}
    good, folder_path = scratch / "good", scratch / "damage"
    folder = Folder(truing, folder_path)
    folder.run()
    folder_path.rename(good)
    files = [path.relative_to(good) for path in sorted(good.rglob("*"))
             if path.is_file() and not path.is_symlink() and path.stat().st_size > 0
             and (path.relative_to(good).parts[0] in (".truing", "truing.lock"))]
    for n in range(arguments.flips):
        # Every kind of file first, then any.
        name = files[n] if n < len(files) else generator.choice(files)
        if folder_path.exists():
            shutil.rmtree(folder_path)
        subprocess.run(["cp", "-a", str(good), str(folder_path)], check=True)
        path = folder_path / name
        times, content = path.stat(), bytearray(path.read_bytes())
        at = generator.randrange(len(content))
        content[at] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        status, said, errors = folder.run()
        kind = name.name if name.parts[0] != "truing.lock" else "truing.lock"
        ran = len(said["ran"]) if said else None
        outcome = f"status {status}, {ran} ran" if status == 0 else f"status {status}"
        outcomes.setdefault(kind, {}).setdefault(outcome, 0)
        outcomes[kind][outcome] += 1
        where = f"{name}, byte {at}"
        if status == 0:
            expect(problems, folder.digests() == expected, f"{where}: status 0 with other digests")
            broken = [str(link) for link in (folder_path / "pipeline-out/pipe").iterdir() if not link.exists()]
            expect(problems, not broken, f"{where}: broken links {broken}")
        else:
            expect(problems, status == 2 and "error" in errors and "panicked" not in errors,
                   f"{where}: status {status}: {errors[-600:]}")
    return {"files": len(files), "flips": arguments.flips, "outcomes": outcomes}, problems


def shared_store(truing, scratch, expected, _arguments):
    store, problems, n_gc = scratch / "shared-store", [], {}
    folders = [Folder(truing, scratch / f"shared-{n}", str(store)) for n in range(4)]
    for folder in folders:
        (folder.path / "slow").touch()
    children = [folder.start("apply", "--jobs", "2") for folder in folders]
    while any(child.poll() is None for child in children):
        status, _, _ = folders[0].run("gc")
        n_gc[status] = n_gc.get(status, 0) + 1
        time.sleep(0.05)
    ends = [(child.returncode, *child.communicate()) for child in children]
    for status, _, errors in ends:
        # One that starts while `gc` is at work ends with an error that says so.
        expect(problems, status == 0 or "gc` is at work" in errors, f"status {status}: {errors[-600:]}")
    ran = sorted(stage for status, said, _ in ends if status == 0 for stage in json.loads(said)["ran"])
    expect(problems, ran == ["draw", "join", "merge", "sft"], f"ran: {ran}")
    for folder in folders:
        status, said, errors = folder.run()
        expect(problems, status == 0 and not said["ran"], f"again: {status} {said} {errors[-300:]}")
    locks = {(folder.path / "truing.lock").read_text() for folder in folders}
    expect(problems, len(locks) == 1, f"{len(locks)} different lock files")
    expect(problems, folders[0].digests() == expected, "other digests")
    return {"pipelines": len(folders), "ran": ran, "gc_statuses": n_gc}, problems


def clock(truing, scratch, expected, _arguments):
    folder, problems = Folder(truing, scratch / "clock"), []
    day = 86_400
    now = time.time()
    for shift in (-3650 * day, 3650 * day):
        for name in ("draw.py", "number.txt", "review.jsonl"):
            os.utime(folder.path / name, (now + shift, now + shift))
        status, said, _ = folder.run()
        expect(problems, status == 0 and folder.digests() == expected, f"times of {shift} s from now: {status} {said}")
    status, said, _ = folder.run()
    expect(problems, status == 0 and not said["ran"], f"again: {status} {said}")
    # Long enough ago for the digests to be remembered.
    time.sleep(2.5)
    folder.run()
    number = folder.path / "number.txt"
    times = number.stat()
    number.write_text("7")
    os.utime(number, ns=(times.st_atime_ns, times.st_mtime_ns))
    status, said, _ = folder.run()
    expect(problems, status == 0 and "draw" in said["ran"], f"a content under the same times: {status} {said}")
    number.write_text("0")
    os.utime(number, ns=(times.st_atime_ns, times.st_mtime_ns))
    status, said, _ = folder.run()
    expect(problems, status == 0 and not said["ran"] and folder.digests() == expected, f"back: {status} {said}")
    return {}, problems


def half_way(truing, scratch, expected, _arguments):
    folder, problems = Folder(truing, scratch / "half"), []
    (folder.path / "fails").touch()
    status, said, errors = folder.run()
    expect(problems, status == 2 and "draw" in errors, f"a command that fails: {status} {errors[-300:]}")
    (folder.path / "fails").unlink()
    # A program that eats the signal of its end: the stage is killed from outside.
    child = folder.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(folder.path.glob(".truing/store/runs/*/run/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.005)
    stages = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True).stdout.split()
    for pid in stages:
        os.kill(int(pid), 9)
    _, errors = child.communicate(timeout=PATIENCE_SECONDS)
    killed = child.returncode
    expect(problems, killed == 0 or (killed == 2 and "signal" in errors), f"a killed stage: {killed} {errors[-300:]}")
    status, said, errors = folder.run()
    expect(problems, status == 0 and folder.digests() == expected, f"afterwards: {status} {said} {errors[-300:]}")
    return {"killed_stage_status": killed}, problems


def while_it_runs(folder, child, has_begun, change):
    """Changes something as soon as a stage has begun."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        if has_begun():
            change()
            return
        time.sleep(0.002)


def data_changes(truing, scratch, expected, _arguments):
    """Each change: the stage that reads, a file of its run that says that it has begun, and what changes."""
    changes = {
        "input of a command": ("draw", "run/rows.jsonl", lambda folder: folder.path / "number.txt", "1"),
        "file of a gate": ("join", "stdout.txt", lambda folder: folder.path / "review.jsonl", REVIEW),
        "result of another stage": ("join", "stdout.txt", lambda folder: folder.output("draw", "rows.jsonl"), REVIEW),
        "model of a stage": (
            "sft", "run/metrics.jsonl", lambda folder: folder.path / "model/tokenizer_config.json", " "),
    }
    problems, outcomes = [], {}
    for n, (what, (stage, sign, changed, more)) in enumerate(changes.items()):
        folder = Folder(truing, scratch / f"changes-{n}")
        if stage == "join":
            # What is before it is up to date.
            folder.run()
            (folder.path / "join.py").write_text(JOIN + "\n")
        (folder.path / "slow").touch()
        child = folder.start()
        known = set(folder.path.glob(f".truing/store/runs/*/{sign}"))

        def has_begun():
            return set(folder.path.glob(f".truing/store/runs/*/{sign}")) - known

        def change():
            time.sleep(0.3 if stage == "join" else 0)
            path = changed(folder)
            path.write_text(path.read_text() + more)

        while_it_runs(folder, child, has_begun, change)
        _, errors = child.communicate(timeout=PATIENCE_SECONDS)
        outcomes[what] = child.returncode
        told = "changed while it ran" in errors or "is damaged" in errors
        expect(problems, child.returncode == 2 and told and f"`{stage}`" in errors,
               f"{what}: status {child.returncode}: {errors[-600:]}")
        (folder.path / "slow").unlink()
        (folder.path / "join.py").write_text(JOIN)
        status, _, errors = folder.run()
        expect(problems, status == 0, f"{what}, afterwards: {status} {errors[-300:]}")
        if what == "result of another stage":
            (folder.path / "join.py").write_text(JOIN + "\n")
            status, _, errors = folder.run()
            expect(problems, status == 0 and folder.digests() == expected, f"{what}: the damaged result was used")
    return {"statuses": outcomes}, problems


FAULTS = {fault.__name__: fault for fault in (full_disk, damage, shared_store, clock, half_way, data_changes)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truing")
    parser.add_argument("--only", default=",".join(FAULTS))
    parser.add_argument("--flips", type=int, default=60, help="damaged files, one at a time")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    truing, is_fine = str(pathlib.Path(arguments.truing).resolve()), True
    with tempfile.TemporaryDirectory(prefix="pipeline-faults-") as scratch:
        scratch = pathlib.Path(scratch)
        expected = undisturbed(truing, scratch)
        for name in arguments.only.split(","):
            found, problems = FAULTS[name](truing, scratch, expected, arguments)
            is_fine &= not problems
            print(json.dumps({"fault": name, **found, "problems": problems}), flush=True)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
