"""The recipe after Vicuna: arms answer 80 questions, and what a judge's liking for a place does to the fraction."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from harness.cli import main
from harness.judging.stage import judge_here
from harness.prepared_chats import answer
from harness.records import Scenario, read_jsonl
from harness.resources import data_path
from harness.stages import Run, open_run, train_stage
from harness.study_file import load_study
from reports.database import Database
from reports.judge_records import read_judging
from reports.judges import judge_blocks
from tests.judging.judge_server import first_wins, judging_server
from tests.tiny import save_tiny, tiny_corpus

FILE = data_path("studies/vicuna.toml")
STUDY = load_study(FILE)
PUBLISHED = Path(__file__).parent.parent.parent / "shared" / "data" / "vicuna_bench"


def test_the_eighty_questions_are_judged_in_both_orders_and_the_control_has_the_students_tokens() -> None:
    questions = read_jsonl(data_path("prompts/judge-questions.jsonl"), Scenario)
    assert len(questions) == 80
    assert STUDY.rate.scenarios == "data:prompts/judge-questions.jsonl"
    assert STUDY.judge is not None
    assert STUDY.judge.modes == ("pairwise",)
    assert len(STUDY.judge.by) == 2
    assert not [by.name for by in STUDY.judge.by if by.endpoint]  # viva run asks them, nothing is paid for
    distilled, scratch = STUDY.student
    assert distilled.train is not None
    assert scratch.train is not None
    assert (scratch.control_of, scratch.start, scratch.shape) == ("distilled", "scratch", distilled.shape)
    assert scratch.train.tokens == distilled.train.tokens
    assert (set(distilled.train.terms.weights), set(scratch.train.terms.weights)) == ({"kd"}, {"ce"})


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipe with tiny models and four of its questions, answered; its judges are still to be asked."""
    folder = tmp_path_factory.mktemp("vicuna")
    config = save_tiny(folder / "teacher") / "config.json"  # of bytes: requests need a window that they fit into
    config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 8192'))
    tiny_corpus(folder / "corpus.jsonl")
    lines = data_path("prompts/judge-questions.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "questions.jsonl").write_text("\n".join(lines[:40:10]) + "\n", encoding="utf-8")
    text = re.sub(r'source *= "pypi:[^"]*"\nsha256 *= "[0-9a-f]*"', 'source = "teacher"', FILE.read_text())
    study: Any = tomlkit.parse(text)
    study["student"][0]["shape"] = {"layers": 2}
    study["student"][0]["train"] |= {"corpus": "corpus.jsonl", "tokens": 400, "row_tokens": 200}
    study["rate"]["scenarios"] = "questions.jsonl"
    study["answer"]["max_tokens"] = 8
    for by in study["judge"]["by"]:
        by["max_tokens"] = 16
    (folder / "study.toml").write_text(tomlkit.dumps(study))
    run = open_run(folder / "study.toml", folder / "run")
    train_stage(run)
    answer(run)
    return run


def blocks(run: Run) -> dict[str, Any]:
    names = json.loads(run.dir.blinding.read_text())["arms"]
    study = run.study.model_dump(mode="json", by_alias=True, exclude_none=True)
    judging = read_judging(Database(run.dir.db), names, study)
    assert judging is not None
    found = judge_blocks(judging, None, run.study.arms)
    assert found is not None
    return found


def test_the_recipes_own_judges_are_asked_without_a_hand(short: Run, capsys: pytest.CaptureFixture[str]) -> None:
    judge_here(short)
    said = capsys.readouterr().err
    assert "smol, pairwise: 16 of 16 verdicts" in said  # 4 questions x 2 students against the teacher x 2 orders
    assert "student, pairwise: 16 of 16 verdicts" in said
    found = blocks(short)
    assert [one["judge"] for one in found["pairwise"]] == ["smol", "student"]
    for judge in found["pairwise"]:
        for pair in judge["pairs"]:
            if pair["against"] == "teacher":
                assert pair["n"] == 4
                assert pair["fraction"]["estimate"] > 0


def test_a_judge_that_likes_the_first_place_is_exposed_by_swapping_and_decides_nothing(short: Run) -> None:
    with judging_server(first_wins) as server:
        text = short.dir.study.read_text()
        judges = text.index("[[judge.by]]")
        here = f'[[judge.by]]\nname = "first"\nendpoint = "{server.url}"\nmodel = "some-judge"\n\n'
        after = text.index("[report]") if text.find("[report]") > judges else len(text)
        (short.dir.root.parent / "study.toml").write_text(text[:judges] + here + text[after:])
        assert main(["judge", str(short.dir.root.parent / "study.toml"), "--run", str(short.dir.root)]) == 0
    (found,) = [one for one in blocks(short)["pairwise"] if one["judge"] == "first"]
    for pair in found["pairs"]:
        assert pair["orders"]["shown_second"]["fraction"]["estimate"] == pytest.approx(3 / 5)  # as Vicuna was shown
        assert pair["orders"]["shown_first"]["fraction"]["estimate"] == pytest.approx(5 / 3)
        assert pair["fraction"]["estimate"] == 1.0
        assert pair["tie"] == 1.0
    assert found["swap"]["consistent"] == 0.0
    assert found["swap"]["first"] == 1.0


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs the published reviews in ../shared/data/vicuna_bench")
def test_the_published_headline_is_recomputed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "--reviews", str(PUBLISHED / "reviews.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "vicuna-13b of gpt-3.5-turbo: 638 of 693 = 92.1 % (88.0 to 96.2)" in said
    assert "vicuna-13b of bard: 655.5 of 664 = 98.7 %" in said
    assert "gpt-3.5-turbo was always shown first" in said
