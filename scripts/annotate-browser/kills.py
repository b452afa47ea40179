"""Kills the annotation server at random moments while annotators send answers, and looks for what was acknowledged.

Every acknowledged answer must be in the journal, once. Clients replay what was not acknowledged, as browsers do.

    kills.py TRUING SCRATCH [--kills 1000] [--seed 1]
"""

import argparse
import http.client
import json
import pathlib
import random
import subprocess
import sys
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
    rows = (json.dumps({"id": f"i{idx}", "prompt": f"Say {idx}.", "responses": ["a", "b"]}) for idx in range(n_items))
    (folder / "items.jsonl").write_text("".join(row + "\n" for row in rows))


def start(truing, folder, port):
    command = [truing, "annotate", "serve", str(folder / "recipe.toml"), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line.startswith(PORT_LINE):
            return process, int(line.split()[2].rsplit(":", 1)[1].strip("/(),"))
    sys.exit("the server did not start")


class Annotator(threading.Thread):
    """Answers items and repeats what was not acknowledged."""

    def __init__(self, idx, port):
        super().__init__(daemon=True)
        self.idx, self.port = idx, port
        self.acknowledged, self.is_over, self.problem = {}, False, None

    def call(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {TOKENS[self.idx]}", "Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def until_answered(self, path, body):
        while not self.is_over:
            try:
                return self.call(path, body)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.005)
        return None, None

    def run(self):
        n_sent = 0
        while not self.is_over:
            _, reply = self.until_answered("/api/next", {})
            if reply is None or reply["item"] is None:
                return
            item = reply["item"]
            n_sent += 1
            submission = {
                "submission": f"a{self.idx}-{n_sent}", "item": item["item"], "item_digest": item["item_digest"],
                "version": item["version"], "answers": {"q": {"ranks": [1, 1 + n_sent % 2]}}, "order": [0, 1],
                "started_ms": 1, "finished_ms": 2}
            status, reply = self.until_answered("/api/submit", submission)
            if status == 200:
                self.acknowledged[submission["submission"]] = reply["stored"]
            elif status is not None:
                self.problem = f"status {status}: {reply}"
                return


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("truing")
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    write_project(arguments.scratch, 20 * arguments.kills)
    process, port = start(arguments.truing, arguments.scratch, 0)
    annotators = [Annotator(idx, port) for idx in range(N_ANNOTATORS)]
    for annotator in annotators:
        annotator.start()
    for _ in range(arguments.kills):
        time.sleep(generator.uniform(0.0, 0.03))
        process.kill()
        process.wait()
        process, _ = start(arguments.truing, arguments.scratch, port)
    for annotator in annotators:
        annotator.is_over = True
    for annotator in annotators:
        annotator.join(30)
    process.kill()
    process.wait()
    problems = [annotator.problem for annotator in annotators if annotator.problem]
    journal = (arguments.scratch / "project" / "annotations.jsonl").read_bytes()
    stored = [json.loads(line) for line in journal[:journal.rfind(b"\n") + 1].splitlines()]
    by_name = {entry["submission"]: entry for entry in stored}
    acknowledged = {name: entry for annotator in annotators for name, entry in annotator.acknowledged.items()}
    # A page is told another name of the item than the journal has.
    lost = [name for name, entry in acknowledged.items()
            if {**by_name.get(name, {}), "item": entry["item"]} != entry]
    print(f"{arguments.kills} kills, {len(acknowledged)} answers acknowledged, {len(stored)} stored, {len(lost)} lost")
    if lost or problems or len(by_name) < len(stored) or not acknowledged:
        sys.exit(f"lost: {lost[:5]}; stored twice: {len(stored) - len(by_name)}; problems: {problems}")


if __name__ == "__main__":
    main()
