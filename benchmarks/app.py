"""The rating page under load, against a Gradio event that does nothing, side by side in one run.

    python benchmarks/app.py [--quick] [--rounds N] [--raters N] [--crowd N]

Ours is the whole rating page as `viva rate` serves it: a submit is checked, stored, on the disk, and answered with the
next page. Theirs is an app with one unqueued Gradio event without inputs, outputs or work, mounted in FastAPI alike.
Each is a process of its own. A third one plays 50 raters at once, each with a connection of its own and without a pause
between two requests, first at one, then at the other, several rounds; what is compared are medians over the rounds.
Printed are requests a second, the 95th percentile of the waiting time, and the processor time that the server spends on
a request, which a busy machine does not spoil as much as it spoils the other two.

Then a crowd of 500 comes: all of them have the page open and press the button at the same moment, several times; and
450 of them keep their page open, loading it anew every 20 s as somebody does who waits, while 50 go on.

Afterwards each acknowledged rating has to be in the database once, as it was sent; or the benchmark fails. So it does
at any answer that is not the one that was due.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHOW, SAVE = 0, 2  # the page's functions (studyapp/app.py)
SCENARIOS, ARMS = 12, 3
PAGES = SCENARIOS * ARMS
RELOAD_SECONDS = 20.0
PLACE = re.compile(rb'"([0-9]+\.[0-9]+\.[A-Z]+)"')
WORDS = ("the", "sea", "a", "fox", "and", "then", "over", "under", "lamp", "river", "winter", "of", "bread", "stone")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds: within ten minutes on two cores")
    parser.add_argument("--rounds", type=int, help="rounds (default: 7; quick: 3)")
    parser.add_argument("--raters", type=int, default=50, help="raters at once")
    parser.add_argument("--crowd", type=int, default=500, help="raters in the crowd; 0: none")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        WORKERS[args.worker[0]](*args.worker[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder), args)
    for row in rows:
        print(json.dumps(row), flush=True)
    print(f"\n{'':64} {'ours':>10} {'theirs':>10} {'':4} {'ratio':>7}", file=sys.stderr)
    for row in rows:
        must = "" if row["must"] is None else f"must {row['must']}"
        print(f"{row['name']:64} {row['ours']:10.4g} {row['theirs']:10.4g} {row['unit']:4} {row['ratio']:6.2f}x {must}",
              file=sys.stderr)  # fmt: skip


def compare(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All that is measured, with the check of what is in the databases at the end."""
    ours, theirs = [], []
    with server("nothing") as other:
        with rating(folder / "study.db") as mine:
            for number in range((args.rounds or (3 if args.quick else 7)) + 1):  # the first one is for warming up
                mine_now = mine.load(mine.join(args.raters), PAGES)
                other_now = load(other, {"raters": [""] * args.raters, "pages": PAGES})
                say(f"round {number or '(warm-up)'}: ours {summary(mine_now)}; theirs {summary(other_now)}")
                if number:
                    ours.append(mine_now)
                    theirs.append(other_now)
        rows = [
            row(f"submits, {args.raters} at once", ours, theirs, "rate", "1/s", 0.7),
            row("waiting time, 95 % within", ours, theirs, "p95_ms", "ms", round(1 / 1.5, 3)),
            row("processor time of the server", ours, theirs, "cpu_ms", "ms", None),
        ]
        if args.crowd:
            with rating(folder / "crowd.db") as mine:
                rows += crowd(mine, other, args, ours)
    return rows


