"""One suite through lm-eval's own evaluator, its results in lm-eval's form and as Viva's scores."""

import math
import time
from typing import Any

from harness.bench.suites import FEWSHOT_SEED, Suite, quiet_libraries
from harness.records import Score

BOOTSTRAPS = 100  # only for metrics without a closed-form standard error


def run_suite(lm: Any, suite: Suite, limit: int | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a suite through lm-eval's evaluator; returns (results, samples), both ready for JSON.

    `results` has lm-eval's form and beside it "viva": {"scores": [Score as dict, ...]}. `samples` are lm-eval's, one
    per item, with the name of their task.
    """
    with quiet_libraries():
        import lm_eval
        from lm_eval.evaluator import evaluate

        raw = evaluate(lm, suite.tasks, limit=limit, bootstrap_iters=BOOTSTRAPS, log_samples=True)
    samples = [_sample(task, one) for task, many in raw.pop("samples").items() for one in many]
    results: dict[str, Any] = _plain(raw)
    results |= {
        "config": {"model": type(lm).__name__, "limit": limit, "fewshot_seed": FEWSHOT_SEED},
        "lm_eval_version": lm_eval.__version__,
        "date": time.time(),
        "viva": {"scores": [score.model_dump() for score in scores(suite, results)]},
    }
    return results, samples


def scores(suite: Suite, results: dict[str, Any]) -> list[Score]:
    """lm-eval's metrics as Score records; of several tasks, each under 'suite/task'."""
    found = []
    for task, metrics in results["results"].items():
        metadata = results["configs"].get(task, {}).get("metadata") or {}
        size = results["n-samples"].get(task, {}).get("effective") or metrics.get("sample_len") or 0
        name = suite.name if len(results["results"]) == 1 or task == suite.name else f"{suite.name}/{task}"
        for key, value in metrics.items():
            metric, comma, kept = key.partition(",")
            # A metric that came out as NaN stays visible in the results as null, but it is no score.
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = metrics.get(f"{metric}_stderr,{kept}")
            better = results["higher_is_better"].get(task, {}).get(metric)
            found.append(
                Score(
                    suite=name,
                    metric=metric if kept == "none" else f"{metric},{kept}",
                    value=value,
                    stderr=stderr if isinstance(stderr, int | float) else None,
                    n=size,
                    unit=_unit(metric),
                    higher_is_better=True if better is None else better,
                    chance=metadata.get("chance") if metric in ("acc", "acc_norm") else None,
                )
            )
    return found


def _unit(metric: str) -> str:
    if "perplexity" in metric:
        return metric
    return "bits/byte" if metric == "bits_per_byte" else "share"


def _sample(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """One sample as lm-eval's own files have it, where every response is text."""
    from lm_eval.utils import sanitize_list

    arguments = {
        f"gen_args_{i}": {f"arg_{j}": one for j, one in enumerate(args)} for i, args in enumerate(sample["arguments"])
    }
    texts = {key: sanitize_list(sample[key]) for key in ("resps", "filtered_resps")}
    plain: dict[str, Any] = _plain(
        {"task": task, **sample, **texts, "arguments": arguments, "target": str(sample["target"])}
    )
    return plain


def _plain(value: Any) -> Any:
    """Values that JSON has; what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(one) for one in value]
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
