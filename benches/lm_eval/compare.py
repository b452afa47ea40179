#!/usr/bin/env python3
"""truing evaluate against lm-evaluation-harness: every log-likelihood, every choice, every metric; then tokens and time.

    python compare.py --truing ../../target/release/truing --model MODEL --work WORK [--pairs 2] [--tasks arc mmlu]

MODEL is a transformers directory in float32. Runs in the environment that has lm_eval. WORK receives the items and what
the programs wrote; runs that are there are not repeated. Status 1 if a bar is missed.

A log-likelihood may differ by 1e-4, a choice not at all. `--pairs N` runs each task of
`--time` N times with both programs, in alternating order, and prints medians of wall and processor seconds.
"""
import argparse
import dataclasses
import json
import math
import pathlib
import shutil
import statistics
import subprocess
import sys

from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import running  # noqa: E402

BAR = 1e-4


@dataclasses.dataclass(frozen=True)
class Task:
    benchmark: str
    file: str
    shots: int = 0
    # Only so many items.
    limit: int = 0
    # Tokens of the model's context, where it is made shorter: texts are cut.
    context: int = 0
    # The tokenizer begins every text with a token of its own, as Llama's does.
    adds_bos: bool = False
    settings: tuple = ()


TASKS = {
    "mmlu": Task("mmlu", "mmlu", 5),
    "arc": Task("arc", "arc"),
    "hellaswag": Task("hellaswag", "hellaswag"),
    "perplexity": Task("perplexity", "wikitext"),
    "arc_5_shot": Task("arc", "arc", 5),
    "mmlu_cut": Task("mmlu", "mmlu", 5, limit=8, context=128),
    "arc_cut": Task("arc", "arc", limit=8, context=16),
    "perplexity_windows": Task("perplexity", "wikitext", context=100),
    "arc_bos": Task("arc", "arc", limit=8, adds_bos=True),
    "arc_bos_added": Task("arc", "arc", limit=8, adds_bos=True, settings=("add_bos_token = true",)),
    "perplexity_bos": Task("perplexity", "wikitext", adds_bos=True),
}
PERPLEXITIES = ["word_perplexity", "byte_perplexity", "bits_per_byte"]
CHOICE_METRICS = ["acc", "acc_norm", "acc_bytes"]
# How truing packs: items that are computed together, tokens of a pack.
AT_A_TIME, BUDGET = 8, 2048


def variant(options, task):
    """The model, or a folder with the same weights, a shorter context or a tokenizer that adds a token."""
    if not task.context and not task.adds_bos:
        return options.model
    folder = options.work / f"model_{task.context or 'bos'}"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    for file in options.model.iterdir():
        (folder / file.name).symlink_to(file)

    def edit(name, change):
        content = json.loads((options.model / name).read_text(encoding="utf-8"))
        change(content)
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    if task.context:
        edit("config.json", lambda config: config.update(max_position_embeddings=task.context))
        return folder
    bos = json.loads((options.model / "tokenizer_config.json").read_text(encoding="utf-8"))["bos_token"]
    number = Tokenizer.from_file(str(options.model / "tokenizer.json")).token_to_id(bos)
    first, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    edit("tokenizer.json", lambda tokenizer: tokenizer.update(post_processor={
        "type": "TemplateProcessing", "single": [first, text], "pair": [first, text, second],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}}}))
    edit("tokenizer_config.json", lambda config: config.update(add_bos_token=True))
    return folder


def harness_file(options):
    return f"harness{options.softmax_dtype}{'_double' if options.double else ''}.json"


