#!/usr/bin/env python3
"""How fast `truing pipeline` takes digests: a large file in the page cache, and many files that are unchanged.

    pipeline_digests.py TRUING [--gib 4] [--files 100000] [--repeats 5] [--threads 1,2]

Times are those of whole `truing pipeline status` processes, start and end included. A file that is new to the store is
read once; `GB/s` is its size by the time that this takes more than a status without it. Then all is known, and only
the metadata of the files are looked at. Standard library only.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

RECIPE = """
[stages.reads]
uses = "command"
[stages.reads.with]
command = ["sh", "-c", 'echo done > "$1/done.txt"', "sh", "${output}"]
inputs = [INPUTS]
outputs = { done = "done.txt" }
"""
# A change of a file that is younger than this is not relied on, so its digest is not remembered.
SETTLED_SECONDS = 2.5


class Pipeline:
    def __init__(self, truing, folder, inputs):
        self.truing, self.folder = truing, folder
        folder.mkdir(exist_ok=True)
        (folder / "pipe.toml").write_text(RECIPE.replace("INPUTS", ", ".join(f'"{name}"' for name in inputs)))

    def run(self, command, threads):
        """Seconds of one process."""
        arguments = [self.truing, "--threads", str(threads), "pipeline", command, str(self.folder / "pipe.toml")]
        started = time.perf_counter()
        done = subprocess.run(arguments, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            sys.exit(f"{' '.join(arguments)}: status {done.returncode}: {done.stderr[-1000:]}")
        return seconds

    def forget(self):
        (self.folder / ".truing/store/digests").unlink(missing_ok=True)

    def times(self, threads, repeats, is_first):
        """Seconds of a status that knows nothing of the files, or everything."""
        if not is_first:
            self.run("status", threads)
        times = []
        for _ in range(repeats):
            if is_first:
                self.forget()
            times.append(self.run("status", threads))
        return times


def large_file(path, gib):
    block = os.urandom(1 << 26)
    with path.open("wb") as file:
        for _ in range(gib * 16):
            file.write(block)
    # Into the page cache, and out of what waits for the disk.
    os.sync()
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def many_files(folder, n_files):
    for idx in range(n_files):
        if idx % 1000 == 0:
            (folder / f"{idx // 1000:03}").mkdir(parents=True)
        (folder / f"{idx // 1000:03}" / f"{idx:06}.txt").write_text(f"file {idx}\n")


def best_and_median(times):
    return {"best_s": round(min(times), 3), "median_s": round(statistics.median(times), 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truing")
    parser.add_argument("--gib", type=int, default=4)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    arguments = parser.parse_args()
    truing = str(pathlib.Path(arguments.truing).resolve())
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="pipeline-digests-"))
    try:
        empty = Pipeline(truing, scratch / "empty", [])
        large = Pipeline(truing, scratch / "large", ["large.bin"])
        many = Pipeline(truing, scratch / "many", ["files"])
        large_file(large.folder / "large.bin", arguments.gib)
        many_files(many.folder / "files", arguments.files)
        time.sleep(SETTLED_SECONDS)
        for pipeline in (empty, large, many):
            pipeline.run("apply", 1)
        n_bytes = (large.folder / "large.bin").stat().st_size
        for threads in map(int, arguments.threads.split(",")):
            nothing = empty.times(threads, arguments.repeats, is_first=False)
            read = large.times(threads, arguments.repeats, is_first=True)
            known = large.times(threads, arguments.repeats, is_first=False)
            rate = n_bytes / (min(read) - min(nothing)) / 1e9
            print(json.dumps({"threads": threads, "status_without_files": best_and_median(nothing),
                              "gib": arguments.gib, "read": best_and_median(read), "gb_per_s": round(rate, 2),
                              "known": best_and_median(known)}), flush=True)
            read = many.times(threads, max(arguments.repeats // 2, 1), is_first=True)
            known = many.times(threads, arguments.repeats, is_first=False)
            print(json.dumps({"threads": threads, "files": arguments.files, "read": best_and_median(read),
                              "known": best_and_median(known)}), flush=True)
    finally:
        shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
