#!/usr/bin/env python3
"""mergekit's DARE with given entries: WORK/kept-0 and WORK/kept-1 differ from WORK/base where an entry of a model is kept.

    python dare_mergekit.py WORK FILE.yaml OUT
"""
import hashlib
import pathlib
import sys

import mergekit.sparsify
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors import safe_open

work, file, out = map(pathlib.Path, sys.argv[1:])


def key(delta):
    return hashlib.sha256(delta.contiguous().numpy().tobytes()).digest()


masks = {}
opened = {name: safe_open(work / name / "model.safetensors", "pt") for name in ("base", "a", "b", "kept-0", "kept-1")}
for tensor in opened["base"].keys():
    base = opened["base"].get_tensor(tensor)
    for model, kept in (("a", "kept-0"), ("b", "kept-1")):
        mask = opened[kept].get_tensor(tensor) != base
        masks[key(opened[model].get_tensor(tensor) - base)] = mask


def bernoulli(tensor, density, rescale_norm=None):
    return mergekit.sparsify.rescaled_masked_tensor(tensor, masks[key(tensor)].to(tensor.dtype), rescale_norm)


mergekit.sparsify.bernoulli = bernoulli
config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
run_merge(config, str(out), MergeOptions())
