"""The bench stage for one arm: costs and every suite, each finished file kept when the rest fails or is stopped."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.bench import costs as cost_measures
from harness.bench.suites import Suite, load_suite, suite_name
from harness.errors import ConfigError, RunError
from harness.models.load import LoadedModel, load_model
from harness.records import Chat, Score, dump_json, write_atomic

WORDS = "words"
COSTS = "costs"

Report = Callable[[int, int, str], None]


def bench_arm(
    folder: Path,
    model_dir: Path,
    teacher_dir: Path | None,
    suites: Sequence[str],
    *,
    held_out: Sequence[Chat] = (),
    human_docs: Sequence[str] = (),
    system: str | None = None,
    limit: int | None = None,
    progress: Report | None = None,
    key: str = "",
    base: Path | None = None,
    trust_code: bool = False,
    costs: bool = True,
) -> list[Path]:
    """Benchmark the model in `model_dir` and leave the files in `folder`; returns their paths.

    Writes `costs.json`, and for each suite `<suite>.json` and `samples_<suite>.jsonl`, the JSON last: it says that
    the suite is finished. A file counts as finished when it carries `key`, which should change with whatever the
    results depend on (the stage's key does). `words` scores `held_out` against the model in `teacher_dir`, and
    `human_docs`; other suites are found by `load_suite(name, base)`. `limit` is items or documents per suite.
    `progress(done, total, note)` counts items over everything that is left to do.

    Raises ConfigError at once for suites that do not exist, and RunError at the end when a suite or the costs failed,
    naming it; everything else is finished by then.
    """
    _unlike(suites)
    folder.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda done, total, note: None)
    broken: dict[str, Exception] = {}
    todo = [name for name in suites if not _finished(folder / f"{suite_name(name)}.json", key)]
    loaded: dict[str, Suite] = {}
    for name in todo:
        if name == WORDS:
            continue
        report(0, 1, f"loading {suite_name(name)}")
        try:
            loaded[name] = load_suite(name, base, trust_code=trust_code)
        except ConfigError:
            raise
        except Exception as error:
            broken[name] = error
    chats, documents = list(held_out[:limit]), list(human_docs[:limit])
    sizes = {name: suite.size(limit) for name, suite in loaded.items()}
    if WORDS in todo:
        sizes[WORDS] = len(chats) + len(documents)
    count = _counter(report, sum(sizes.values()))

    # In a process of its own, and before this one fills the memory with models.
    if costs and not _finished(folder / "costs.json", key):
        report(0, max(1, sum(sizes.values())), "costs")
        try:
            _write(folder / "costs.json", {**cost_measures.measure(model_dir), "viva": {"key": key}})
        except Exception as error:
            broken[COSTS] = error

    student = load_model(model_dir) if sizes else None
    lm: Any = None
    for name in sizes:
        try:
            if name == WORDS:
                teacher = _teacher(student, model_dir, teacher_dir) if chats else None
                results, samples = _run_words(student, teacher, chats, documents, system, count(name, sizes[name]))
                del teacher
            else:
                from harness.bench.evaluate import run_suite
                from harness.bench.packed import PackedLM

                lm = lm or PackedLM(student.model, student.tokenizer)
                lm.on_done, lm.truncated = count(name, sizes[name]), 0
                results, samples = run_suite(lm, loaded[name], limit)
                results["viva"]["truncated"] = lm.truncated
        except Exception as error:  # one broken suite among many: the others finish
            broken[name] = error
            continue
        results["viva"]["key"] = key
        lines = (json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in samples)
        write_atomic(folder / f"samples_{suite_name(name)}.jsonl", "".join(lines))
        _write(folder / f"{suite_name(name)}.json", results)

    if broken:
        reasons = "; ".join(f"{suite_name(name)}: {_reason(error)}" for name, error in broken.items())
        hint = "everything else is finished and kept; run the command again to repeat only what failed"
        raise RunError(f"the bench of {folder.name} is not complete. {reasons}", hint=hint) from next(
            iter(broken.values())
        )
    return _outputs(folder, suites, costs)


def _unlike(suites: Sequence[str]) -> None:
    names = [suite_name(name) for name in suites]
    for name in names:
        if names.count(name) > 1 or name == COSTS:
            raise ConfigError(f"two results would be called {name}", hint="rename one of the suites' files or folders")


def _finished(path: Path, key: str) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return bool(found["viva"]["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, dump_json(value))


def _outputs(folder: Path, suites: Sequence[str], costs: bool) -> list[Path]:
    names = [suite_name(name) for name in suites]
    files = [folder / file for name in names for file in (f"{name}.json", f"samples_{name}.jsonl")]
    return [*files, folder / "costs.json"] if costs else files


def _counter(report: Report, total: int) -> Callable[[str, int], Callable[[int, int], None]]:
    """Turns 'done of total requests' of one suite after another into items done over all of them."""
    before = 0

    def start(name: str, size: int) -> Callable[[int, int], None]:
        nonlocal before
        offset = before
        before += size

        def on_done(done: int, requests: int) -> None:
            report(offset + size * done // max(1, requests), total, suite_name(name))

        return on_done

    return start


def _teacher(student: LoadedModel, model_dir: Path, teacher_dir: Path | None) -> LoadedModel | None:
    if teacher_dir is None:
        return None
    return student if teacher_dir.resolve() == model_dir.resolve() else load_model(teacher_dir)


def _run_words(
    student: LoadedModel,
    teacher: LoadedModel | None,
    chats: Sequence[Chat],
    documents: Sequence[str],
    system: str | None,
    on_done: Callable[[int, int], None],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from harness.bench import perplexity

    total = len(chats) + len(documents)
    samples = perplexity.teacher_text(student, teacher, chats, system, lambda done, _: on_done(done, total))
    samples += perplexity.human_text(
        student, documents, on_done=lambda done, windows: on_done(len(chats) + len(documents) * done // windows, total)
    )
    scores = perplexity.summarise(samples)
    settings = {
        "teacher_text": {"documents": len(chats), "tokens": "assistant", "system": system},
        "human_text": {"documents": len(documents), "window": perplexity.WINDOW, "stride": perplexity.STRIDE},
    }
    return _words_results(scores, settings, sum(one.get("truncated", 0) > 0 for one in samples), len(samples)), samples


def _words_results(scores: Sequence[Score], settings: dict[str, Any], truncated: int, size: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {"alias": WORDS}
    for score in scores:
        metrics[f"{score.metric},none"] = score.value
        metrics[f"{score.metric}_stderr,none"] = "N/A" if score.stderr is None else score.stderr
    return {
        "results": {WORDS: metrics},
        "configs": {WORDS: {"task": WORDS, **settings}},
        "versions": {WORDS: 1.0},
        "n-shot": {WORDS: 0},
        "higher_is_better": {WORDS: {score.metric: score.higher_is_better for score in scores}},
        "n-samples": {WORDS: {"original": size, "effective": size}},
        "viva": {"scores": [score.model_dump() for score in scores], "truncated": truncated},
    }


def _reason(error: Exception) -> str:
    text = getattr(error, "what", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0]
