"""One suite of lm-eval's tasks through lm-eval's own evaluator: its results, its samples, and what broke on the way."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from harness.bench.choices import add_calibration
from harness.bench.evaluate import BOOTSTRAPS, _plain, _sample, scores
from harness.bench.record import describe, seeded
from harness.bench.suites import FEWSHOT_SEED, Suite, quiet_libraries
from harness.errors import VivaError


def run_tasks(
    lm: Any, suite: Suite, limit: int | None, model: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Exception]]:
    """(results, samples, what broke by task) of a suite asked as its table says; the first two are ready for JSON.

    `model` describes the model for the record: name, backend, args. When a suite of several tasks breaks, each is run
    alone to find the broken ones, and the others are reported. Raises what the only task, or every task, raises.
    """
    begun = time.time()
    with quiet_libraries(), suite.templates(), seeded(), _code(suite.run_code):
        tasks, broken = suite.tasks, {}
        try:
            raw = _evaluate(lm, suite, tasks, limit)
        except VivaError:
            raise
        except Exception as error:
            if len(tasks["tasks"]) == 1:
                raise
            broken = _broken(lm, suite, limit)
            if not broken or len(broken) == len(tasks["tasks"]):
                raise error
            tasks = _some(tasks, [name for name in tasks["tasks"] if name not in broken])
            raw = _evaluate(lm, suite, tasks, limit)
        samples = raw.pop("samples")
        results: dict[str, Any] = {**raw, "viva": {}}
        results["viva"]["scores"] = [score.model_dump() for score in scores(suite, _plain(raw))]
        add_calibration(suite.name, tasks["tasks"], results, samples)
    describe(results, samples, suite, lm, model=model, limit=limit, bootstraps=BOOTSTRAPS, seconds=time.time() - begun)
    return _plain(results), [_sample(task, one) for task, many in samples.items() for one in many], broken


def _evaluate(lm: Any, suite: Suite, tasks: dict[str, Any], limit: int | None) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate

    for task in tasks["tasks"].values():  # also for the second arm: the same examples
        task.set_fewshot_seed(FEWSHOT_SEED)
    table = suite.table
    found: dict[str, Any] = evaluate(
        lm,
        tasks,
        limit=limit,
        bootstrap_iters=BOOTSTRAPS,
        log_samples=True,
        system_instruction=table.system,
        apply_chat_template=table.chat_template,
        fewshot_as_multiturn=table.chat_template and table.multi_turn is not False,
        confirm_run_unsafe_code=suite.run_code,
    )
    return found


def _broken(lm: Any, suite: Suite, limit: int | None) -> dict[str, Exception]:
    broken: dict[str, Exception] = {}
    for name in suite.tasks["tasks"]:
        try:
            _evaluate(lm, suite, _some(suite.tasks, [name]), limit)
        except VivaError:
            raise
        except Exception as error:
            broken[name] = error
    return broken


def _some(tasks: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Some of the loaded tasks; a group that misses one has no score."""
    return {"tasks": {name: tasks["tasks"][name] for name in names}, "groups": {}, "group_map": {}}


@contextlib.contextmanager
def _code(allowed: bool) -> Iterator[None]:
    """The metric that runs what models write asks for this variable, even where the study trusts code."""
    before = os.environ.get("HF_ALLOW_CODE_EVAL")
    if allowed:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("HF_ALLOW_CODE_EVAL", None)
        else:
            os.environ["HF_ALLOW_CODE_EVAL"] = before
