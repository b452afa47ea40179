#!/usr/bin/env python3
"""One sequence of 4096 tokens: memory over the loaded model and speed, `truing sft` against transformers.

    python long_sequence.py --truing ../target/release/truing --work WORK [--pairs 1] [--checkpointing none 1 2 group:5]

`truing` trains on one conversation cut to 4096 tokens, all but a few of them with loss, with as many layers a
segment as its planner chooses. transformers runs forward and backward over as many random tokens; see
peers/long_sequence_hf.py for the kinds of checkpointing. An optimiser is not part of the comparison: from
`truing`'s peak the model, its gradients and both AdamW moments are taken off (4 x the weights), from transformers'
peak the loaded model and its gradients, so what is left is activations, logits and working memory.
"""
import argparse
import json
import pathlib
import sys
import tempfile

import running


def weights_mib(model):
    """Size of the float32 weights, out of the file's header."""
    with open(model / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return max(ends) / 2**20


def write_long_conversation(work, out, n_tokens):
    """One answer that is far longer than `n_tokens`, made of the answers of the shared conversations."""
    answers = [json.loads(line)["messages"][-1]["content"] for line in open(work / "sft.jsonl", encoding="utf-8")]
    text = ""
    for answer in answers:
        text += answer + "\n"
        # A token is at most a few characters: twice as many as needed are cut to the budget by `truing`.
        if len(text) > 8 * n_tokens:
            break
    row = {"messages": [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": text}]}
    out.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--checkpointing", nargs="*", default=["none", "1", "2", "group:5"])
    parser.add_argument("--extra", default="", help="more lines for truing's recipe")
    options = parser.parse_args()
    options.work = options.work.resolve()
    weights = weights_mib(options.work / "model")
    print("| program | tokens/s | MiB over model (and gradients, moments) | whole peak MiB |")
    print("|---|---|---|---|", flush=True)
    for _ in range(options.pairs):
        if options.truing:
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                write_long_conversation(options.work, folder / "long.jsonl", options.tokens)
                recipe = running.truing_recipe(folder, model=options.work / "model", data=folder / "long.jsonl",
                                               pack=options.tokens, steps=3, extra=options.extra)
                ran = running.run_truing(options.truing, recipe)
            print(f"| truing | {running.tokens_per_second(ran.steps, 1):.1f} "
                  f"| {ran.finished.peak_rss_mib - 4 * weights:.0f} | {ran.finished.peak_rss_mib:.0f} |", flush=True)
        for kind in options.checkpointing:
            finished = running.run([sys.executable, running.HERE / "peers/long_sequence_hf.py", "--model",
                                    options.work / "model", "--tokens", options.tokens, "--checkpointing", kind])
            last = running.json_lines(finished.stdout)[-1]
            peak = max(row["peak_over_gradients_mib"] for row in running.json_lines(finished.stdout))
            print(f"| transformers, {kind} | {last['tokens_per_second']:.1f} | {peak} "
                  f"| {finished.peak_rss_mib:.0f} |", flush=True)


main()
