#!/usr/bin/env python3
"""The same mergekit files through mergekit and through truing: equal values, time, memory.

    VENV/bin/python benches/merging.py --truing target/release/truing --gguf SmolLM2-135M-Instruct.Q4_1.gguf --work WORK

WORK receives `base`, the GGUF as a float32 model, and `a`, `b`, `c`: the base with seeded noise, half of it shared, so that
their deltas point to one side as those of fine-tuned models do. Every method is one YAML file, which both programs read.
DARE draws its own entries in each program: for equal values mergekit gets the entries that truing kept (peers/dare_mergekit.py).
Methods with sums over whole tensors are also compared with float64.
"""
import argparse
import multiprocessing
import pathlib
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import prepare
import running

VARIANTS = {"a": 1, "b": 2, "c": 3}


def model(work, name, **parameters):
    lines = [f"  - model: {work / name}"]
    if parameters:
        lines += ["    parameters:"] + [f"      {key}: {value}" for key, value in parameters.items()]
    return "\n".join(lines)


def files(work):
    """Method and mergekit file."""
    def text(method, models, more="", base=True):
        head = f"merge_method: {method}\n" + (f"base_model: {work / 'base'}\n" if base else "")
        return f"{head}models:\n" + "\n".join(models) + f"\n{more}dtype: float32\n"

    abc = [model(work, name, weight=weight) for name, weight in [("a", 0.5), ("b", 0.3), ("c", 0.4)]]
    ab = [model(work, name, weight=weight, density=0.5) for name, weight in [("a", 0.6), ("b", 0.5)]]
    plain = [model(work, name) for name in VARIANTS]
    gradient = "parameters:\n  t:\n    - filter: self_attn\n      value: [0, 0.5, 0.3, 0.7, 1]\n    - value: 0.5\n"
    return {
        "linear of 3": text("linear", abc, base=False),
        "task arithmetic of 3": text("task_arithmetic", abc),
        "ties of 2": text("ties", ab, "parameters: {normalize: true}\n"),
        "dare_linear of 2": text("dare_linear", ab),
        "slerp": text("slerp", [model(work, "base"), model(work, "a")], gradient),
        "multislerp of 3": text("multislerp", abc),
        "breadcrumbs of 2": text("breadcrumbs", ab),
        "model stock of 3": text("model_stock", plain),
        "model stock of 3, row-wise": text("model_stock", plain, "parameters: {filter_wise: true}\n"),
    }


def make_models(options):
    """The base and its variants."""
    import numpy
    from safetensors import safe_open
    from safetensors.numpy import save_file

    base = options.work / "base"
    if not (base / "model.safetensors").exists():
        prepare.make_model(options.gguf, base)
    for name, seed in VARIANTS.items():
        folder = options.work / name
        if (folder / "model.safetensors").exists():
            continue
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        tensors = {}
        with safe_open(base / "model.safetensors", "numpy") as file:
            for i, tensor in enumerate(sorted(file.keys())):
                values = file.get_tensor(tensor)
                scale = 0.05 * float(values.std() or 0.1)
                for stream in (0, seed):
                    noise = numpy.random.default_rng([stream, i]).standard_normal(values.shape, numpy.float32)
                    values = values + numpy.float32(scale) * noise
                tensors[tensor] = values
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def opened(folder):
    """Tensors of a model by name, each read when asked for."""
    from safetensors import safe_open

    files = [safe_open(path, "numpy") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}


def spherical(tensor, n_layers, base, a):
    import numpy

    t = 0.5
    if "self_attn" in tensor:
        gradient = [0, 0.5, 0.3, 0.7, 1]
        place = int(tensor.split(".")[2]) / (n_layers - 1) * (len(gradient) - 1)
        low = int(place)
        t = gradient[low] + (place - low) * (gradient[min(low + 1, len(gradient) - 1)] - gradient[low])
    cosine = (a * base).sum() / numpy.sqrt((a * a).sum() * (base * base).sum())
    if abs(cosine) > 0.9995:
        return (1 - t) * base + t * a
    angle = numpy.arccos(cosine)
    return (numpy.sin((1 - t) * angle) * base + numpy.sin(t * angle) * a) / numpy.sin(angle)


def mean_direction(base, models, weights):
    import numpy

    weights = numpy.array(weights) / sum(weights)
    norms = [numpy.sqrt(((m - base) ** 2).sum()) for m in models]
    mean = sum(w * (m - base) / n for w, m, n in zip(weights, models, norms))
    return base + mean / numpy.sqrt((mean * mean).sum()) * sum(w * n for w, n in zip(weights, norms))


def stock(base, models):
    import numpy

    deltas = [m - base for m in models]
    pairs = [(x, y) for i, x in enumerate(deltas) for y in deltas[i + 1:]]
    c = numpy.mean([(x * y).sum() / numpy.sqrt((x * x).sum() * (y * y).sum()) for x, y in pairs])
    n = len(models)
    return base + n * c / (1 + (n - 1) * c) * sum(deltas) / n


