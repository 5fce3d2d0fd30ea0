"""`viva bench --model PATH`: the suites of any model, without a study."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.benchmarks import WORDS, BackendArgs, Bench, SuiteTable
from harness.errors import ConfigError
from harness.progress import bar
from harness.rundir import RunDir, Stage, now

ROOT = Path("runs/bench")


def chosen_bench(
    suites: Sequence[str],
    texts: Sequence[Path] = (),
    *,
    few_shot: int | None = None,
    chat_template: bool = False,
    limit: int | None = None,
    data: Path | None = None,
    backend: str = "viva",
    backend_args: Sequence[str] = (),
    trust_code: bool = False,
) -> Bench:
    """The [bench] table that options stand for: suites by name or path and files of texts; `words` where none is named.

    `backend_args` are KEY=VALUE. Raises ConfigError as the study file's reader does.
    """
    given = {"few_shot": few_shot, "chat_template": chat_template, "data": None if data is None else str(data)}
    asked = {name: value for name, value in given.items() if value}
    tables: list[dict[str, Any]] = []
    for suite in suites or ([] if texts else [WORDS]):
        table = SuiteTable.of(suite).model_dump(exclude_defaults=True)
        tables.append(table | ({} if table["name"] == WORDS else asked))
    tables += [{"name": path.name.split(".")[0], "texts": str(path)} for path in texts]
    args = {}
    for pair in backend_args:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--backend-arg {pair!r} is not KEY=VALUE", hint="such as batch_size=8")
        args[key] = _value(value)
    try:
        return Bench(
            suite=tuple(SuiteTable(**table) for table in tables),
            limit=limit,
            backend=backend,
            backend_args=BackendArgs(**args),
            trust_code=trust_code,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{first['loc'][0]}: " if first["loc"] else ""
        raise ConfigError(f"{where}{first['msg'].removeprefix('Value error, ')}", hint="see docs/bench.md") from None


def _value(text: str) -> Any:
    """A number, true or false, as TOML has it; else the text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def bench_model(source: str, bench: Bench, folder: Path | None = None, *, costs: bool = False) -> str:
    """Score one model on the suites of a [bench] table; returns the scores as a table for a terminal.

    `source` is a folder, a GGUF file, `pypi:...` or a hub id. Results go to `folder` (runs/bench/NAME by default), as
    in a study's bench/ARM. Raises as `bench_arm` does.
    """
    from harness.bench.costs import Settings, bench_costs
    from harness.bench.human_text import human_documents
    from harness.bench.job import Held, Job
    from harness.bench.stage import bench_arm
    from harness.bench.suite_files import suite_digest
    from harness.models.sources import model_digest, resolve_model
    from harness.tune import keep_big_blocks

    model_dir = resolve_model(source, Path.cwd())
    name = "".join(one if one.isalnum() or one in "_.-" else "-" for one in Path(source.rstrip("/")).name) or "model"
    folder = folder or ROOT / name
    keep_big_blocks()
    inputs = {"model": model_digest(model_dir)} | {f"suite {one.name}": suite_digest(one) for one in bench.all_suites}
    stage = Stage(f"bench/{name}", folder, bench.model_dump(mode="json"), inputs)
    words = any(suite.what == WORDS for suite in bench.all_suites)
    with RunDir(folder).lock():
        started = now()
        held = Held(human=human_documents(bench.human_documents, bench.human_characters)) if words else Held()
        job = Job(
            folder,
            model_dir,
            None,
            bench.all_suites,
            key=inputs["model"],
            held=held,
            limit=bench.limit,
            backend=bench.backend,
            backend_args=bench.backend_args,
            trust_code=bench.trust_code,
        )
        with bar(f"bench {name}") as progress:
            outputs = bench_arm(job, progress)
        if costs:
            settings = Settings(bench.cost_prompts, bench.cost_batches, bench.cost_output, bench.cost_rounds)
            with bar("costs") as progress:
                bench_costs({name: folder}, {name: model_dir}, {name: inputs["model"]}, settings, progress)
        stage.finish(outputs, started)
    return f"{score_table([job.results(table) for table in job.suites])}\n\nresults: {folder}"


def score_table(results: Sequence[Path]) -> str:
    """The scores in files of results: suite, metric, value with 95 % interval, unit, number of items or documents."""
    from harness.bench.documents import interval
    from harness.records import Score

    rows = [("suite", "metric", "value", "95 % interval", "unit", "n")]
    for path in results:
        for one in json.loads(path.read_text(encoding="utf-8"))["viva"]["scores"]:
            score = Score.model_validate(one)
            ends = interval(score)
            between = "" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"
            rows.append((score.suite, score.metric, f"{score.value:.4g}", between, score.unit, f"{score.n:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
