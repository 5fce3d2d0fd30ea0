"""The answer stage: every arm answers every scenario, with the same sampling and the same seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.chat import Sampling, seed_for, write_answers
from harness.config import Study
from harness.models.load import load_model
from harness.progress import Report
from harness.records import Answer, Message, Scenario, append_jsonl, drop_torn_line, read_jsonl, write_jsonl
from harness.rundir import RunDir, Stage, digest, now
from harness.tune import keep_big_blocks


def answer_stage(study: Study, run: RunDir, scenarios: Sequence[Scenario], digests: Mapping[str, str]) -> Stage:
    """The stage's identity: sampling, seed, scenarios and the digest of every arm's weights."""
    config = study.answer.model_dump(mode="json") | {"seed": study.seed, "system": study.system}
    inputs = {f"arm {arm}": value for arm, value in digests.items()}
    inputs["scenarios"] = digest([scenario.model_dump() for scenario in scenarios])
    return Stage("answer", run.answers, config, inputs)


def answer_all(
    study: Study, stage: Stage, scenarios: Sequence[Scenario], models: Mapping[str, Path], progress: Report
) -> dict[str, Any]:
    """Write answers/answers.jsonl; `models` maps each arm to its directory. Returns the manifest.

    A killed stage goes on with the first chat that is not in its file; each finished batch is on disk.
    """
    started = now()
    stage.folder.mkdir(parents=True, exist_ok=True)
    keep_big_blocks()
    part = stage.folder / f".answers-{stage.key[:16]}.jsonl"  # its name tells which settings it was written under
    have = _written(part)
    total = len(models) * len(scenarios)
    for arm, directory in models.items():
        todo = [scenario for scenario in scenarios if (arm, scenario.id) not in have]
        if not todo:
            continue
        loaded = load_model(directory, only_read=True)
        for first in range(0, len(todo), study.answer.batch):
            batch = todo[first : first + study.answer.batch]

            def on_token(step: int, written: int, arm: str = arm, count: int = len(have)) -> None:
                progress(count, total, f"{arm}: position {step} of {study.answer.max_tokens}")

            fresh = _answer_batch(study, arm, loaded, batch, on_token)
            append_jsonl(part, fresh)
            have |= {(answer.arm, answer.scenario) for answer in fresh}
            progress(len(have), total, arm)
        del loaded  # before the next arm is loaded: one model in memory at a time
    place = {pair: number for number, pair in enumerate((arm, s.id) for arm in models for s in scenarios)}
    answers = sorted(read_jsonl(part, Answer), key=lambda answer: place[answer.arm, answer.scenario])
    path = stage.folder / "answers.jsonl"
    write_jsonl(path, answers)
    manifest = stage.finish([path], started)
    for old in stage.folder.glob(".answers-*.jsonl"):
        old.unlink()
    return manifest


def _answer_batch(study: Study, arm: str, loaded: Any, batch: Sequence[Scenario], on_token: Any) -> list[Answer]:
    table = study.answer
    seeds = [seed_for(study.seed, "answer", scenario.id) for scenario in batch]  # the same for every arm
    opened = [(Message(role="user", content=scenario.opening),) for scenario in batch]
    sampling = Sampling(table.max_tokens, table.temperature, table.top_p)
    written = write_answers(loaded, opened, seeds, sampling, study.system, on_token)
    return [
        Answer(
            arm=arm,
            scenario=scenario.id,
            messages=(*chat, Message(role="assistant", content=answer.text)),
            tokens=answer.tokens,
            finish=answer.finish,
            seed=seed,
        )
        for scenario, chat, answer, seed in zip(batch, opened, written, seeds, strict=True)
    ]


def _written(path: Path) -> set[tuple[str, str]]:
    """What a killed run left: whole lines count, a torn last line is cut off."""
    if not path.exists():
        return set()
    drop_torn_line(path)
    return {(answer.arm, answer.scenario) for answer in read_jsonl(path, Answer)}
