"""What a suite's results say of how they came about, under the names that lm-eval gives it."""

import contextlib
import hashlib
import inspect
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.bench.suites import FEWSHOT_SEED, Suite, generation_settings
from harness.bench.task_index import lm_eval_root
from harness.rundir import git_state, versions

SEEDS = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234}  # lm-eval's own defaults


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Within it, the global generators that tasks may draw from begin as in a plain lm-eval run."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(SEEDS["random_seed"])
        np.random.seed(SEEDS["numpy_seed"])
        torch.manual_seed(SEEDS["torch_seed"])
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def describe(
    results: dict[str, Any],
    samples: dict[str, list[dict[str, Any]]],
    suite: Suite,
    lm: Any,
    *,
    model: dict[str, Any],
    limit: int | None,
    bootstraps: int,
    seconds: float,
) -> None:
    """Add to lm-eval's results what its command line adds: model, settings, versions, seeds, hashes, times.

    `model`: name, backend and arguments; `seconds`: how long the suite took.
    """
    from lm_eval.loggers.utils import add_tokenizer_info

    now = time.time()
    table = suite.table
    template = str(getattr(lm.tokenizer, "chat_template", "")) if table.chat_template else None
    results["config"] = {
        "model": model["backend"],
        "model_args": model["args"],
        **_size(getattr(lm, "model", None)),
        "batch_size": model["args"].get("batch_size"),
        "batch_sizes": [],
        "device": str(getattr(lm, "device", None)),
        "use_cache": None,
        "limit": limit,
        "bootstrap_iters": bootstraps,
        "gen_kwargs": generation_settings(table) or None,
        **SEEDS,
        "fewshot_seed": FEWSHOT_SEED,
    }
    found = versions()
    results |= {
        "git_hash": git_state()["commit"],
        "date": now,
        "lm_eval_version": found.get("lm-eval"),
        "transformers_version": found.get("transformers"),
        "upper_git_hash": None,
        "model_source": model["backend"],
        "model_name": model["name"],
        "model_name_sanitized": model["name"],
        "system_instruction": table.system,
        "system_instruction_sha": _sha(table.system),
        "fewshot_as_multiturn": table.chat_template and table.multi_turn is not False,
        "chat_template": template,
        "chat_template_sha": _sha(template),
        "start_time": now - seconds,
        "end_time": now,
        "total_evaluation_time_seconds": str(seconds),
        "task_hashes": {task: _task_hash(many) for task, many in samples.items()},
    }
    add_tokenizer_info(results, lm)
    results["configs"] = _named(results["configs"])
    for config in results["configs"].values():
        metadata = config.get("metadata") or {}
        if "config_source" in metadata:  # where lm-eval lies on this machine is nobody's business
            metadata["config_source"] = metadata["config_source"].replace(f"{lm_eval_root()}/", "lm_eval/tasks/")


def _named(value: Any) -> Any:
    """Functions within a config by their names, which say the same in every run."""
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_named(one) for one in value]
    return f"{value.__module__}.{value.__qualname__}" if inspect.isfunction(value) else value


def _size(model: Any) -> dict[str, Any]:
    if not hasattr(model, "num_parameters"):
        return {}
    return {"model_num_parameters": int(model.num_parameters()), "model_dtype": str(model.dtype)}


def _sha(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _task_hash(samples: Sequence[dict[str, Any]]) -> str:
    parts = [one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