def commands(options, task, folder):
    """The two programs' command lines for a task; each writes into `folder`."""
    benchmark, file, shots = (this := TASKS[task]).benchmark, this.file, this.shots
    items, examples = options.work / "items" / f"{file}.jsonl", options.work / "items" / f"{file}_dev.jsonl"
    model, limit = variant(options, this), options.limit or this.limit
    recipe = folder / "recipe.toml"
    folder.mkdir(parents=True, exist_ok=True)
    recipe.write_text("\n".join([
        'stage = "evaluate"', f'output_dir = "{folder / "truing"}"', "apply_chat_template = false", *this.settings,
        "[model]", f'model_name_or_path = "{model}"', "[[task]]", f'name = "{benchmark}"', f'path = "{items}"',
        f"num_fewshot = {shots}", *([f'shots_path = "{examples}"'] if shots else []),
        *([f"limit = {limit}"] if limit else [])]), encoding="utf-8")
    ours = [options.truing, "evaluate", recipe]
    theirs = [sys.executable, HERE / "harness.py", "--model", model, "--task", benchmark, "--items", items,
              "--num-fewshot", shots, "--batch-size", options.batch_size, "--out", folder / harness_file(options)]
    if shots:
        theirs += ["--shots", examples]
    if options.double:
        theirs += ["--double"]
    if options.softmax_dtype:
        theirs += ["--softmax-dtype", options.softmax_dtype]
    if options.threads:
        ours += ["--threads", options.threads]
        theirs += ["--threads", options.threads]
    if limit:
        theirs += ["--limit", limit]
    return {"truing": ours, "lm-eval": theirs}


def run(options, command):
    """Runs it; with threads named, torch's libraries get the same number."""
    n = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)} if options.threads else {}
    return running.run(command, HF_HOME=str(options.work / "cache"), TOKENIZERS_PARALLELISM="false", **n)


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def likelihoods(sample):
    """Log-likelihood and whether it is greedy, of each option. Ours are written as strings, as the harness's files are."""
    return [(float(answer[0][0]), str(answer[0][1]) == "True") for answer in sample["resps"]]


def argmax(values):
    return max(range(len(values)), key=lambda place: (values[place], -place))


def choices(sums, options):
    return [argmax(sums), argmax([one / len(option) for one, option in zip(sums, options)]),
            argmax([one / len(option.encode()) for one, option in zip(sums, options)])]


def arguments(sample):
    """Pairs of context and continuation."""
    found = sample["arguments"]
    if isinstance(found, dict):
        return [(one["arg_0"], one["arg_1"]) for one in found.values()]
    return [tuple(one) for one in found]


def compare_choices(task, ours, theirs):
    """Differences over all items: contexts, log-likelihoods, greediness, choices; and the closest two options."""
    found = {"options": 0, "largest": 0.0, "contexts": 0, "greedy": 0, "choices": 0, "metrics": 0, "margin": math.inf}
    assert len(ours) == len(theirs), f"{task}: {len(ours)} items against {len(theirs)}"
    differences = []
    for our, their in zip(sorted(ours, key=lambda one: one["doc_id"]), sorted(theirs, key=lambda one: one["doc_id"])):
        found["contexts"] += arguments(our) != arguments(their)
        a, b = likelihoods(our), likelihoods(their)
        assert len(a) == len(b), f"{task} {our['doc_id']}: {len(a)} options against {len(b)}"
        differences += [abs(x - y) for (x, _), (y, _) in zip(a, b)]
        found["greedy"] += sum(x != y for (_, x), (_, y) in zip(a, b))
        # The continuation is a space and the option.
        options = [continuation[1:] for _, continuation in arguments(their)]
        for sums in ([x for x, _ in a], [y for y, _ in b]):
            ordered = sorted(sums)
            found["margin"] = min(found["margin"], ordered[-1] - ordered[-2])
        found["choices"] += choices([x for x, _ in a], options) != choices([y for y, _ in b], options)
        found["metrics"] += any(float(our[metric]) != float(their[metric]) for metric in CHOICE_METRICS)
    found |= {"options": len(differences), "largest": max(differences), "mean": statistics.mean(differences)}
    return found


def compare_results(task, ours, theirs):
    """Largest difference of a metric and of its standard error (a bootstrapped one is random, and not compared)."""
    rows = []
    is_perplexity = TASKS[task].benchmark == "perplexity"
    for metric in PERPLEXITIES if is_perplexity else CHOICE_METRICS:
        row = {"metric": metric, "truing": ours[f"{metric},none"], "lm-eval": theirs[f"{metric},none"]}
        if not is_perplexity:
            row |= {"truing stderr": ours[f"{metric}_stderr,none"], "lm-eval stderr": theirs[f"{metric}_stderr,none"]}
        rows.append(row)
    return rows


