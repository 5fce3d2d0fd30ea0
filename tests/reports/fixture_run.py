"""A small run directory as the stages leave it: real files, made by code; nothing in it was measured."""

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

STUDY = """schema = 1
name = "fixture"
seed = 7
purpose = "research"

[teacher]
source = "nowhere"
licence = "Apache-2.0"

[[student]]
name = "distilled"

[[student]]
name = "scratch"
control_of = "distilled"

[bench]
suites = ["words", "sense", "facts"]

[report]
margin = 0.90
"""
KEYS = {"1f0a": "teacher", "9c3d": "distilled", "77be": "scratch"}
ARMS = ("teacher", "distilled", "scratch")
HUMAN = (31.0, 58.2, 940.0)
BYTES = 4.5  # of a token, in the documents of human text
CATEGORIES = ("advice", "explain", "writing")


def scores(arm: str) -> dict[str, list[dict[str, Any]]]:
    at = ARMS.index(arm)

    def score(suite: str, metric: str, value: float, **rest: Any) -> dict[str, Any]:
        usual = {"stderr": None, "n": 32, "unit": "nats", "higher_is_better": False, "chance": None}
        return {"suite": suite, "metric": metric, "value": value, **usual, **rest}

    choice = {"n": 200, "unit": "share", "higher_is_better": True, "chance": 0.25, "stderr": 0.032}
    return {
        "words": [
            score("words", "teacher_text_perplexity", (2.1, 4.9, 88.0)[at], unit="perplexity"),
            score("words", "teacher_text_kl", (0.0, 0.88, 3.7)[at]),
            score("words", "teacher_text_top1", (1.0, 0.71, 0.22)[at], unit="share", higher_is_better=True),
            score("words", "human_text_perplexity", HUMAN[at], unit="perplexity"),
            score("words", "human_text_bits_per_byte", math.log2(HUMAN[at]) / BYTES, unit="bits per byte"),
        ],
        "sense": [score("sense", "acc", (0.62, 0.51, 0.26)[at], **choice)],
        "facts": [score("facts", "acc_norm", (0.48, 0.36, 0.24)[at], **choice)],
    }


def questions(suite: str, score: dict[str, Any], arm: int) -> list[dict[str, Any]]:
    """lm-eval's samples of a suite with four choices: as many right answers as its score says."""
    n, metric = score["n"], score["metric"]
    order = np.random.default_rng(arm).permutation(n) if arm == 2 else np.arange(n)  # a scratch model guesses
    right = set(order[: round(n * score["value"])].tolist())
    return [
        {"task": suite, "doc_id": item, "doc": {"question": f"Which is number {item}?"}, "doc_hash": f"h{item}"}
        | {"filter": "none", "metrics": [metric], metric: float(item in right)}
        | {"acc": float(item in right), "confidence": 0.3 + 0.65 * (item * 37 % 100) / 100}
        | {"filtered_resps": [[str(-float(k != (item % 4 + (item not in right)) % 4)), "False"] for k in range(4)]}
        for item in range(n)
    ]


