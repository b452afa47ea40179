#!/usr/bin/env python3
"""`truing serve` against llama.cpp's server, pair by pair: same weights, same token ids in, as many tokens out, alternating.

    python serving.py --truing ../target/release/truing --gguf MODEL.gguf --work WORK [--pairs 3] [--clients 1,8,32]

Needs xllamacpp and gguf (`peers/serve_llamacpp.py`; `--python` names another interpreter that has them). WORK receives an f32 and a
Q8_0 file made of MODEL. truing's f32 meets llama.cpp's f32, truing's int8 its Q8_0; all servers run from the beginning on with two
threads, and all but one are idle at any time.

Every client sends `--requests` requests one after the other to `/v1/completions`, streamed, greedy, with `ignore_eos`: `--new` tokens after
a prompt of `--prompt` random token ids. No two prompts of a run are alike, so no server finds one in its cache. Counted are tokens
generated a second over the whole run, the reading of prompts included, and the time from a request to its first token. Then one client
(and seven beside it) decodes while a prompt of `--long` tokens arrives: the times between the first client's tokens from its arrival to
its first token. Time is taken by the client; a chunk of the stream is a token, random ids seldom make a chunk of none. Ratios are taken
inside a pair, ours over theirs.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import time
import urllib.request

import running

PAIRS = [("truing f32", "llama.cpp f32"), ("truing int8", "llama.cpp Q8_0")]


class Server:
    """A server as a child process; leaves with the benchmark."""

    def __init__(self, name, port, command, model):
        self.name, self.port, self.model = name, port, model
        self.log = open(f"{name.replace(' ', '_')}.log", "w", encoding="utf-8")
        self.child = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=self.log, stderr=self.log)

    def wait(self):
        for _ in range(1200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
            if self.child.poll() is not None:
                break
        sys.exit(f"{self.name} did not start, see {self.log.name}")

    def cpu_seconds(self):
        with open(f"/proc/{self.child.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self):
        with open(f"/proc/{self.child.pid}/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


async def stream(server, prompt, n_new):
    """Sends a request; when it was sent, and when each token arrived."""
    body = json.dumps({"model": server.model, "prompt": prompt, "max_tokens": n_new, "temperature": 0, "ignore_eos": True,
                       "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    started = time.perf_counter()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    status = await reader.readline()
    if b" 200 " not in status:
        sys.exit(f"{server.name}: {status.decode().strip()} {(await reader.read()).decode()[-500:]}")
    arrived = []
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:]).get("choices") or [{}]
            if "text" in choices[0] and (choices[0]["text"] or choices[0].get("finish_reason") is None):
                arrived.append(time.perf_counter())
    writer.close()
    return started, arrived


def prompt(draw, n_tokens):
    return [draw.randrange(1000, 40000) for _ in range(n_tokens)]


async def throughput(server, options, n_clients, draw):
    """Tokens a second of all clients, and each request's time to its first token."""
    prompts = [[prompt(draw, options.prompt) for _ in range(options.requests)] for _ in range(n_clients)]

    async def client(own):
        return [await stream(server, one, options.new) for one in own]

    started = time.perf_counter()
    done = [request for own in await asyncio.gather(*map(client, prompts)) for request in own]
    seconds = time.perf_counter() - started
    return len(done) * options.new / seconds, [arrived[0] - begun for begun, arrived in done]