def truth(name, work):
    """A merge in float64, tensor by tensor; `None` for the methods whose values need no sums over a tensor."""
    import numpy

    models = {which: opened(work / which) for which in ("base", *VARIANTS)}
    n_layers = 1 + max(int(t.split(".")[2]) for t in models["base"] if ".layers." in t)

    def of(tensor):
        base, *rest = (models[which][tensor].get_tensor(tensor).astype(numpy.float64) for which in models)
        if name == "slerp":
            return spherical(tensor, n_layers, base, rest[0])
        return mean_direction(base, rest, [0.5, 0.3, 0.4]) if name.startswith("multi") else stock(base, rest)

    return of if name in ("slerp", "multislerp of 3", "model stock of 3") else None


def differences(first, second, name, work):
    """The largest difference of two merges (absolute for values below 1, relative above), the values that differ by more than
    1e-6, all values, and the largest differences of both from float64."""
    import numpy

    ours, theirs, exact = opened(first), opened(second), truth(name, work)
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    found = [0.0, 0, 0, 0.0, 0.0]
    for tensor in ours:
        a, b = (files[tensor].get_tensor(tensor).astype(numpy.float64) for files in (ours, theirs))
        scale = numpy.maximum(1.0, numpy.abs(b))
        error = numpy.abs(a - b) / scale
        found = [max(found[0], float(error.max())), found[1] + int((error > 1e-6).sum()), found[2] + error.size, *found[3:]]
        if exact:
            right = exact(tensor)
            found[3:] = [max(old, float((numpy.abs(x - right) / scale).max())) for old, x in zip(found[3:], (a, b))]
    return found


def aside(function, *arguments):
    """In a process of its own: a child's peak is at least what its parent holds when it starts."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def command(program, options, file, out):
    if program == "truing":
        return [options.truing, "merge", file, "--output", out, "--quiet"]
    return [pathlib.Path(sys.executable).parent / "mergekit-yaml", file, out]


def fixed_masks(options, file, out):
    """DARE of both programs with the entries that truing keeps."""
    work = options.work
    for which in (0, 1):
        weights = [float(which == i) for i in range(2)]
        models = [model(work, name, weight=w, density=0.5) for name, w in zip("ab", weights)]
        text = f"merge_method: dare_linear\nbase_model: {work / 'base'}\nmodels:\n" + "\n".join(models)
        single = work / f"kept-{which}.yaml"
        single.write_text(f"{text}\nparameters: {{rescale: false}}\ndtype: float32\n", encoding="utf-8")
        shutil.rmtree(work / f"kept-{which}", ignore_errors=True)
        running.run(command("truing", options, single, work / f"kept-{which}"))
    peer = pathlib.Path(__file__).resolve().parent / "peers/dare_mergekit.py"
    subprocess.run([sys.executable, peer, work, file, out], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truing", type=pathlib.Path, required=True)
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--only", help="part of a method's name")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    aside(make_models, options)
    print("| merge | pair | program | s | peak MiB | own cores | others' |\n|---|---|---|---|---|---|---|")
    results = []
    for name, text in files(options.work).items():
        if options.only and options.only not in name:
            continue
        stem = name.replace(" ", "-").replace(",", "")
        file = options.work / f"{stem}.yaml"
        file.write_text(text, encoding="utf-8")
        outs = {program: options.work / f"out-{stem}-{program}" for program in ("truing", "mergekit")}
        times, work, peaks = [], [], []
        for pair in range(options.pairs):
            order = ["truing", "mergekit"] if pair % 2 == 0 else ["mergekit", "truing"]
            found = {}
            for program in order:
                shutil.rmtree(outs[program], ignore_errors=True)
                run = found[program] = running.run(command(program, options, file, outs[program]))
                print(f"| {name} | {pair + 1} | {program} | {run.seconds:.2f} | {run.peak_rss_mib:.0f} | {run.cores_own:.2f} "
                      f"| {run.cores_others:.2f} |", flush=True)
            times.append(found["truing"].seconds / found["mergekit"].seconds)
            work.append(found["truing"].seconds * found["truing"].cores_own / found["mergekit"].seconds / found["mergekit"].cores_own)
            peaks.append(found["truing"].peak_rss_mib / found["mergekit"].peak_rss_mib)
        if name.startswith("dare"):
            shutil.rmtree(outs["mergekit"], ignore_errors=True)
            fixed_masks(options, file, outs["mergekit"])
        results.append((name, *aside(differences, outs["truing"], outs["mergekit"], name, options.work), *map(statistics.median, (times, work, peaks))))
        for out in outs.values():
            shutil.rmtree(out, ignore_errors=True)
    print("\n| merge | largest difference | values beyond 1e-6 | truing, mergekit from float64 | time, ratio | processor time, ratio "
          "| peak, ratio |\n|---|---|---|---|---|---|---|")
    for name, largest, n_beyond, n, ours, theirs, *ratios in results:
        exact = f"{ours:.1e}, {theirs:.1e}" if theirs else ""
        print(f"| {name} | {largest:.1e} | {n_beyond} of {n} | {exact} | " + " | ".join(f"{ratio:.3f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
