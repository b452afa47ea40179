#!/usr/bin/env python3
"""llama.cpp reading prompts and decoding several sequences at once, through the C interface of llama-cpp-python.

    python generate_llamacpp.py --gguf MODEL.gguf --prompts PROMPTS.jsonl --batches 1,8,32 --new 64 --threads 2

One JSON line a batch. Prompts are read one by one, as many tokens at once as there are; then every call decodes one
token of each sequence and takes the highest logit of each. `--prepare SOURCE` instead writes MODEL.gguf: `f32` from
SOURCE's numbers, `q8_0` from an f32 file with llama.cpp's own quantiser (head and embedding included).
"""
import argparse
import ctypes
import json
import time

import llama_cpp as llama
import numpy as np

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def prepare(source, target, kind):
    if kind == "q8_0":
        options = llama.llama_model_quantize_default_params()
        options.ftype = llama.LLAMA_FTYPE_MOSTLY_Q8_0
        if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options)) != 0:
            raise SystemExit(f"{source} could not be quantised")
        return
    import gguf
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    left_out = {"general.architecture", "general.file_type", "general.quantization_version"}
    for name, field in reader.fields.items():
        if name in left_out or name.startswith("GGUF."):
            continue
        element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=element)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(numbers, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Model:
    def __init__(self, path, threads):
        llama.llama_backend_init()
        options = llama.llama_model_default_params()
        options.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(path.encode(), options)
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.n_vocab = llama.llama_vocab_n_tokens(self.vocab)
        self.threads = threads

    def tokens(self, prompt):
        text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        text = text.encode()
        found = (llama.llama_token * (len(text) + 8))()
        n = llama.llama_tokenize(self.vocab, text, len(text), found, len(found), False, True)
        return list(found[:n])

    def measure(self, prompts, n_new):
        longest = max(map(len, prompts))
        options = llama.llama_context_default_params()
        options.n_ctx = max(512, len(prompts) * (longest + n_new + 8))
        options.n_batch = options.n_ubatch = max(512, longest)
        options.n_seq_max = len(prompts)
        options.n_threads = options.n_threads_batch = self.threads
        options.kv_unified = True
        context = llama.llama_init_from_model(self.model, options)
        batch = llama.llama_batch_init(options.n_batch, 0, 1)

        def decode(entries):
            """`(token, position, sequence, wants logits)` each; the highest logit's token where one is wanted."""
            batch.n_tokens = len(entries)
            for i, (token, position, sequence, wants) in enumerate(entries):
                batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            if llama.llama_decode(context, batch) != 0:
                raise SystemExit("llama_decode failed")
            rows = [i for i, entry in enumerate(entries) if entry[3]]
            logits = [llama.llama_get_logits_ith(context, i) for i in rows]
            return [int(np.ctypeslib.as_array(row, shape=(self.n_vocab,)).argmax()) for row in logits]

        def read(sequence, prompt):
            return decode([(token, i, sequence, i + 1 == len(prompt)) for i, token in enumerate(prompt)])[0]

        read(0, prompts[0])
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        last, reading, steps = [], [], []
        for sequence, prompt in enumerate(prompts):
            start = time.perf_counter()
            last.append(read(sequence, prompt))
            reading.append(time.perf_counter() - start)
        for step in range(n_new - 1):
            start = time.perf_counter()
            last = decode([(token, len(prompts[i]) + step, i, True) for i, token in enumerate(last)])
            steps.append(time.perf_counter() - start)
        llama.llama_batch_free(batch)
        llama.llama_free(context)
        n_read = sum(map(len, prompts))
        return {"batch": len(prompts), "read_tokens": n_read, "read_per_second": n_read / sum(reading),
                "fastest_read_per_second": max(len(prompt) / seconds for prompt, seconds in zip(prompts, reading)),
                "decoded_per_second": len(prompts) * len(steps) / sum(steps),
                "fastest_decoded_per_second": len(prompts) / min(steps)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--gguf", required=True)
    arguments.add_argument("--prompts")
    arguments.add_argument("--batches", default="1,8,32")
    arguments.add_argument("--new", type=int, default=64)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--prepare", metavar="SOURCE")
    arguments.add_argument("--kind", choices=["f32", "q8_0"], default="f32")
    options = arguments.parse_args()
    if options.prepare:
        return prepare(options.prepare, options.gguf, options.kind)
    model = Model(options.gguf, options.threads)
    with open(options.prompts, encoding="utf-8") as lines:
        prompts = [model.tokens(json.loads(line)["prompt"]) for line in lines]
    for batch in map(int, options.batches.split(",")):
        print(json.dumps(model.measure(prompts[:batch], options.new)), flush=True)


main()