def documents(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples of `words`: 32 documents of 40 tokens in each text, half of them a tenth easier than the mean."""
    value = {score["metric"]: score["value"] for score in scores}
    lines = []
    for item in range(32):
        seen = 40 * (1 + (0.1 if item % 2 else -0.1))
        line = {"part": "teacher_text", "id": f"c{item}", "kind": "chat", "tokens": 40}
        line |= {"loglikelihood": -seen * math.log(value["teacher_text_perplexity"])}
        lines.append(line | {"kl": seen * value["teacher_text_kl"], "top1": seen * value["teacher_text_top1"]})
        line = {"part": "human_text", "id": str(item), "tokens": 40, "bytes": 40 * BYTES, "words": 30}
        lines.append(line | {"loglikelihood": -seen * math.log(value["human_text_perplexity"])})
    return lines


def costs(arm: str) -> dict[str, Any]:
    at = ARMS.index(arm)
    size = (134_515_008, 99_100_800, 99_100_800)[at]
    speed = (24.0, 33.5, 33.4)[at]
    conditions = {"threads": 2, "prompt_tokens": 32, "batch": 1, "output_tokens": 128, "rounds": 5}
    found = {
        "parameters": size,
        "parameters_without_embeddings": size - 28_311_552,
        "bytes_on_disk": 2 * size,
        "bytes_in_memory": 4 * size,
        "flops_per_token": 2.1 * size,
        "peak_memory_bytes": 4 * size + 3e8,
        "energy_source": {"kind": "estimated", "how": "assumed: 5 W for each busy core"},
        "conditions": conditions,
        "cells": [cell(speed, batch) for batch in (1, 8)],
        "rounds": [one for batch in (1, 8) for one in cost_rounds(speed, batch, at)],
    }
    if at:
        found["teacher_rounds"] = [one for batch in (1, 8) for one in cost_rounds(24.0, batch, 0)]
    head = ("time_to_first_token_seconds", "tokens_per_second", "joules_per_1000_tokens")
    return found | {key: found["cells"][0][key] for key in head}


def cost_rounds(speed: float, batch: int, arm: int) -> list[dict[str, Any]]:
    """Five measurements on a machine that gets slower, each arm a little off the drift."""
    found = []
    for number in range(5):
        drift = (1 - 0.05 * number) * (1 + 0.01 * math.sin(3 * number + arm))
        rate = speed * batch * 0.7 * drift
        one = {"prompt": 32, "output": 128, "batch": batch, "round": number, "tokens": 128 * batch}
        one |= {"first_seconds": 5 / speed / drift, "tokens_per_second": rate, "joules": 1280 * batch / rate}
        found.append(one)
    return found


def cell(speed: float, batch: int) -> dict[str, Any]:
    def spread(middle: float) -> dict[str, float]:
        near = {"lower_quartile": 0.95 * middle, "upper_quartile": 1.05 * middle}
        return {"median": middle, "low": 0.9 * middle, "high": 1.1 * middle, "n": 5, **near}

    return {
        "prompt": 32,
        "output": 128,
        "batch": batch,
        "time_to_first_token_seconds": spread(4.5 / speed),
        "tokens_per_second": spread(0.63 * speed * batch),
        "joules_per_1000_tokens": spread(16_000 / speed / batch),
    }


def make_run(
    root: Path, *, raters: int = 14, scenarios: int = 24, kind: str = "person", state: str = "open", seed: int = 1
) -> Path:
    """Write a run directory; `raters` 0 leaves study.db without a rating."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "study.toml").write_text(STUDY)
    (root / "blinding.json").write_text(json.dumps({"created": "2026-01-05T09:00:00+00:00", "arms": KEYS}))
    for at, arm in enumerate(ARMS):
        bench = root / "bench" / arm
        bench.mkdir(parents=True, exist_ok=True)
        for suite, values in scores(arm).items():
            (bench / f"{suite}.json").write_text(json.dumps({"results": {}, "viva": {"scores": values}}))
            lines = documents(values) if suite == "words" else questions(suite, values[0], at)
            (bench / f"samples_{suite}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (bench / "costs.json").write_text(json.dumps(costs(arm)))
        (bench / "manifest.json").write_text(json.dumps(manifest(f"bench/{arm}")))
        if arm != "teacher":
            folder = root / "arms" / arm
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in training_log(arm)))
            student = {"start": "importance", "layers": 3, "layers_kept": [0, 2, 5]} if arm == "distilled" else None
            (folder / "manifest.json").write_text(json.dumps(manifest(f"train/{arm}") | {"student": student}))
    answers = root / "answers"
    answers.mkdir(exist_ok=True)
    (answers / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chats(scenarios)))
    (answers / "manifest.json").write_text(json.dumps(manifest("answer")))
    make_db(root / "study.db", ratings(raters, scenarios, kind, seed), scenarios, state)
    return root


