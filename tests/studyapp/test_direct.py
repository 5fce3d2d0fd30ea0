"""Calls past the queue are answered by us in Gradio's form: what Gradio itself would say is held against it."""

import json
import os
import subprocess
import sys

import pytest
from served import ROOT, Client
from small_study import KEYS, known, make

# Each call goes both ways, ours first: the same submit again changes nothing, and shows the same page.
# "@" is the place of the page where the rater is.
BOTH = """
import asyncio, json, sys
from pathlib import Path
import httpx
from studyapp import session
from studyapp.broker import Broker
from studyapp.server import build

db, calls = Path(sys.argv[1]), json.loads(sys.argv[2])
parts = build(db, broker=Broker("unix:/nowhere", "")).app
rater = session.who(db, session.join(db))

def here():
    item = session.current(db, rater).item
    return f"{item.position}.{item.version}.{'+'.join(panel.code for panel in item.panels)}" if item else ""

async def ask(app, call):
    async def seen(scope, receive, send):
        state = {"rater": rater, "language": "de", "call": call}
        await app(dict(scope, state=state), receive, send)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(seen), base_url="http://here") as client:
        said = await client.post("/gradio_api/run/predict", json=call)
        return [said.status_code, said.headers["content-type"], said.json()]

async def main():
    found = []
    for number, (function, *data) in enumerate(calls):
        data = [here() if value == "@" else value for value in data]
        call = {"data": data, "fn_index": function, "session_hash": f"s{number}", "event_data": None, "trigger_id": 1}
        found.append([await ask(app, call) for app in (parts.direct, parts.rating)])
    print(json.dumps([found, sorted(parts.direct.functions)]))

asyncio.run(main())
"""

FULL = [4, 2, "two <b>words</b> \U0001f600"]
SIDE_BY_SIDE = (
    [Client.SHOW],
    [Client.SPEAK],
    [Client.SAVE, "nonsense", *FULL, *FULL, None],
    [Client.SAVE, "@", *FULL, *FULL, None],
    [Client.SAVE, "@", *FULL, 9, None, 7, "none"],
    [Client.SAVE, "@", *FULL, *FULL, "none"],
    [Client.ONWARD, "@"],
    [Client.SAVE, "@", *FULL, *FULL, "A"],
    [Client.BACK, "@"],
    [Client.REPORT, "it is broken", "@"],
    [Client.REPORT, "", "@"],
)
LIVE = (
    [Client.SHOW],
    [Client.SPEAK],
    [Client.SAVE, "@", *FULL],
    [Client.FINISH, "@"],
    [Client.AGAIN, "@"],
    [Client.SEND, "", "@"],
    [Client.SEND, "a question", "nonsense"],
    [Client.SETTLE, "@"],
)


def both_ways(db, calls):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BOTH, str(db), json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("mode", "calls", "named"), [("side-by-side", SIDE_BY_SIDE, 6), ("live", LIVE, 12)])
def test_the_answers_are_those_of_gradio(tmp_path, mode, calls, named):
    make(tmp_path / "study.db", mode=mode, keys=KEYS[:2], training=[known(1), known(2)] if mode != "live" else ())
    answers, functions = both_ways(tmp_path / "study.db", calls)
    for call, (ours, theirs) in zip(calls, answers, strict=True):
        assert theirs[0] == 200, (call, theirs)
        assert ours == theirs, call
    assert len({json.dumps(ours) for ours, _ in answers}) > len(calls) - 3  # they do not all say the same
    assert len(functions) == named, "a function that is not held against Gradio here"
