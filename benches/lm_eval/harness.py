"""One task of lm-evaluation-harness, its own definition, over a local file; nothing is fetched.

    python harness.py --model MODEL --task arc --items arc.jsonl [--shots arc_dev.jsonl --num-fewshot 5] --out OUT.json

Only where the rows come from is replaced: templates, options, metrics and aggregation stay those of the package. OUT
receives results and samples as the harness returns them, and the number of tokens that the model computed.
"""
import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# Ours -> the package's definition. MMLU is one task a subject, and the items are of this one.
TASKS = {
    "mmlu": "mmlu/default/mmlu_miscellaneous.yaml",
    "arc": "arc/arc_easy.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "perplexity": "wikitext/wikitext.yaml",
}


def task_over(name, items, shots):
    """The package's task, with rows of our files and the first examples; choices are counted per byte as well."""
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(pathlib.Path(lm_eval.tasks.__file__).parent / TASKS[name], resolve_func=True)
    files = {"test": str(items)} | ({"shots": str(shots)} if shots else {})
    for key in ("tag", "fewshot_split"):
        config.pop(key, None)
    config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files},
               "training_split": None, "validation_split": None, "test_split": "test"}
    if shots:
        config |= {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}}
    if name != "perplexity":
        config["metric_list"] = [{"metric": metric, "aggregation": "mean", "higher_is_better": True}
                                 for metric in ("acc", "acc_norm", "acc_bytes")]
    return ConfigurableTask(config=config)


def compute_in_double():
    """Normalisation and rotary embedding of Llama in the precision of the weights; transformers computes both in
    float32."""
    import torch
    from transformers.models.llama import modeling_llama

    def normalise(self, rows):
        return self.weight * rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def angles(self, x, position_ids):
        base, size = self.config.rope_parameters["rope_theta"], self.inv_freq.numel() * 2
        inverse = base ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        half = position_ids[:, :, None].to(torch.float64) * inverse
        both = torch.cat([half, half], dim=-1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)

    modeling_llama.LlamaRMSNorm.forward = normalise
    modeling_llama.LlamaRotaryEmbedding.forward = angles


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--items", type=pathlib.Path, required=True)
    parser.add_argument("--shots", type=pathlib.Path)
    parser.add_argument("--num-fewshot", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--softmax-dtype", help="precision of the log-softmax, for instance float64; by default the logits'")
    parser.add_argument("--double", action="store_true", help="the whole model in float64, and not only its weights")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()

    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    if options.threads:
        torch.set_num_threads(options.threads)
    computed = {"tokens": 0, "calls": 0}
    call = HFLM._model_call

    def counting(self, inps, *rest, **named):
        computed["tokens"] += inps.numel()
        computed["calls"] += 1
        return call(self, inps, *rest, **named)

    HFLM._model_call = counting
    task = task_over(options.task, options.items.resolve(), options.shots and options.shots.resolve())
    if options.double:
        compute_in_double()
    model = HFLM(pretrained=options.model, dtype="float64" if options.double else "float32", device="cpu",
                 batch_size=options.batch_size, softmax_dtype=options.softmax_dtype)
    started = time.time()
    found = lm_eval.simple_evaluate(
        model=model, tasks=[task], num_fewshot=options.num_fewshot, limit=options.limit, log_samples=True,
        bootstrap_iters=1000, task_manager=TaskManager(include_defaults=False))
    name = task.config.task
    out = {"version": lm_eval.__version__, "results": found["results"][name], "computed": computed,
           "seconds_evaluating": time.time() - started,
           "samples": [{key: sample[key] for key in ("doc_id", "arguments", "resps", "target", "acc", "acc_norm", "acc_bytes")
                        if key in sample} for sample in found["samples"][name]]}
    options.out.write_text(json.dumps(out, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
