#!/usr/bin/env python3
"""What the pipeline of the report gains on a small model, and the share of its stages.

    python headline.py --truing ../target/release/truing [--seeds 1,2,3] [--variants full,start,sft_alone] [--dry-run]

Each variant is recipes/pipeline_report.toml with other seeds or without a stage. All variants have one store: a stage
that several of them share runs once, and a second call continues where the first one stopped. Variants take as many
steps, and as many completions a step, in the stages that they have.

Printed are the shares of held-out items that pass, by variant and seed; the change from the model at the start; and
what the full pipeline has over each variant without a stage. The tests of single seeds are those of `truing evaluate
compare`. Over seeds an item's value is its mean over them, and the interval is a bootstrap of the items: it says what
other items would do to these runs. The columns of the seeds show what other seeds do. All figures are in headline.json.
"""
import argparse
import copy
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "pipeline_report.toml"
START_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# A benchmark of the recipe, and its metric that is 1 where an item passes.
TASKS = {"ifeval": "prompt_level_strict_acc", "answers": "score"}
N_RESAMPLES = 10_000
REFERENCE = re.compile(r"\$\{stages\.([^.}]+)\.[^}]+\}")


def full(stages):
    pass


def start(stages):
    del stages["evaluate"]


def sft_alone(stages):
    without_select(stages)
    stages["sft"]["with"]["data"] = stages["sft"]["with"]["data"][:1]
    stages["evaluate"]["with"]["model"]["model_name_or_path"] = "${stages.sft.model}"


def grpo_alone(stages):
    stages["grpo"]["with"]["model_name_or_path"] = START_MODEL
    without_reward_model(stages)


def without_select(stages):
    """The first rows of the file, which is in random order, in place of the selected ones."""
    n_rows = stages["select"]["with"]["selection"]["target_size"]
    for name in ("sft", "sft_2"):
        stages[name]["with"]["data"][0] = {"path": "train.jsonl", "max_samples": n_rows}
    stages["open"]["with"]["data"] = stages["select"]["with"]["data"]


def without_pas(stages):
    for name in ("sft", "sft_2"):
        stages[name]["with"]["data"] = stages[name]["with"]["data"][:1]


def without_reward_model(stages):
    del stages["grpo"]["with"]["reward_model"]


def without_merge(stages):
    for name in ("reward", "grpo"):
        stages[name]["with"]["model_name_or_path"] = "${stages.sft.model}"


def without_grpo(stages):
    stages["evaluate"]["with"]["model"]["model_name_or_path"] = "${stages.merge.model}"


VARIANTS = {function.__name__: function for function in (
    full, start, sft_alone, grpo_alone, without_select, without_pas, without_merge, without_reward_model, without_grpo)}


def set_seed(stages, seed):
    """Selection, the complement model and the evaluations have no seed of a run: they are the same for all."""
    for name, value in (("sft", seed), ("sft_2", 100 + seed), ("reward", seed), ("grpo", seed)):
        stages[name]["with"]["seed"] = value


def make_short(stages, n_steps, n_items):
    for name in ("complement", "sft", "sft_2", "reward", "grpo"):
        if n_steps is not None:
            stages[name]["with"]["max_steps"] = n_steps
    for name in ("start", "evaluate"):
        if n_items is not None:
            stages[name]["with"]["limit"] = n_items


def keep_needed(stages):
    """Drops the stages whose outputs nothing reads any more."""
    wanted = [name for name in ("start", "evaluate") if name in stages]
    needed = set(wanted)
    while wanted:
        reads = set(REFERENCE.findall(json.dumps(stages[wanted.pop()])))
        wanted += reads - needed
        needed |= reads
    return {name: stage for name, stage in stages.items() if name in needed}


def from_anywhere(value, folder):
    """Relative files as absolute ones: the variants lie in another folder than the recipe."""
    if isinstance(value, list):
        return [from_anywhere(entry, folder) for entry in value]
    if not isinstance(value, dict):
        return value
    made = {key: from_anywhere(entry, folder) for key, entry in value.items()}
    if isinstance(made.get("path"), str) and not made["path"].startswith("${"):
        made["path"] = os.path.normpath(folder / made["path"])
    return made


