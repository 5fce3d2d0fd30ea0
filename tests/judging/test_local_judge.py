"""A judge that runs here: a tiny random model, whose replies nobody can read, and what becomes of those."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RatingError
from harness.judge_table import JudgeBy
from harness.judging.local import ask_local
from harness.judging.stage import judge_all, prepare
from harness.records import Message
from tests.judging.judged_run import make_run
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a window that requests fit into."""
    folder = save_tiny(tmp_path_factory.mktemp("judge") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return folder


def rows(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(db) as connection:
        return connection.execute(sql).fetchall()


def test_unreadable_replies_of_a_local_judge_are_counted_and_nothing_is_rated(tmp_path: Path, model: Path) -> None:
    judges = f'[judge]\nattempts = 2\n[[judge.by]]\nname = "tiny"\nsource = "{model}"\nmax_tokens = 16\nbatch = 4\n'
    run = make_run(tmp_path, judges, count=1)
    judging = prepare(run)
    assert (judging.costs()[0].expected, judging.costs()[0].where) == (0.0, "runs here")
    assert "0 of 3 verdicts, 6 of 6 replies unreadable; 3 items without" in judge_all(run, judging)
    facts = rows(run.dir.db, "SELECT replies, invalid, verdicts, unanswered, tokens_out, host FROM tidy_judges")[0]
    assert facts[:4] == (6, 6, 0, 3)
    assert 0 < facts[4] <= 6 * 16
    assert facts[5] == ""
    assert rows(run.dir.db, "SELECT count(*) FROM rating") == [(0,)]
    assert all(
        raw or problem in ("empty", "cut") for raw, problem in rows(run.dir.db, "SELECT raw, problem FROM verdict")
    )


def test_an_arm_can_judge_and_its_name_stays_out_of_the_database(tmp_path: Path, model: Path) -> None:
    run = make_run(
        tmp_path, '[judge]\nattempts = 1\n[[judge.by]]\nname = "self"\narm = "distilled"\nmax_tokens = 16\n', count=1
    )
    text = run.dir.study.read_text()
    (tmp_path / "study.toml").write_text(text.replace('source = "nowhere"', f'source = "{model}"'))
    from harness.stages import open_run

    other = open_run(tmp_path / "study.toml", tmp_path / "other")
    other.dir.answers.mkdir()
    for name in ("answers.jsonl", "manifest.json"):
        (other.dir.answers / name).write_text((run.dir.answers / name).read_text())
    assert "3 of 3 replies unreadable" in judge_all(other, prepare(other))
    assert rows(other.dir.db, "SELECT model FROM judge") == [("an arm of the study",)]
    assert b"distilled" not in other.dir.db.read_bytes()


def test_the_same_request_gets_the_same_reply_whatever_stands_beside_it(model: Path) -> None:
    by = JudgeBy(name="tiny", source=str(model), max_tokens=16, batch=2)
    chats = [(Message(role="user", content=f"Count to {number}."),) for number in (3, 12, 7)]
    ask = ask_local(by, "single", model)
    together = dict(ask(chats))
    assert sorted(together) == [0, 1, 2]
    for index, chat in enumerate(chats):
        alone = dict(ask([chat]))[0]
        assert (alone.text, alone.tokens_in, alone.tokens_out) == (
            together[index].text, together[index].tokens_in, together[index].tokens_out,
        )  # fmt: skip


def test_a_request_beyond_the_window_is_not_asked(model: Path) -> None:
    by = JudgeBy(name="tiny", source=str(model), max_tokens=16)
    long = (Message(role="user", content="x" * 9000),)
    found = dict(ask_local(by, "single", model)([long, (Message(role="user", content="Hello."),)]))
    assert found[0].problem == "too_long"
    assert "window is 8192" in found[0].text
    assert found[1].problem is None


def test_a_judge_held_to_the_form_can_always_be_read(tmp_path: Path, model: Path) -> None:
    judges = (
        f'[judge]\nmodes = ["single", "pairwise"]\n[[judge.by]]\nname = "tiny"\nsource = "{model}"\n'
        'max_tokens = 16\nform = "forced"\n'
    )
    run = make_run(tmp_path, judges, count=2)
    said = judge_all(run, prepare(run))
    assert "single: 6 of 6 verdicts, 0 of 6 replies unreadable" in said
    assert "pairwise: 8 of 8 verdicts, 0 of 8 replies unreadable" in said
    assert rows(run.dir.db, "SELECT count(*) FROM tidy_ratings") == [(6,)]
    assert "forced" in rows(run.dir.db, "SELECT settings FROM judge")[0][0]
    for winner, first, second in rows(run.dir.db, "SELECT winner, score_first, score_second FROM tidy_verdicts"
                                                  " WHERE mode = 'pairwise'"):  # fmt: skip
        assert winner == "tie" or (first >= second if winner == "first" else second >= first)


def test_precision_is_what_a_judge_is_known_by(tmp_path: Path, model: Path) -> None:
    judges = f'[judge]\n[[judge.by]]\nname = "tiny"\nsource = "{model}"\nmax_tokens = 16\nform = "forced"\n'
    run = make_run(tmp_path, judges + 'precision = "bfloat16"\n', count=1)
    assert "3 of 3 verdicts" in judge_all(run, prepare(run))
    assert '"precision": "bfloat16"' in rows(run.dir.db, "SELECT settings FROM judge")[0][0]
    with pytest.raises(RatingError, match="tiny"):
        prepare(make_run(tmp_path, judges, count=1))
    with pytest.raises(ValueError, match="precision does nothing here"):
        JudgeBy(name="far", endpoint="http://host/v1", model="m", precision="auto")


def test_a_forced_mark_is_the_likeliest_of_those_allowed(model: Path) -> None:
    import torch

    from harness.judging.forced import MARKS, AsRead, likeliest
    from harness.models.load import load_model

    loaded = load_model(model)
    prompt = loaded.tokenizer("How", add_special_tokens=False)["input_ids"]
    whole = loaded.tokenizer("How many? ", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits_V = loaded.model(torch.tensor([whole])).logits[0, -1]
    by_hand = max(MARKS, key=lambda mark: float(logits_V[loaded.tokenizer(mark)["input_ids"][0]]))
    assert likeliest(loaded, prompt, " many? ", MARKS) == by_hand
    read = AsRead()  # what was read for the slots before is not read again, and changes nothing
    for text in (" many", " many? ", " much? "):
        again = [likeliest(loaded, prompt, text, MARKS, one) for one in (read, None)]
        assert again[0] == again[1]
        ids = loaded.tokenizer("How" + text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            expected_V = loaded.model(torch.tensor([ids])).logits[0, -1]
        assert torch.allclose(read.logits(loaded.model, ids), expected_V, atol=1e-4)
    others = tuple(mark for mark in MARKS if mark != by_hand)
    assert likeliest(loaded, prompt, " many? ", others) in others
    assert likeliest(loaded, prompt, " many? ", ("tie",)) == "tie"