def crowd(
    mine: "Rating", other: tuple[str, int], args: argparse.Namespace, alone: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What so many at once wait at most, and what it costs those who go on that the others keep their page open."""
    raters = mine.join(args.crowd)
    ours, theirs = mine.load(raters, 3), load(other, {"raters": [""] * args.crowd, "pages": 3})
    say(f"crowd: {args.crowd} at once, three times: ours {summary(ours)}; theirs {summary(theirs)}")
    beside = mine.load(raters[: args.raters], PAGES - 3, waiting=raters[args.raters :])
    say(f"crowd: {args.raters} go on: {summary(beside)}; of the others {beside['reloads']} loaded their page anew")
    name = f"submits, {args.raters} at once, {args.crowd - args.raters} waiting; theirs: none waiting"
    return [
        row(f"submits, {args.crowd} at once", [ours], [theirs], "rate", "1/s", None),
        row(f"longest wait, {args.crowd} at once", [ours], [theirs], "max_ms", "ms", None),
        row(name, [beside], alone, "rate", "1/s", None),
    ]


@dataclass
class Rating:
    """A study with its server, and what its raters were told is stored."""

    db: Path
    side: tuple[str, int]
    cookie: str
    sent: list[list[Any]] = field(default_factory=list)

    def join(self, count: int) -> list[str]:
        """So many new raters' cookies."""
        from studyapp import session

        return [session.join(self.db) for _ in range(count)]

    def load(self, raters: Sequence[str], pages: int, waiting: Sequence[str] = ()) -> dict[str, Any]:
        """These raters at once, each at so many pages."""
        found = load(self.side, {"cookie": self.cookie, "raters": raters, "pages": pages, "waiting": waiting})
        self.sent += found.pop("sent")
        return found


@contextmanager
def rating(db: Path) -> Iterator[Rating]:
    """A new study and its server; at the end the database has to hold what raters were told."""
    cookie = study(db)
    with server("rating", str(db)) as side:
        mine = Rating(db, side, cookie)
        yield mine
    say(f"{check(db, mine.sent)} acknowledged ratings, each in the database once, as it was sent; no request failed")


def study(db: Path) -> str:
    """A study of prepared chats of ordinary length; returns the name of its cookie."""
    import random

    from harness.records import Message, Scenario
    from studyapp import store

    rng = random.Random(7)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(words)) + "."

    scenarios = [
        Scenario(id=f"s{n}", category="any", goal=text(12), opening=text(15), turns=2, reached=text(12))
        for n in range(SCENARIOS)
    ]
    answers = [
        (f"arm{arm}", item.id, [Message(role="user", content=item.opening)]
         + [Message(role=role, content=text(n)) for role, n in (("assistant", 80), ("user", 12), ("assistant", 60))])
        for arm in range(ARMS) for item in scenarios
    ]  # fmt: skip
    keys = [f"arm{arm}" for arm in range(ARMS)]
    store.create(db, name="load", mode="fixed", seed=7, scenarios=scenarios, arm_keys=keys, answers=answers,
                 ratings_per_cell=10_000, scenarios_per_rater=SCENARIOS)  # fmt: skip
    return f"viva_{store.study(db).uid}"


def check(db: Path, sent: Sequence[Sequence[Any]]) -> int:
    """Stop the benchmark unless each rating that was acknowledged is stored once, as it was sent, and no other is."""
    from studyapp.store_raters import rater_by_token

    numbers = {token: rater_by_token(db, token) for token in {one[0] for one in sent}}
    wanted = sorted((numbers[token].id, *rest) for token, *rest in sent)  # type: ignore[union-attr]
    connection = sqlite3.connect(db)
    columns = "rater, position, {0}.satisfaction, {0}.goal_achievement, {0}.comment FROM {0} JOIN assignment ON"
    for table in ("rating", "rating_event"):
        sql = f"SELECT {columns.format(table)} assignment.id = assignment AND revision = 1 ORDER BY 1, 2"
        if [*connection.execute(sql)] != wanted:
            raise SystemExit(f"the database does not have what was acknowledged: {len(wanted)} ratings")
    rest = [connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("rating", "rating_event")]
    state = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    if rest != [len(wanted)] * 2 or state != "ok":
        raise SystemExit(f"{len(wanted)} ratings were acknowledged, and {rest} are stored ({state})")
    return len(wanted)


# ---------------------------------------------------------------- the processes


@contextmanager
def server(*worker: str) -> Iterator[tuple[str, int]]:
    """One side's server: its address and its process's number."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--worker", *worker]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit(f"the {worker[0]} server did not start")
        yield url, process.pid
    finally:
        if process.poll() is not None:
            say(f"the {worker[0]} server has ended by itself ({process.returncode})")
        process.terminate()
        process.wait()


def serve_rating(db: str) -> None:
    """Our side: the page as `viva rate` serves it."""
    from studyapp.server import serve

    serve(Path(db), port=0, on_ready=lambda url: print(url, flush=True))


def serve_nothing() -> None:
    """Their side: an event of Gradio's that does nothing, past the queue, as quiet as ours."""
    import fastapi
    import gradio as gr
    import uvicorn

    from studyapp.listening import listen

    async def nothing() -> None:  # a plain function would cost a thread: a tenth more
        return None

    with gr.Blocks(analytics_enabled=False) as demo:
        gr.Button("nothing").click(nothing, None, None, queue=False)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(app, demo, path="/", run_history=False, enable_monitoring=False, ssr_mode=False)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, ws="none")
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def load(side: tuple[str, int], order: dict[str, Any]) -> dict[str, Any]:
    """One round of raters at a server, played by a process of its own."""
    url, pid = side
    before = cpu_seconds(pid)
    done = subprocess.run([sys.executable, __file__, "--worker", "load"], input=json.dumps({"url": url, **order}),
                          stdout=subprocess.PIPE, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit("the raters failed")
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "cpu_ms": (cpu_seconds(pid) - before) / found["requests"] * 1000}


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its threads so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- the raters


def play() -> None:
    """Play the raters that stdin asks for; their times and what they were told is stored go to stdout."""
    order = json.loads(sys.stdin.read())
    print(json.dumps(asyncio.run(_play(order))))