def toml(value):
    """A value in a line of TOML. What JSON writes as texts, numbers and booleans is TOML too."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def write_variant(work, recipe, variant, seed, options):
    stages = copy.deepcopy(recipe["stages"])
    set_seed(stages, seed)
    make_short(stages, options.max_steps, options.limit)
    VARIANTS[variant](stages)
    name = f"{variant}-{seed}"
    lines = ["[pipeline]", f"name = {toml(name)}", f"store = {toml(str(work / 'store'))}"]
    for stage, settings in keep_needed(stages).items():
        # Paths on top of a recipe are relative to that recipe's folder.
        if "recipe" in settings:
            settings["recipe"] = os.path.normpath(RECIPE.parent / settings["recipe"])
        else:
            settings = from_anywhere(settings, RECIPE.parent)
        lines += ["", f"[stages.{stage}]"] + [f"{key} = {toml(value)}" for key, value in settings.items()]
    path = work / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def call(options, *arguments):
    """Runs the program with its output on this one's."""
    command = [str(options.truing), *map(str, arguments)]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        sys.exit(f"{' '.join(command)}\nended with status {status}; the same call of this script continues")


def evaluation_of(work, variant, seed):
    return work / "pipeline-out" / f"{variant}-{seed}" / ("start" if variant == "start" else "evaluate")


def passed(folder):
    """Whether each item passes, by benchmark and name. An item without a score ends the script: it is not 0."""
    verdicts = {}
    for task, metric in TASKS.items():
        for line in (folder / f"items_{task}.jsonl").read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            score = item["score"]["measures"][f"{metric},none"]
            if "Ok" not in score:
                sys.exit(f"{folder}: item {item['item']['id']} of {task} has no score: {score}")
            verdicts[task, item["item"]["id"]] = float(score["Ok"]["value"])
    return verdicts


