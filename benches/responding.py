#!/usr/bin/env python3
"""Throughput of `truing respond` as a share of a server's: many prompts, one sample each, and a mock server with a
fixed time for each reply.

    python responding.py --truing ../target/release/truing [--rows 10000] [--concurrency 32] [--seconds 0.1] [--runs 1]

The server works on as many requests at once as the client may send, each for the same time; its limit is
concurrency / seconds replies a second. Its throughput on this machine, beside other load, is measured before and after
by a client that only sends and receives. For truing the whole process is measured, from its start to its exit: reading,
sampling, filtering, scoring with a verifier, selecting and writing. Peak memory is that of the process. The output has
to have all rows.
"""
import argparse
import asyncio
import json
import pathlib
import tempfile
import time

import mock_chat
import running

RECIPE = """stage = "respond"
output_dir = "out"
min_score = 0.5
round_prompts = {round_prompts}
[[decoding]]
n = 1
max_new_tokens = 64
top_k = 0
[[data]]
path = "prompts.jsonl"
[[reward]]
kind = {{ exact_match = {{}} }}
[[model]]
name = "mock"
[model.server]
base_url = "http://127.0.0.1:{port}/v1"
model = "mock"
max_concurrency = {concurrency}
"""


def answer(text, _seed):
    number = int(text.split()[-1].rstrip("?"))
    return str(number + 1 if mock_chat.drawn(number) % 4 else number)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", required=True, type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.1, help="time of one reply")
    parser.add_argument("--round-prompts", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    for _ in range(arguments.runs):
        measure(arguments)


async def bare_client(port, n_requests, concurrency):
    """Replies a second to a client that does nothing with them."""
    left = iter(range(n_requests))

    async def connection():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            messages = [{"role": "user", "content": f"What follows {number}?"}]
            body = json.dumps({"model": "mock", "messages": messages}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        writer.close()

    started = time.monotonic()
    await asyncio.gather(*(connection() for _ in range(concurrency)))
    return n_requests / (time.monotonic() - started)


def measure(arguments):
    def given():
        server = mock_chat.MockChat(answer, arguments.seconds, arguments.concurrency)
        return asyncio.run(bare_client(server.port, max(arguments.rows // 5, 1), arguments.concurrency))

    before = given()
    server = mock_chat.MockChat(answer, arguments.seconds, arguments.concurrency)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "recipe.toml").write_text(RECIPE.format(
            port=server.port, concurrency=arguments.concurrency, round_prompts=arguments.round_prompts))
        rows = ({"prompt": f"What follows {n}?", "answer": str(n + 1)} for n in range(arguments.rows))
        (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        finished = running.run([arguments.truing.resolve(), "respond", folder / "recipe.toml"])
        n_rows = len((folder / "out/candidates.jsonl").read_text().splitlines())
        n_accepted = len((folder / "out/responses.jsonl").read_text().splitlines())
    assert (n_rows, server.n_requests) == (arguments.rows, arguments.rows), (n_rows, server.n_requests)
    rate, gives = arguments.rows / finished.seconds, (before + given()) / 2
    print(json.dumps({
        "rows": n_rows, "accepted": n_accepted,
        "concurrency": arguments.concurrency, "most_at_once": server.most_at_once,
        "replies_per_second": round(rate, 1), "server_gives": round(gives, 1), "share": round(rate / gives, 4),
        "server_could_give": round(arguments.concurrency / arguments.seconds, 1),
        "share_of_that": round(rate * arguments.seconds / arguments.concurrency, 4),
        "seconds": round(finished.seconds, 2), "peak_rss_mib": round(finished.peak_rss_mib, 1),
        "cores_used": round(finished.cores_own, 2), "cores_others": round(finished.cores_others, 2)}))


if __name__ == "__main__":
    main()
