#!/usr/bin/env python3
"""One forward and backward pass over one long sequence with transformers: memory over the loaded model, and time.

    --checkpointing none     every activation is kept
    --checkpointing 1        transformers' own switch, every layer
    --checkpointing N        activation_checkpointing_enable(every_n_layers=N): every Nth layer, the others keep theirs
    --checkpointing group:K  groups of K layers, each one torch checkpoint, made by hand: the scheme `truing` uses

Gradients exist before the measurement, as they do from the second step on. The first pass warms up.
"""
import argparse
import json
import os
import threading
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


class LayerGroup(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, hidden, **rest):
        def run(hidden):
            for layer in self.layers:
                output = layer(hidden, **rest)
                hidden = output[0] if isinstance(output, tuple) else output
            return hidden

        return checkpoint(run, hidden, use_reentrant=False)


def enable_checkpointing(model, how):
    if how == "none":
        return
    if how.startswith("group:"):
        size, layers = int(how[len("group:"):]), list(model.model.layers)
        model.model.layers = torch.nn.ModuleList(
            LayerGroup(layers[first:first + size]) for first in range(0, len(layers), size))
        model.config.num_hidden_layers = len(model.model.layers)
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:len(model.model.layers)]
    elif how == "1":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.activation_checkpointing_enable(every_n_layers=int(how))


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class PeakWatch(threading.Thread):
    """The highest resident set while it runs; the kernel's own high-water mark would include loading."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.is_over = resident_mib(), False

    def run(self):
        while not self.is_over:
            self.peak = max(self.peak, resident_mib())
            time.sleep(0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--checkpointing", default="none")
    parser.add_argument("--passes", type=int, default=2, help="measured passes, after none or one that warms up")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation="sdpa")
    loaded = resident_mib()
    model.train()
    enable_checkpointing(model, options.checkpointing)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with_gradients = resident_mib()
    ids = torch.randint(0, model.config.vocab_size, (1, options.tokens))
    for _ in range(options.passes):
        watch = PeakWatch()
        watch.start()
        begin = time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        middle = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
        watch.is_over = True
        watch.join()
        # In place, for the same numbers on each pass.
        for parameter in model.parameters():
            parameter.grad.zero_()
        print(json.dumps({
            "checkpointing": options.checkpointing, "tokens": options.tokens, "loss": round(float(loss.detach()), 4),
            "forward_seconds": round(middle - begin, 2), "backward_seconds": round(end - middle, 2),
            "tokens_per_second": round(options.tokens / (end - begin), 1), "loaded_mib": round(loaded),
            "peak_over_loaded_mib": round(watch.peak - loaded), "peak_over_gradients_mib": round(watch.peak - with_gradients),
        }), flush=True)


main()