def paired_tests(options, first, second):
    """`truing evaluate compare` of two runs: by benchmark, the metric that says whether an item passes."""
    command = [str(options.truing), "evaluate", "compare", str(first), str(second), "--json", "--quiet"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    found = json.loads(done.stdout)["comparisons"]
    return {one["task"]: one for one in found if TASKS.get(one["task"]) == one["metric"]["name"]}


def mean_over_seeds(by_seed):
    """The value of each item, over the seeds."""
    return {item: statistics.fmean(verdicts[item] for verdicts in by_seed) for item in by_seed[0]}


def bootstrap(items, measure):
    """The 2.5 % and 97.5 % quantiles of a measure of resampled items; `None` where a sample has no value, or where all
    items changed alike, which says nothing about other items."""
    if len({other - one for one, other in items}) == 1:
        return None
    draw = random.Random(0)
    values = [measure(draw.choices(items, k=len(items))) for _ in range(N_RESAMPLES)]
    if None in values:
        return None
    values.sort()
    return values[int(0.025 * N_RESAMPLES)], values[int(0.975 * N_RESAMPLES) - 1]


def relative_gain(pairs):
    before = sum(one for one, _ in pairs)
    return sum(other for _, other in pairs) / before - 1 if before else None


def change(pairs):
    return sum(other - one for one, other in pairs) / len(pairs)


def compared(before, after):
    """Two variants over the seeds, on all items: the change and the relative gain, with intervals."""
    pairs = [(before[item], after[item]) for item in before]
    return {"change": change(pairs), "interval": bootstrap(pairs, change),
            "relative": relative_gain(pairs), "relative_interval": bootstrap(pairs, relative_gain)}


def rate(verdicts, task=None):
    return statistics.fmean(value for (of, _), value in verdicts.items() if task in (None, of))


def interval_text(interval, form):
    return "" if interval is None else " (" + " to ".join(form.format(bound) for bound in interval) + ")"


def print_table(heads, rows):
    for row in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def print_rates(results, seeds, n_items):
    rows = []
    for variant, by_seed in results.items():
        pooled = mean_over_seeds(by_seed)
        row = [variant] + [f"{rate(one):.3f}" for one in by_seed]
        row += [""] * (len(seeds) - len(by_seed)) + [f"{rate(pooled, task):.3f}" for task in (None, *TASKS)]
        rows.append(row)
    print(f"Pass rate of {n_items} held-out items, by seed and in the mean over the seeds; of these by benchmark\n")
    print_table(["variant", *(f"seed {seed}" for seed in seeds), "mean", *TASKS], rows)


def print_changes(title, first_head, found):
    rows = []
    for name, one in found.items():
        relative = "-" if one["relative"] is None else f"{one['relative']:+.0%}"
        relative += interval_text(one["relative_interval"], "{:+.0%}")
        rows.append([name, f"{one['change']:+.3f}{interval_text(one['interval'], '{:+.3f}')}", relative])
    print(f"{title}\n")
    print_table([first_head, "change, 95 % interval", "relative, 95 % interval"], rows)


def print_tests(title, found):
    rows = []
    for (name, seed), tests in found.items():
        for task, one in tests.items():
            bounds = one["difference"]["interval"]
            interval = interval_text((bounds["low"], bounds["high"]), "{:+.3f}") if bounds else ""
            counts = one.get("mcnemar") or {}
            gained, lost = (str(counts.get(key, "")) for key in ("n_second_only", "n_first_only"))
            rows.append([name, str(seed), task, f"{one['difference']['estimate']['mean']:+.3f}{interval}", gained, lost,
                         f"{one['p_value']:.2g}"])
    print(f"{title}\n")
    print_table(["variant", "seed", "benchmark", "change, 95 % interval", "gained", "lost", "p"], rows)


def report(options, work, variants, seeds):
    """Reads what the variants left, prints the tables and writes headline.json."""
    # The evaluation of the model at the start has no seed.
    seeds_of = {variant: seeds[:1] if variant == "start" else seeds for variant in variants}
    results = {variant: [passed(evaluation_of(work, variant, seed)) for seed in seeds_of[variant]]
               for variant in variants}
    if len({frozenset(verdicts) for by_seed in results.values() for verdicts in by_seed}) != 1:
        sys.exit("the variants were evaluated on different items: give another folder with --work")
    pooled = {variant: mean_over_seeds(by_seed) for variant, by_seed in results.items()}
    print_rates(results, seeds, len(next(iter(pooled.values()))))

    pairs_of = {"start": [("start", variant) for variant in variants if variant != "start" and "start" in variants],
                "full": [(variant, "full") for variant in variants
                         if variant not in ("full", "start") and "full" in variants]}
    titles = {"start": ("Change from the model at the start", "variant"),
              "full": ("The full pipeline against each other variant: of one without a stage, that stage's share",
                       "against")}
    figures = {}
    for group, pairs in pairs_of.items():
        if not pairs:
            continue
        title, head = titles[group]
        named = {second if group == "start" else first: (first, second) for first, second in pairs}
        found = {name: compared(pooled[first], pooled[second]) for name, (first, second) in named.items()}
        tests = {(name, seed): paired_tests(options, evaluation_of(work, first, seeds[0] if first == "start" else seed),
                                            evaluation_of(work, second, seed))
                 for name, (first, second) in named.items() for seed in seeds}
        print_changes(f"{title}, all items, mean over the seeds", head, found)
        print_tests(f"{title}, by seed (McNemar's exact test, not corrected for their number)", tests)
        figures[group] = {"over_seeds": found,
                          "by_seed": [{"variant": name, "seed": seed, "comparisons": one}
                                      for (name, seed), one in tests.items()]}
    rates = {variant: [{"seed": seed, "all": rate(one), **{task: rate(one, task) for task in TASKS}}
                       for seed, one in zip(seeds_of[variant], by_seed)] for variant, by_seed in results.items()}
    figures = {"pass_rates": rates, "against_start": figures.get("start"), "full_against": figures.get("full")}
    whole = json.dumps(figures, indent=1)
    (work / "headline.json").write_text(whole + "\n", encoding="utf-8")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs" / "headline",
                        help="folder of the recipes, the store and the results")
    parser.add_argument("--seeds", default="1,2,3", help="seeds, with commas")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="variants, with commas: " + ", ".join(VARIANTS))
    parser.add_argument("--dry-run", action="store_true", help="print the plans; run nothing")
    parser.add_argument("--max-steps", type=int,
                        help="to try the script: steps of each stage that trains (GRPO fails if no step had a signal)")
    parser.add_argument("--limit", type=int, help="to try the script: items of each benchmark")
    options = parser.parse_args()
    options.truing = options.truing.resolve()
    variants = options.variants.split(",")
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {unknown[0]}: expected one of {', '.join(VARIANTS)}")
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds {options.seeds}: expected whole numbers with commas")
    if len(set(seeds)) < len(seeds) or len(set(variants)) < len(variants):
        parser.error("a seed or a variant is given twice")
    return options, variants, seeds


def main():
    options, variants, seeds = arguments()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    for seed in seeds:
        for variant in variants:
            if variant == "start" and seed != seeds[0]:
                continue
            path = write_variant(work, recipe, variant, seed, options)
            print(f"== {path.stem}", flush=True)
            call(options, "pipeline", "plan" if options.dry_run else "apply", path)
    if not options.dry_run:
        report(options, work, variants, seeds)


if __name__ == "__main__":
    main()
