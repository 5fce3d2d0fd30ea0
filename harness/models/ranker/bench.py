"""The bench of a ranker: each user's last item among all that the user did not have, in the form of lm-eval's files."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.evaluate import scores
from harness.benchmarks import SuiteTable
from harness.config import Study, Train
from harness.errors import ConfigError
from harness.models.ranker.interactions import Interactions, Query, read_interactions
from harness.models.ranker.measures import NAMES, measures
from harness.models.ranker.queries import AT_ONCE, ask
from harness.ranker_table import RANKING, RankerTable
from harness.records import dump_json, write_atomic
from harness.resources import resolve_file
from harness.rundir import Stage, git_state, versions

if TYPE_CHECKING:
    from harness.stages import Run


def bench(run: "Run", arm: str, stage: Stage, progress: Any, shared: dict[str, Any]) -> list[Path]:
    """Score an arm on every user's last item; returns the files, of which the results are written last."""
    from harness.models.ranker.family import check_items, load

    if "interactions" not in shared:
        train = _train(run.study)
        table = train.ranker or RankerTable()
        shared["interactions"] = read_interactions(resolve_file(train.corpus, Path.cwd()), table)
    data: Interactions = shared["interactions"]
    loaded = load(run.model_dir(arm))
    check_items(loaded, data, arm)
    results, samples = run_ranking(loaded.model, data, run.study.bench.limit, progress)
    results["model_name"] = arm
    results["viva"] |= {"key": stage.key, "notes": [], "seed": run.study.seed}
    stage.folder.mkdir(parents=True, exist_ok=True)
    paths = [stage.folder / f"samples_{RANKING}.jsonl", stage.folder / f"{RANKING}.json"]
    write_atomic(paths[0], "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in samples))
    write_atomic(paths[1], dump_json(results))
    return paths


def _train(study: Study) -> Train:
    """The interactions of the study: those of its first student that is trained, else the teacher's."""
    for arm in (*study.student, study.teacher):
        if arm.train is not None:
            return arm.train
    raise ConfigError("no arm of the study has train, so there are no interactions to rank", hint="train one of them")


def run_ranking(
    model: Any, data: Interactions, limit: int | None = None, progress: Any = lambda done, total, note: None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(results, samples) over all users, or the first `limit`; the results as lm-eval has them, a sample for a user."""
    begun = time.time()
    queries = data.test()[:limit]
    samples: list[dict[str, Any]] = []
    for first in range(0, len(queries), AT_ONCE):
        part = queries[first : first + AT_ONCE]
        samples += [_sample(data, *one) for one in zip(part, ask(model, part), strict=True)]
        progress(len(samples), len(queries), RANKING)
    return results_of(samples, time.time() - begun), samples


def _sample(data: Interactions, query: Query, answer: tuple[int, list[int]]) -> dict[str, Any]:
    rank, top = answer
    asked = json.dumps([query.user, query.seen, query.target])
    return {
        "task": RANKING,
        "doc_id": query.user,
        "doc": {"user": query.user, "history": len(query.seen)},
        "doc_hash": hashlib.sha256(asked.encode()).hexdigest(),
        "target": data.items[query.target],
        "filter": "none",
        "metrics": list(NAMES),
        "rank": rank,
        "top": [data.items[item] for item in top],
        **measures([rank]),
    }


def results_of(samples: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The means over users with their standard errors (of the users drawn), under the names that lm-eval gives."""
    size = len(samples)
    found: dict[str, Any] = {"alias": RANKING}
    for name in NAMES:
        values = [sample[name] for sample in samples]
        mean = sum(values) / size
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (size - 1) / size) if size > 1 else None
        found |= {f"{name},none": mean, f"{name}_stderr,none": spread}
    now = time.time()
    results: dict[str, Any] = {
        "results": {RANKING: found},
        "configs": {RANKING: {"task": RANKING, "metadata": {"protocol": "leave-one-out over all items"}}},
        "n-samples": {RANKING: {"original": size, "effective": size}},
        "higher_is_better": {RANKING: dict.fromkeys(NAMES, True)},
        "versions": {RANKING: 1},
        "git_hash": git_state()["commit"],
        "date": now,
        "transformers_version": versions().get("transformers"),
        "start_time": now - seconds,
        "end_time": now,
        "total_evaluation_time_seconds": str(seconds),
    }
    suite: Any = SuiteTable(name=RANKING)
    results["viva"] = {"scores": [score.model_dump() for score in scores(suite, results)]}
    return results