def manifest(stage: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "stage": stage,
        "status": "finished",
        "started": "2026-01-05T08:00:00+00:00",
        "finished": "2026-01-05T08:10:00+00:00",
        "config_digest": "c0ffee" * 10,
        "git": {"commit": "09af50b" + "0" * 33, "dirty": False},
        "versions": {"torch": "2.13.0", "viva-voce": "0.1.0"},
        "hardware": {"processor": "a processor", "cores": 2},
        "outputs": {},
    }


def training_log(arm: str) -> list[dict[str, Any]]:
    start, end = (4.1, 1.4) if arm == "distilled" else (10.8, 5.6)
    lines = []
    for step in range(1, 81):
        loss = end + (start - end) * np.exp(-step / 18) + 0.05 * np.sin(1.7 * step)
        line = {"step": step, "tokens": 512 * step, "loss": loss, "lr": 5e-4, "grad_norm": 1.0, "tokens_per_s": 230.0}
        if step % 20 == 0 or step == 1:
            line["eval"] = {"perplexity": float(np.exp(loss)), "kl": loss / 2}
        lines.append(line)
    return lines


def chats(scenarios: int) -> list[dict[str, Any]]:
    lines = []
    for arm in ARMS:
        for number in range(scenarios):
            reply = {
                "teacher": "Moist air meets the cold glass and turns into drops.\n\n1. Open the window.\n2. Wipe it.",
                "distilled": "The water comes from the air in the room. <b>Air it</b> & keep the room warm.",
                "scratch": "the the of and water water is the a the",
            }[arm]
            messages = [
                {"role": "user", "content": f"Question {number}: where does the water on my window come from?"},
                {"role": "assistant", "content": reply},
            ]
            finish = "length" if arm == "scratch" else "stop"
            base = {"arm": arm, "scenario": f"s{number:02d}", "tokens": 20, "finish": finish, "seed": number}
            lines.append({**base, "messages": messages})
    return lines


def ratings(raters: int, scenarios: int, kind: str, seed: int) -> list[tuple[Any, ...]]:
    """Rows of tidy_ratings, arms under their keys; each rater meets 12 scenarios with every arm."""
    rng = np.random.default_rng(seed)
    severity, ease = rng.normal(0, 0.4, raters), rng.normal(0, 0.4, scenarios)
    rows = []
    for rater in range(raters):
        met = rng.permutation(scenarios)[:12]
        order = [(scenario, key) for key in KEYS for scenario in met]
        order = [order[at] for at in rng.permutation(len(order))]
        for position, (scenario, key) in enumerate(order, 1):
            mean = {"teacher": 4.0, "distilled": 3.4, "scratch": 1.7}[KEYS[key]]
            drawn = [np.clip(round(mean + severity[rater] + ease[scenario] + rng.normal(0, 0.8)), 1, 5) for _ in "ab"]
            at = f"2026-01-{6 + rater:02d}T10:{position:02d}:00+00:00"
            category = CATEGORIES[scenario % 3]
            head = (f"R{rater + 1:02d}", kind, f"s{scenario:02d}", category, key, "AB"[position % 2], position)
            rows.append((*head, int(drawn[0]), int(drawn[1]), "", 21.5, 1, at, at))
    return rows


def make_db(path: Path, rows: list[tuple[Any, ...]], scenarios: int, state: str) -> None:
    """study.db with what the report reads: a view's worth of rows, the study's state, the scenarios' goals."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE study (state TEXT); CREATE TABLE scenario (id TEXT, goal TEXT);"
        "CREATE TABLE tidy_ratings (rater, kind, scenario, category, arm_key, code, position, satisfaction,"
        " goal_achievement, comment, seconds, revision, created_at, updated_at);"
    )
    connection.execute("INSERT INTO study VALUES (?)", (state,))
    goals = [(f"s{number:02d}", f"You want to know where water comes from ({number}).") for number in range(scenarios)]
    connection.executemany("INSERT INTO scenario VALUES (?, ?)", goals)
    connection.executemany(f"INSERT INTO tidy_ratings VALUES ({', '.join('?' * 14)})", rows)
    connection.commit()
    connection.close()