async def gaps(server, options, n_clients, draw):
    """Times between tokens of the first client while a long prompt is read beside, and that prompt's time to its first token."""
    tasks = [asyncio.create_task(stream(server, prompt(draw, options.prompt), 400)) for _ in range(n_clients)]
    await asyncio.sleep(options.settle)
    begun, arrived = await stream(server, prompt(draw, options.long), 2)
    first = await tasks[0]
    for task in tasks[1:]:
        await task
    own = first[1]
    beside = [later - earlier for earlier, later in zip(own, own[1:]) if later > begun and earlier < arrived[0]]
    return beside, arrived[0] - begun


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def measured(server, work):
    """What `work` returns, with cores that the server used, and cores that others used, this client among them."""
    busy, cpu, started = running.busy_seconds(), server.cpu_seconds(), time.time()
    result = asyncio.run(work)
    seconds = time.time() - started
    own = server.cpu_seconds() - cpu
    return result, own / seconds, max(0.0, running.busy_seconds() - busy - own) / seconds


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(options):
    peer = running.HERE / "peers" / "serve_llamacpp.py"
    for kind in ("f32", "q8_0"):
        if not (options.work / f"{kind}.gguf").exists():
            running.run([options.python, peer, "--gguf", options.work / f"{kind}.gguf", "--prepare", options.gguf, "--kind", kind])
    most = max(options.clients)
    context = max(options.prompt + options.new, options.prompt + 400, options.long + 2) + 8
    servers = {}
    for kind, name in [("f32", "truing f32"), ("int8", "truing int8")]:
        port = free_port()
        command = [options.truing, "serve", "--model", f"m={options.work / 'f32.gguf'}", "--port", port, "--threads", options.threads, "--weights",
                   kind, "--max-num-seqs", max(most, 8), "--quiet"]
        servers[name] = Server(name, port, command, "m")
    for kind, name in [("f32", "llama.cpp f32"), ("q8_0", "llama.cpp Q8_0")]:
        port = free_port()
        command = [options.python, peer, "--gguf", options.work / f"{kind}.gguf", "--port", port, "--threads", options.threads, "--parallel",
                   max(most, 8), "--context", context]
        servers[name] = Server(name, port, command, "m")
    return servers


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--truing", required=True)
    arguments.add_argument("--gguf", required=True)
    arguments.add_argument("--work", type=pathlib.Path, required=True)
    arguments.add_argument("--python", default=sys.executable)
    arguments.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32])
    arguments.add_argument("--requests", type=int, default=2)
    arguments.add_argument("--prompt", type=int, default=72)
    arguments.add_argument("--new", type=int, default=64)
    arguments.add_argument("--long", type=int, default=1500)
    arguments.add_argument("--settle", type=float, default=3.0)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--pairs", type=int, default=3)
    options = arguments.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    options.gguf, options.truing = pathlib.Path(options.gguf).resolve(), pathlib.Path(options.truing).resolve()
    os.chdir(options.work)
    servers = start(options)
    try:
        for server in servers.values():
            server.wait()
            asyncio.run(stream(server, prompt(random.Random(0), options.prompt), 4))
        compare(options, servers)
    finally:
        for server in servers.values():
            server.child.kill()


def compare(options, servers):
    print("| pair | server | clients | tokens/s | first token, median, ms | own cores | others' |\n|---|---|---|---|---|---|---|", flush=True)
    speeds, waits, beside = {}, {}, {}
    for pair in range(options.pairs):
        for names in PAIRS:
            for n_clients in options.clients:
                for name in sorted(names, reverse=pair % 2 == 1):
                    draw = random.Random(f"{pair} {n_clients}")
                    (speed, firsts), own, others = measured(servers[name], throughput(servers[name], options, n_clients, draw))
                    speeds[pair, name, n_clients], waits[pair, name, n_clients] = speed, running.median(firsts)
                    print(f"| {pair + 1} | {name} | {n_clients} | {speed:.1f} | {1000 * running.median(firsts):.0f} | {own:.2f} | {others:.2f} |",
                          flush=True)
    print("\n| pair | server | clients | gap p50, ms | p99 | longest | long prompt's first token, s | own cores | others' |\n"
          "|---|---|---|---|---|---|---|---|---|", flush=True)
    for pair in range(options.pairs):
        for names in PAIRS:
            for n_clients in (1, 8):
                for name in sorted(names, reverse=pair % 2 == 1):
                    draw = random.Random(f"gaps {pair} {n_clients}")
                    (found, first), own, others = measured(servers[name], gaps(servers[name], options, n_clients, draw))
                    if not found:
                        continue
                    cells = " | ".join(f"{1000 * value:.0f}" for value in (running.median(found), quantile(found, 0.99), max(found)))
                    beside[pair, name, n_clients] = max(found)
                    print(f"| {pair + 1} | {name} | {n_clients} | {cells} | {first:.2f} | {own:.2f} | {others:.2f} |", flush=True)
    print()
    for what, values, clients in [("tokens/s", speeds, options.clients), ("first token", waits, options.clients), ("longest gap", beside, (1, 8))]:
        for ours, theirs in PAIRS:
            for n_clients in clients:
                pairs = [pair for pair in range(options.pairs) if (pair, ours, n_clients) in values and (pair, theirs, n_clients) in values]
                ratios = [values[pair, ours, n_clients] / values[pair, theirs, n_clients] for pair in pairs]
                if ratios:
                    print(f"{what}, {ours} over {theirs}, {n_clients} clients: {' '.join(f'{x:.2f}' for x in ratios)}, median "
                          f"{running.median(ratios):.2f}", flush=True)
    for server in servers.values():
        print(f"{server.name}: peak {server.peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()
