#!/usr/bin/env python3
"""Kills the annotation server at random moments while people send answers, and looks for what was acknowledged; and
measures how long the next item takes in a large project.

    annotate-kill-test.py TRUING [--kills 1000] [--items 100000] [--seed 1]

Four clients of plain HTTP ask for items and submit answers, and repeat what was not acknowledged, as browsers do. The
server is killed by SIGKILL and started again. Every acknowledged answer has to be in the journal once, as it was
acknowledged; none may be refused.

Then, with `--items` items, `/api/next` is timed while the four answer. `--kills 0` or `--items 0` leaves a part out.
Standard library only. Exits with status 1 where an answer was lost; nothing is asserted about times.
"""
import argparse
import http.client
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

N_ANNOTATORS = 4
TOKENS = [f"token-of-annotator-{idx}" for idx in range(N_ANNOTATORS)]
PORT_LINE = "listening on http://"


def write_project(folder, n_items):
    people = ", ".join(f'{{ name = "a{idx}", token = "{token}" }}' for idx, token in enumerate(TOKENS))
    (folder / "recipe.toml").write_text(
        f'output_dir = "project"\noverlap = {N_ANNOTATORS}\nowner_token = "token-of-owner"\n'
        f'data = [{{ path = "items.jsonl" }}]\nannotator = [{people}]\n'
        '[[question]]\nname = "q"\nannotation_type = "ranking"\n')
    with (folder / "items.jsonl").open("w") as file:
        for idx in range(n_items):
            file.write(json.dumps({"id": f"i{idx}", "prompt": f"Say {idx}.", "responses": ["a", "b"],
                                   "priority": idx * 7919 % 1000}) + "\n")


def start(truing, folder, port):
    command = [truing, "annotate", "serve", str(folder / "recipe.toml"), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line.startswith(PORT_LINE):
            return process, int(line.split()[2].rsplit(":", 1)[1].strip("/(),"))
    sys.exit(f"the server did not start: it ended with status {process.wait()}")


class Annotator(threading.Thread):
    """Answers items and repeats what was not acknowledged."""

    def __init__(self, idx, port, n_answers=None):
        super().__init__(daemon=True)
        self.idx, self.port, self.n_answers = idx, port, n_answers
        self.acknowledged, self.is_over, self.problem, self.n_repeats = {}, False, None, 0
        self.next_seconds, self.submit_seconds = [], []

    def call(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {TOKENS[self.idx]}", "Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def until_answered(self, path, body, times):
        while not self.is_over:
            started = time.perf_counter()
            try:
                answered = self.call(path, body)
                times.append(time.perf_counter() - started)
                return answered
            except (OSError, http.client.HTTPException, ValueError):
                self.n_repeats += 1
                time.sleep(0.005)
        return None, None

    def run(self):
        n_sent = 0
        while not self.is_over and n_sent != self.n_answers:
            _, reply = self.until_answered("/api/next", {}, self.next_seconds)
            if reply is None or reply["item"] is None:
                return
            item = reply["item"]
            n_sent += 1
            submission = {
                "submission": f"a{self.idx}-{n_sent}", "item": item["item"], "item_digest": item["item_digest"],
                "version": item["version"], "answers": {"q": {"ranks": [1, 1 + n_sent % 2]}}, "order": [0, 1],
                "started_ms": 1, "finished_ms": 2}
            status, reply = self.until_answered("/api/submit", submission, self.submit_seconds)
            if status == 200:
                self.acknowledged[submission["submission"]] = reply["stored"]
            elif status is not None:
                self.problem = f"status {status}: {reply}"
                return


def kill_at_random(truing, folder, n_kills, generator):
    """Kills the server so many times; returns what was found and whether all is well."""
    write_project(folder, 20 * n_kills)
    process, port = start(truing, folder, 0)
    annotators = [Annotator(idx, port) for idx in range(N_ANNOTATORS)]
    for annotator in annotators:
        annotator.start()
    for _ in range(n_kills):
        time.sleep(generator.uniform(0.0, 0.03))
        process.kill()
        process.wait()
        process, _ = start(truing, folder, port)
    for annotator in annotators:
        annotator.is_over = True
    for annotator in annotators:
        annotator.join(30)
    process.kill()
    process.wait()
    journal = (folder / "project" / "annotations.jsonl").read_bytes()
    stored = [json.loads(line) for line in journal[:journal.rfind(b"\n") + 1].splitlines()]
    by_name = {entry["submission"]: entry for entry in stored}
    acknowledged = {name: entry for annotator in annotators for name, entry in annotator.acknowledged.items()}
    # A page has another name for the item than the journal.
    lost = [name for name, entry in acknowledged.items()
            if {**by_name.get(name, {}), "item": entry["item"]} != entry]
    found = {"kills": n_kills, "acknowledged": len(acknowledged), "stored": len(stored), "lost": len(lost),
             "stored_twice": len(stored) - len(by_name), "repeats": sum(one.n_repeats for one in annotators),
             "problems": [one.problem for one in annotators if one.problem] + lost[:5]}
    return found, bool(acknowledged) and not (lost or found["problems"] or found["stored_twice"])


def quantiles(seconds):
    ordered = sorted(seconds)
    at = lambda share: round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 2)
    return {"median_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "max_ms": at(1.0)}


def time_next(truing, folder, n_items, n_answers):
    """The times of the next item and of a submission, with four people at once."""
    write_project(folder, n_items)
    started = time.perf_counter()
    process, port = start(truing, folder, 0)
    start_seconds = time.perf_counter() - started
    annotators = [Annotator(idx, port, n_answers) for idx in range(N_ANNOTATORS)]
    for annotator in annotators:
        annotator.start()
    for annotator in annotators:
        annotator.join()
    process.kill()
    process.wait()
    each = {"next": [time for one in annotators for time in one.next_seconds],
            "submit": [time for one in annotators for time in one.submit_seconds]}
    return {"items": n_items, "start_seconds": round(start_seconds, 2),
            **{name: {"n": len(times), **quantiles(times)} for name, times in each.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truing")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--answers", type=int, default=1000, help="answers of each person while times are measured")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    truing, is_fine = str(pathlib.Path(arguments.truing).resolve()), True
    with tempfile.TemporaryDirectory(prefix="annotate-kill-test-") as scratch:
        for name in ("kills", "items"):
            (pathlib.Path(scratch) / name).mkdir()
        if arguments.kills:
            folder, generator = pathlib.Path(scratch) / "kills", random.Random(arguments.seed)
            found, is_fine = kill_at_random(truing, folder, arguments.kills, generator)
            print(json.dumps(found), flush=True)
        if arguments.items:
            folder = pathlib.Path(scratch) / "items"
            print(json.dumps(time_next(truing, folder, arguments.items, arguments.answers)), flush=True)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
