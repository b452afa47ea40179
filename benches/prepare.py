#!/usr/bin/env python3
"""Makes what every benchmark reads: the model as a transformers directory, and one set of conversations.

    python prepare.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --data DATA --out WORK

DATA is a folder with instructions/self_instruct_{seed_tasks,user_oriented}.jsonl, math/gsm8k_train.jsonl and
preferences/llmbar_*.jsonl (each may be gzipped). WORK receives

    model/       float32, with the tokenizer and chat template out of the GGUF; both programs load this one
    sft.jsonl    512 conversations of one user and one assistant turn, {"messages"}
    pairs.jsonl  pairs of answers, {"prompt", "chosen", "rejected"}
    prompts.jsonl  128 arithmetic questions, {"prompt", "answer"}
    stats.json   lengths of the conversations in tokens, how many carry loss
"""
import argparse
import gzip
import json
import os
import pathlib
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")

N_CONVERSATIONS = 512


def read_rows(stem):
    """Rows of `stem`.jsonl or `stem`.jsonl.gz. A line ends at a newline and nowhere else."""
    for path, opener in [(stem.with_name(stem.name + ".jsonl"), open), (stem.with_name(stem.name + ".jsonl.gz"), gzip.open)]:
        if path.exists():
            with opener(path, "rt", encoding="utf-8", newline="\n") as file:
                return [json.loads(line) for line in file if line.strip()]
    raise SystemExit(f"{stem}.jsonl(.gz) is missing")


def question_and_answer(row):
    if "question" in row:
        return row["question"], row["answer"]
    first = row["instances"][0]
    parts = [row["instruction"].strip(), first["input"].strip()]
    return "\n\n".join(part for part in parts if part), first["output"].strip()


def make_conversations(data):
    instructions = read_rows(data / "instructions/self_instruct_seed_tasks")
    instructions += read_rows(data / "instructions/self_instruct_user_oriented")
    pairs = [pair for pair in map(question_and_answer, instructions) if all(pair)]
    pairs += list(map(question_and_answer, read_rows(data / "math/gsm8k_train")[: max(0, N_CONVERSATIONS - len(pairs))]))
    random.Random(0).shuffle(pairs)
    return [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
            for q, a in pairs[:N_CONVERSATIONS]]


def make_pairs(data):
    """LLMBar's pairs, shuffled; `label` says which output is better."""
    rows = [row for path in sorted((data / "preferences").glob("llmbar_*.jsonl"))
            for row in read_rows(path.with_suffix(""))]
    pairs = [{"prompt": row["input"], "chosen": row[f"output_{row['label']}"],
              "rejected": row[f"output_{3 - row['label']}"]} for row in rows]
    random.Random(0).shuffle(pairs)
    return pairs


def make_prompts(data):
    rows = read_rows(data / "math/gsm8k_train")[:128]
    return [{"prompt": row["question"], "answer": row["answer"].rsplit("####", 1)[1].strip().replace(",", "")}
            for row in rows]


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_model(gguf, out):
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = gguf.resolve().parent, gguf.name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # transformers calls the model quantised, though its weights are plain float32 by now, and refuses to save it.
    model.hf_quantizer = None
    for config in (model.config, model.generation_config):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # The GGUF's pre-tokenizer `smollm` cuts numbers into digits; transformers' conversion leaves that out.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.save_pretrained(out)


def make_stats(conversations, model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lengths, loss_tokens = [], 0
    for row in conversations:
        whole = tokenizer(tokenizer.apply_chat_template(row["messages"], tokenize=False), add_special_tokens=False)
        lengths.append(len(whole["input_ids"]))
        answer = row["messages"][-1]["content"]
        # The end-of-turn token carries loss as well.
        loss_tokens += len(tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1
    lengths.sort()
    return {"conversations": len(lengths), "tokens": sum(lengths), "loss_tokens": loss_tokens,
            "loss_share": round(loss_tokens / sum(lengths), 4), "median": lengths[len(lengths) // 2],
            "longest": lengths[-1], "longer_than_1024": sum(n > 1024 for n in lengths),
            # Attention works on sum(n * (n + 1) / 2) pairs; a pack of equal sequences of this length has as many.
            "attention_length": round(sum(n * n for n in lengths) / sum(lengths))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    conversations = make_conversations(options.data)
    write_rows(options.out / "sft.jsonl", conversations)
    write_rows(options.out / "pairs.jsonl", make_pairs(options.data))
    write_rows(options.out / "prompts.jsonl", make_prompts(options.data))
    if not (options.out / "model" / "model.safetensors").exists():
        make_model(options.gguf, options.out / "model")
    stats = make_stats(conversations, options.out / "model")
    (options.out / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(stats))


if __name__ == "__main__":
    main()
