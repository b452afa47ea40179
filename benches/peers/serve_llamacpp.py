#!/usr/bin/env python3
"""llama.cpp's own HTTP server, out of the package xllamacpp (2026.10.11549 was measured), until standard input ends.

    python serve_llamacpp.py --gguf MODEL.gguf --port PORT --threads 2 --parallel 32 --context 1024

`--context` is that of each sequence. `--prepare SOURCE` instead writes MODEL.gguf (needs gguf): `f32` holds SOURCE's numbers, `q8_0` its
matrices in llama.cpp's 8 bits.
"""
import argparse
import sys


def prepare(source, target, kind):
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    left_out = {"general.architecture", "general.file_type", "general.quantization_version"}
    for name, field in reader.fields.items():
        if name in left_out or name.startswith("GGUF."):
            continue
        element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=element)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if kind == "q8_0" else gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        numbers = np.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if kind == "q8_0" and numbers.ndim == 2:
            q8_0 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quants.quantize(numbers, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(tensor.name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(options):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.gguf
    params.port = options.port
    params.n_parallel = options.parallel
    params.n_ctx = options.parallel * options.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_gpu_layers = 0
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gguf", required=True)
    arguments.add_argument("--prepare")
    arguments.add_argument("--kind", choices=["f32", "q8_0"], default="f32")
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--parallel", type=int, default=32)
    arguments.add_argument("--context", type=int, default=1024)
    options = arguments.parse_args()
    if options.prepare:
        prepare(options.prepare, options.gguf, options.kind)
    else:
        serve(options)


main()
