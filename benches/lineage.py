#!/usr/bin/env python3
"""How long `truing pipeline lineage` and `impact` take on a pipeline of many rows.

    python lineage.py --truing ../target/release/truing [--rows 1000000] [--looks 9]

Two stages derive rows of about a kilobyte from rows of a file, each with a link to the row that it was made of. The
first look-up makes the indexes; the time of the others is that of the whole command, from the start of the process to
its end, with the plan of the pipeline in it. Rows are looked up by line and by id, at places spread over the file.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import running

DERIVE = """
import json, sys
source, target, prefix = sys.argv[1:]
with open(source) as rows, open(target, "w") as derived:
    for line, row in enumerate(rows, 1):
        row = json.loads(row)
        row["source"] = {"path": source, "line": line}
        row["model"] = prefix + str(line % 7)
        derived.write(json.dumps(row) + "\\n")
"""

STAGE = """
[stages.{name}]
uses = "command"
[stages.{name}.with]
command = ["{python}", "derive.py", "{source}", "${{output}}/rows.jsonl", "{name}-"]
inputs = ["derive.py", "{source}"]
outputs = {{ rows = "rows.jsonl" }}
"""


def write_pipeline(folder, n_rows):
    with open(folder / "rows.jsonl", "w") as rows:
        for number in range(n_rows):
            rows.write(json.dumps({"id": f"q{number}", "license": f"l{number % 100}", "text": "word " * 180}) + "\n")
    (folder / "derive.py").write_text(DERIVE)
    first = STAGE.format(name="first", python=sys.executable, source="rows.jsonl")
    second = STAGE.format(name="second", python=sys.executable, source="${stages.first.rows}")
    (folder / "pipe.toml").write_text(first + second)


def seconds_of(command):
    started = time.perf_counter()
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--looks", type=int, default=9)
    options = parser.parse_args()
    truing = [options.truing.resolve(), "pipeline"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_pipeline(folder, options.rows)
        recipe = folder / "pipe.toml"
        print(f"apply {seconds_of([*truing, 'apply', recipe])[0]:.1f} s", flush=True)
        # Files that were written just now are not remembered by the store: their digests are taken twice.
        time.sleep(3)
        look = [*truing, "lineage", recipe, "second"]
        print(f"first look-up, which makes the indexes {seconds_of([*look, 1])[0]:.1f} s", flush=True)
        for how in ("line", "id"):
            times = []
            for place in range(options.looks):
                line = 1 + place * (options.rows - 1) // max(1, options.looks - 1)
                seconds, said = seconds_of([*look, line if how == "line" else f"q{line - 1}", "--json"])
                row = json.loads(said)["row"]
                assert row["from"][0]["from"][0]["line"] == row["line"] == line, row
                times.append(seconds)
            print(f"look-up by {how}: median {1000 * running.median(times):.0f} ms, "
                  f"slowest {1000 * max(times):.0f} ms", flush=True)
        seconds, said = seconds_of([*truing, "impact", recipe, "--remove", "license=l7", "--json"])
        n_removed = sum(file["n_removed"] for file in json.loads(said)["impact"]["files"])
        print(f"impact of a hundredth of the rows: {seconds:.1f} s, {n_removed} rows are removed")


main()