def own_tokens(model, samples):
    """Tokens that truing computes: the context once for all of its options that fit into a pack with it."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    count = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)  # noqa: E731
    total = 0
    for start in range(0, len(samples), AT_A_TIME):
        filled, shared = 0, None
        for sample in samples[start:start + AT_A_TIME]:
            for context, continuation in arguments(sample):
                before = count(context)
                option = count(context + continuation) - before
                cost = option + (0 if shared == context else before)
                if filled and filled + cost > BUDGET:
                    filled, cost = 0, option + before
                filled, shared = filled + cost, context
                total += cost
    return total


def count_tokens(options, theirs):
    """Tokens that went through the model; lm-eval's were counted at its calls, padding included."""
    ours, theirs = own_tokens(options.model, theirs["samples"]), theirs["computed"]["tokens"]
    return {"truing": ours, "lm-eval": theirs, "ratio": round(theirs / ours, 2)}


def parity(options, task):
    folder = options.work / task
    for name, command in commands(options, task, folder).items():
        done = harness_file(options) if name == "lm-eval" else "truing/results_2*.json"
        if not any(folder.glob(done)):
            if name == "truing":
                shutil.rmtree(folder / "truing", ignore_errors=True)
            run(options, command)
    benchmark = TASKS[task].benchmark
    theirs = json.loads((folder / harness_file(options)).read_text(encoding="utf-8"))
    newest = {kind: max((folder / "truing").glob(kind)) for kind in ("results_2*.json", f"samples_{benchmark}_2*.jsonl")}
    ours, samples = (newest[kind] for kind in newest)
    ours = json.loads(ours.read_text(encoding="utf-8"))["results"][benchmark]
    samples = read_lines(samples)
    report = {"task": task, "items": len(samples), "lm-eval": theirs["version"],
              "results": compare_results(task, ours, theirs["results"])}
    if benchmark == "perplexity":
        largest = max(abs(row["truing"] / row["lm-eval"] - 1) for row in report["results"])
        return report | {"largest relative": largest}, largest < BAR
    report |= compare_choices(task, samples, theirs["samples"])
    if not TASKS[task].context and not TASKS[task].adds_bos:
        report["tokens"] = count_tokens(options, theirs)
    apart = max(abs(row["truing" + of] - row["lm-eval" + of]) for row in report["results"] for of in ("", " stderr"))
    wrong = sum(report[key] for key in ("contexts", "greedy", "choices", "metrics"))
    return report | {"results apart": apart}, report["largest"] < BAR and wrong == 0 and apart < 1e-9


def timed(options, task):
    rows = {"truing": [], "lm-eval": []}
    folder = options.work / "timed"
    for pair in range(options.pairs):
        order = ["truing", "lm-eval"][:: 1 if pair % 2 == 0 else -1]
        for name in order:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            finished = run(options, commands(options, task, folder)[name])
            rows[name].append(finished)
            if name == "lm-eval":
                found = json.loads((folder / harness_file(options)).read_text(encoding="utf-8"))
            print(json.dumps({"pair": pair + 1, "task": task, "program": name, "wall s": round(finished.seconds, 1),
                              "processor s": round(finished.seconds * finished.cores_own, 1),
                              "own cores": round(finished.cores_own, 2), "others' cores": round(finished.cores_others, 2),
                              "peak MiB": round(finished.peak_rss_mib)}), flush=True)
    if TASKS[task].benchmark != "perplexity":
        print(json.dumps({"task": task, "items": len(found["samples"]), "tokens": count_tokens(options, found)}))
    for what, of in [("wall", lambda one: one.seconds), ("processor", lambda one: one.seconds * one.cores_own)]:
        ratios = [of(a) / of(b) for a, b in zip(rows["truing"], rows["lm-eval"])]
        print(json.dumps({"task": task, f"{what} time over lm-eval's": [round(ratio, 3) for ratio in ratios],
                          "median": round(running.median(ratios), 3)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--time", nargs="*", choices=TASKS, default=[])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--softmax-dtype", default="")
    parser.add_argument("--double", action="store_true", help="the harness computes the whole model in float64")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0)
    options = parser.parse_args()
    for name in ("truing", "model", "work"):
        setattr(options, name, getattr(options, name).resolve())
    subprocess.run([sys.executable, HERE / "make_items.py", options.work / "items"], check=True)
    is_met = True
    for task in options.tasks:
        report, is_good = parity(options, task)
        is_met &= is_good
        print(json.dumps(report | {"within the bar": is_good}), flush=True)
    for task in options.time:
        timed(options, task)
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
