#!/usr/bin/env python3
"""Operations, bytes and floor time of each part of one training step: what no implementation can beat.

    python roofline.py --gflops 250 --gbytes 39 --tokens 1024 --attention-length 255 --loss-share 0.51

A part cannot be faster than its multiply-adds at the machine's peak, nor than its memory traffic at the machine's
bandwidth; its floor is the larger of the two. Bytes are the least: each operand of a part crosses memory once,
everything in float32. Exponentials, indices and reductions count as nothing. The shape is SmolLM2-135M's.
"""
import argparse

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCABULARY = 30, 576, 9, 3, 64, 1536, 49152
FLOAT = 4


def product(rows, inner, columns):
    """Operations and bytes of [rows, inner] x [inner, columns]."""
    return 2 * rows * inner * columns, FLOAT * (rows * inner + inner * columns + rows * columns)


def times(n, pair):
    return n * pair[0], n * pair[1]


def plus(*pairs):
    return sum(p[0] for p in pairs), sum(p[1] for p in pairs)


def linear(tokens, inputs, outputs):
    """Forward; backward (of the input and of the weight); recompute."""
    forward = product(tokens, inputs, outputs)
    backward = plus(product(tokens, outputs, inputs), product(inputs, tokens, outputs))
    return forward, backward, forward


def parts(tokens, attention_length, loss_tokens):
    """Name, forward, backward, recompute; each a pair of operations and bytes of the whole model."""
    kv_width = KV_HEADS * HEAD_DIM
    per_layer = [
        ("q", linear(tokens, WIDTH, WIDTH)),
        ("k, v", [times(2, x) for x in linear(tokens, WIDTH, kv_width)]),
        ("o", linear(tokens, WIDTH, WIDTH)),
        ("gate, up", [times(2, x) for x in linear(tokens, WIDTH, INNER)]),
        ("down", linear(tokens, INNER, WIDTH)),
    ]
    # Causal: a token sees itself and what came before. Scores and weighted sum forward; scores again and the
    # gradients of values, weights, queries and keys backward.
    pairs = tokens * (attention_length + 1) / 2
    unit = 2 * pairs * HEADS * HEAD_DIM
    rows = FLOAT * tokens * (2 * WIDTH + 2 * kv_width)
    attention = (2 * unit, rows), (5 * unit, 2 * rows + FLOAT * tokens * WIDTH), (2 * unit, rows)
    per_layer.append(("attention", attention))
    # Least passes: a norm reads and writes one row, its backward reads two and writes one; and so on.
    norm = FLOAT * tokens * WIDTH
    rotary = FLOAT * tokens * 2 * (WIDTH + kv_width)
    swiglu = FLOAT * tokens * INNER
    residual = 3 * norm
    light = (0, 2 * 2 * norm + rotary + 3 * swiglu + 2 * residual)
    light_backward = (0, 2 * 3 * norm + rotary + 5 * swiglu + 2 * residual)
    per_layer.append(("norms, rotary, swiglu, residuals", (light, light_backward, light)))
    rows = [(name, *[times(LAYERS, x) for x in three]) for name, three in per_layer]

    nothing = (0, 0)
    embedding = FLOAT * tokens * WIDTH
    rows.insert(0, ("embedding", (0, 2 * embedding), (0, 3 * embedding), nothing))
    # The logits never leave the cache; the head's weights are read once a direction. Only tokens with loss.
    head = 2 * loss_tokens * WIDTH * VOCABULARY
    weight = FLOAT * WIDTH * VOCABULARY
    hidden = FLOAT * loss_tokens * WIDTH
    rows.append(("head and loss, tokens with loss", (head, weight + hidden), (2 * head, 3 * weight + 3 * hidden), nothing))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gflops", type=float, required=True, help="peak float32 multiply-add rate (machine.rs)")
    parser.add_argument("--gbytes", type=float, required=True, help="memory bandwidth (machine.rs)")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--attention-length", type=int, help="length of equal sequences with as many pairs; default: one sequence")
    parser.add_argument("--loss-share", type=float, default=1.0)
    options = parser.parse_args()
    tokens = options.tokens
    rows = parts(tokens, options.attention_length or tokens, round(tokens * options.loss_share))
    parameters = VOCABULARY * WIDTH + WIDTH + LAYERS * (
        2 * WIDTH * WIDTH + 2 * WIDTH * KV_HEADS * HEAD_DIM + 3 * WIDTH * INNER + 2 * WIDTH)

    def floor(pair):
        return max(pair[0] / options.gflops, pair[1] / options.gbytes) / 1e6

    # Parameter, gradient and both moments are read; all but the gradient are written; the norm reads the gradient
    # once more, and clearing writes it.
    rows.append(("optimiser (norm, AdamW, clearing)", (0, 0), (0, FLOAT * parameters * (4 + 3 + 1 + 1)), (0, 0)))
    total = sum(floor(x) for _, *three in rows for x in three)
    print("| part | GFLOP forward | backward | recompute | GB, all three | floor forward, ms | backward | recompute | sum | share |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    sums = [0.0] * 8
    for name, *three in rows:
        gflop = [x[0] / 1e9 for x in three]
        cells = [*gflop, sum(x[1] for x in three) / 1e9, *map(floor, three), sum(map(floor, three))]
        sums = [a + b for a, b in zip(sums, cells)]
        print_row(name, cells, total)
    print_row("**step**", sums, total)
    kept = total - sums[6]
    print(f"\n{tokens} tokens: at most {tokens / total * 1e3:.0f} tokens/s when every layer is recomputed, "
          f"{tokens / kept * 1e3:.0f} when none is; {sum(sums[:3]):.0f} GFLOP a step.")


def print_row(name, cells, total):
    text = [f"{x:.1f}" if x else "" for x in cells[:3]] + [f"{cells[3]:.2f}"] + [f"{x:.0f}" if x else "" for x in cells[4:]]
    print(f"| {name} | " + " | ".join(text) + f" | {100 * cells[-1] / total:.1f} % |")


main()
