"""A bench that is killed goes on at the next item, and nobody can tell from the results."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance

from harness.bench.evaluate import run_suite
from harness.bench.packed import PackedLM
from harness.bench.requests import request_keys
from harness.bench.resume import Kept
from harness.bench.suites import load_suite

ROOT = Path(__file__).parent.parent.parent
SLOWLY = """
import json, sys, time
from pathlib import Path
from harness.bench.evaluate import run_suite
from harness.bench.packed import PackedLM
from harness.bench.resume import Kept
from harness.bench.suites import load_suite
from harness.models.load import load_model

model, file, limit, pause = sys.argv[1:]
loaded = load_model(Path(model))
lm = PackedLM(
    loaded.model, loaded.tokenizer, token_budget=1, kept=Kept(Path(file), "k"),
    on_done=lambda done, total: time.sleep(float(pause)),
)
results, samples = run_suite(lm, load_suite("sense"), int(limit))
print(json.dumps([results["results"], samples]))
"""
PAIRS = [(context, ending) for context in ("The spider", "Water boils", "x") for ending in (" waited", " at", ".")]


def ask(kind, arguments):
    return [Instance(kind, {"id": 1}, args, i, ("task", 1, 1)) for i, args in enumerate(arguments)]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def start(model_dir, path, pause):
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(model_dir), str(path), "12", str(pause)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_goes_on_at_the_next_item(model_dir, tmp_path, model, tokenizer):
    """A real process, killed in the middle; then another one on the same folder."""
    kept = tmp_path / "items.jsonl"
    first = start(model_dir, kept, 0.3)
    deadline = time.monotonic() + 300
    while first.poll() is None and (not kept.is_file() or kept.read_bytes().count(b"\n") < 14):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    before = lines(kept)
    assert 14 <= len(before) < 1 + 12 * 4
    second = start(model_dir, kept, 0)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0
    after = lines(kept)
    assert after[: len(before)] == before
    assert len(after) == 1 + 12 * 4
    assert len({line["request"] for line in after[1:]}) == 12 * 4  # nothing was scored twice
    results, samples = run_suite(PackedLM(model, tokenizer, token_budget=1), load_suite("sense"), 12)
    assert json.loads(output) == json.loads(json.dumps([results["results"], samples]))


@pytest.mark.parametrize("there", [0, 4, 9])
@pytest.mark.parametrize("torn", [False, True])
def test_what_is_there_is_not_asked_again(model, tokenizer, tmp_path, there, torn):
    requests = ask("loglikelihood", PAIRS)
    expected = PackedLM(model, tokenizer).loglikelihood(requests)
    path = tmp_path / "items.jsonl"
    kept = Kept(path, "k")
    kept.add(list(zip(request_keys("loglikelihood", requests), [[-1.5, True]] * there, strict=False)))
    if torn:
        path.write_text(path.read_text() + '{"request": "x", "ans')
    seen = []
    lm = PackedLM(model, tokenizer, kept=Kept(path, "k"), on_done=lambda done, total: seen.append((done, total)))
    found = lm.loglikelihood(requests)
    assert found == [(-1.5, True)] * there + expected[there:]
    assert seen[0] == (there, 9)
    assert seen[-1] == (9, 9)
    assert len(lines(path)) == 1 + 9
    again = PackedLM(model, tokenizer, kept=Kept(path, "k"))
    again.reader = None  # nothing is left to read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "harness.bench.packed.score", lambda reader, spans, wanted, **_: None if not any(wanted) else 1 / 0
        )
        assert again.loglikelihood(requests) == found


def test_all_kinds_of_answers_are_kept(model, tokenizer, tmp_path):
    path = tmp_path / "items.jsonl"
    options = {"until": ["\n"], "max_gen_toks": 4, "do_sample": True, "temperature": 0.8}
    rolling = ask("loglikelihood_rolling", [("The spider waited. " * n,) for n in (0, 1, 60)])
    long = "The spider waited. " * 60
    # Repeats: each has an answer of its own.
    writing = ask("generate_until", [("The spider", options)] * 2 + [(long, options)])
    first = PackedLM(model, tokenizer, kept=Kept(path, "k"))
    answers = first.loglikelihood_rolling(rolling), first.generate_until(writing)
    assert len(lines(path)) == 1 + 3 + 3
    second = PackedLM(model, tokenizer, kept=Kept(path, "k"))
    assert (second.loglikelihood_rolling(rolling), second.generate_until(writing)) == answers
    assert first.truncated == second.truncated == 1
    assert len(lines(path)) == 1 + 3 + 3


def test_another_model_begins_anew(tmp_path):
    path = tmp_path / "items.jsonl"
    Kept(path, "one").add([("a", 1.0)])
    assert Kept(path, "one").answers == {"a": 1.0}
    assert Kept(path, "two").answers == {}
    assert lines(path) == [{"key": "two"}]
    path.write_text('{"key": "two"}\nnot json\n{"request": "a", "answer": 1}\n')
    assert Kept(path, "two").answers == {}
    Kept(path, "two").discard()
    assert not path.exists()


def test_a_key_tells_requests_apart():
    one, two = ask("loglikelihood", PAIRS[:2])
    other = Instance("loglikelihood", {"id": 2}, PAIRS[0], 0, ("task", 1, 1))
    elsewhere = Instance("loglikelihood", {"id": 1}, PAIRS[0], 0, ("another", 1, 1))
    keys = request_keys("loglikelihood", [one, two, one, other, elsewhere])
    assert len(set(keys)) == 5
    assert keys[0].removesuffix("-0") == keys[2].removesuffix("-1")
    assert request_keys("generate_until", [one]) != keys[:1]