async def _play(order: dict[str, Any]) -> dict[str, Any]:
    host, port = re.match(r"http://([\d.]+):(\d+)/", order["url"]).groups()  # type: ignore[union-attr]
    players = [Player(host, int(port), order.get("cookie"), token) for token in order["raters"]]
    waiting = [Player(host, int(port), order["cookie"], token) for token in order.get("waiting", [])]
    for some in range(0, len(players), 10):
        await asyncio.gather(*(player.open() for player in players[some : some + 10]))
    reloads = [asyncio.create_task(one.wait(n / len(waiting))) for n, one in enumerate(waiting)]
    begun = time.perf_counter()
    await asyncio.gather(*(player.rate(order["pages"]) for player in players))
    seconds = time.perf_counter() - begun
    for task in reloads:
        if task.done():
            task.result()
        task.cancel()
    times = sorted(took for player in players for took in player.times)
    return {
        "n": len(times),
        "requests": sum(one.asked for one in [*players, *waiting]),
        "rate": len(times) / seconds,
        "p95_ms": statistics.quantiles(times, n=20)[-1] * 1000,
        "max_ms": times[-1] * 1000,
        "sent": [one for player in players for one in player.sent],
        "reloads": sum(one.asked for one in waiting),
    }


class Player:
    """One rater, or one who presses the button of the app that does nothing: a connection, one request at a time."""

    def __init__(self, host: str, port: int, cookie: str | None, token: str) -> None:
        own = f"Cookie: {cookie}={token}\r\n" if cookie else ""
        self.head = f" HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: http://{host}:{port}\r\n{own}"
        self.address, self.token = (host, port), token
        self.reader: asyncio.StreamReader | None = None
        self.place = b""
        self.asked = 0
        self.times: list[float] = []
        self.sent: list[list[Any]] = []

    async def open(self) -> None:
        """Open the page; the app that does nothing has none."""
        if self.token:
            self.place = await self.call(SHOW, [])

    async def rate(self, pages: int) -> None:
        """So many pages, or so many times nothing."""
        for number in range(pages):
            begun = time.perf_counter()
            if not self.token:
                await self.call(0, [])
                self.times.append(time.perf_counter() - begun)
                continue
            position, marks = int(self.place.split(b".")[0]), [1 + number % 5, 1 + (number + len(self.token)) % 5]
            comment = f"{self.token[:6]} on {position}"
            self.place = await self.call(SAVE, [self.place.decode(), *marks, comment])
            self.times.append(time.perf_counter() - begun)
            self.sent.append([self.token, position, *marks, comment])
            if self.place and int(self.place.split(b".")[0]) <= position:
                raise SystemExit(f"after page {position} came {self.place!r}")

    async def wait(self, part: float) -> None:
        """Keep the page open and load it anew every now and then, until cancelled."""
        await asyncio.sleep(part * RELOAD_SECONDS)
        while True:
            await self.ask(f"GET /{self.head}\r\n".encode())
            self.place = await self.call(SHOW, [])
            await asyncio.sleep(RELOAD_SECONDS)

    async def call(self, function: int, data: list[Any]) -> bytes:
        """One event of the page; the place that it leads to, empty at the end."""
        body = json.dumps({"data": data, "fn_index": function, "session_hash": self.token[:12] or "nothing",
                           "event_data": None, "trigger_id": 1}).encode()  # fmt: skip
        head = f"POST /gradio_api/run/predict{self.head}Content-Type: application/json\r\n"
        said = await self.ask(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if b"viva-note" in said:
            raise SystemExit(f"a call was refused: {said!r}")
        found = PLACE.search(said)
        return found[1] if found else b""

    async def ask(self, request: bytes) -> bytes:
        if self.reader is None or self.reader.at_eof():  # the server hangs up after five idle seconds
            self.reader, self.writer = await asyncio.open_connection(*self.address)
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise SystemExit(f"not the answer that was due: {head!r}")
        self.asked += 1
        return await self.reader.readexactly(int(length[1]))


# ---------------------------------------------------------------- what is printed


def row(
    name: str, ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], key: str, unit: str, must: float | None
) -> dict[str, Any]:
    mine, other = (statistics.median(one[key] for one in side) for side in (ours, theirs))
    ratio = mine / other if key == "rate" else other / mine
    return {"name": name, "ours": round(mine, 3), "theirs": round(other, 3), "unit": unit, "ratio": round(ratio, 3),
            "must": must, "aim": None, "n": len(ours), "machine": machine()}  # fmt: skip


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def summary(found: dict[str, Any]) -> str:
    return f"{found['rate']:.0f}/s, 95 % within {found['p95_ms']:.0f} ms, {found['cpu_ms']:.2f} ms of processor time"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


WORKERS: dict[str, Any] = {"rating": serve_rating, "nothing": serve_nothing, "load": play}

if __name__ == "__main__":
    main()
