"""Published reviews: FastChat's formats, Vicuna's headline, and what order does to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import ConfigError
from reports.review_tables import text
from reports.reviews import analyse_reviews, read_reviews

Tree = dict[str, Any]


def write(path: Path, rows: list[Tree]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def first_format(question: int, scores: list[float], ids: tuple[str, str] = ("", "")) -> Tree:
    """A review as FastChat's first evaluation wrote it."""
    return {
        "review_id": f"r{question}", "question_id": question, "answer1_id": ids[0], "answer2_id": ids[1],
        "text": f"{scores[0]:g} {scores[1]:g}\nBoth did well.", "score": scores, "reviewer_id": "some-judge",
        "metadata": {},
    }  # fmt: skip


def pair_of(found: Tree, model: str, base: str) -> Tree:
    return next(pair for pair in found["pairs"] if (pair["model"], pair["base"]) == (model, base))


@pytest.fixture(scope="module")
def vicuna(shared_data: Path) -> Path:
    folder = shared_data / "vicuna_bench"
    if not folder.is_dir():
        pytest.skip(f"no published reviews at {folder}")
    return folder


def test_vicunas_headline_is_reproduced_with_the_interval_it_lacked(vicuna: Path) -> None:
    found = analyse_reviews(read_reviews(vicuna / "reviews.jsonl"))
    chatgpt, bard = pair_of(found, "vicuna-13b", "gpt-3.5-turbo"), pair_of(found, "vicuna-13b", "bard")
    assert (chatgpt["fraction"]["student"], chatgpt["fraction"]["teacher"]) == (638.0, 693.0)
    assert round(100 * chatgpt["fraction"]["estimate"], 1) == 92.1
    assert (bard["fraction"]["student"], bard["fraction"]["teacher"]) == (655.5, 664.0)
    assert round(100 * bard["fraction"]["estimate"], 1) == 98.7
    assert chatgpt["fraction"]["low"] < 0.90 < chatgpt["fraction"]["high"], "'more than 90 %' lies inside the interval"
    assert chatgpt["fraction"]["bootstrap_low"] == pytest.approx(chatgpt["fraction"]["low"], abs=0.01)
    assert (chatgpt["win"], chatgpt["tie"], chatgpt["loss"]) == (14, 22, 44)
    assert (chatgpt["base_first"], chatgpt["n_reviews"], chatgpt["swap"]) == (80, 80, None)
    assert "gpt-3.5-turbo was always shown first" in text(found)


def test_all_thirteen_sums_are_those_of_the_published_files(vicuna: Path) -> None:
    found = analyse_reviews(read_reviews(vicuna))
    totals = json.loads((vicuna / "totals.json").read_text())
    assert len(found["pairs"]) == len(totals) == 13, "reviews that stand in two files come once"
    for one in totals:
        pair = next(
            p for p in found["pairs"] if (p["run"], p["base"], p["model"]) == (one["run"], one["model1"], one["model2"])
        )
        assert (pair["fraction"]["teacher"], pair["fraction"]["student"]) == (one["total1"], one["total2"])
        assert pair["n_questions"] == one["n"]
    chatgpt = pair_of(found, "vicuna-13b", "gpt-3.5-turbo")
    assert len(chatgpt["category"]) == 9
    assert sum(part["n"] for part in chatgpt["category"].values()) == 80
    assert chatgpt["category"]["math"]["low"] is None, "three questions have no interval"
    assert chatgpt["longer_wins"]["n"] == 58


def test_the_command_prints_the_headline(vicuna: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "--reviews", str(vicuna / "reviews.jsonl"), "--teacher", "gpt-3.5-turbo"]) == 0
    out = capsys.readouterr().out
    assert "vicuna-13b of gpt-3.5-turbo: 638 of 693 = 92.1 % (88.0 to 96.2)" in out
    assert "bard" not in out
    assert main(["judge", "--reviews", str(vicuna / "reviews.jsonl"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pairs"]) == 4


def test_first_reviews_take_names_from_their_answers_or_their_file(tmp_path: Path) -> None:
    rows = [first_format(q, [8.0, 7.0 + q % 2]) for q in range(6)]
    write(tmp_path / "table" / "review_chat_small-13b.jsonl", rows)
    found = analyse_reviews(read_reviews(tmp_path))
    pair = pair_of(found, "small-13b", "chat")
    assert (pair["fraction"]["student"], pair["fraction"]["teacher"]) == (45.0, 48.0)
    assert pair["reviewers"] == ["some-judge"]

    other = tmp_path / "other"
    write(
        other / "answer_a.jsonl",
        [{"question_id": q, "answer_id": f"a{q}", "model_id": "model_a", "text": "x" * 9} for q in range(6)],
    )
    write(
        other / "answer_b.jsonl",
        [{"question_id": q, "answer_id": f"b{q}", "model_id": "model_b", "text": "x" * 99} for q in range(6)],
    )
    write(other / "questions.jsonl", [{"question_id": q, "text": "?", "category": "uv"[q % 2]} for q in range(6)])
    write(other / "reviews.jsonl", [first_format(q, [5.0, 6.0], (f"a{q}", f"b{q}")) for q in range(6)])
    pair = pair_of(analyse_reviews(read_reviews(other)), "model_b", "model_a")
    assert pair["longer_wins"]["estimate"] == 1.0
    assert list(pair["category"]) == ["u", "v"]


def test_scores_are_read_from_the_text_where_the_field_is_missing_and_failures_counted(tmp_path: Path) -> None:
    rows = [first_format(q, [8.0, 6.0]) for q in range(5)]
    del rows[0]["score"]
    rows[1]["score"] = [-1, -1]
    rows[2] = {**rows[2], "text": "I cannot say."}
    del rows[2]["score"]
    found = analyse_reviews(read_reviews(write(tmp_path / "review_a_b.jsonl", rows)))
    assert found["invalid"] == 2
    assert found["pairs"][0]["fraction"]["student"] == 18.0
    assert "2 reviews without a score or a winner left out" in text(found)


def mt_pair(question: int, turn: int, g1: str, g2: str) -> Tree:
    return {
        "question_id": question, "model_1": "one", "model_2": "two", "g1_winner": g1, "g2_winner": g2,
        "judge": ["gpt-4", "pair-v2"], "g1_user_prompt": "", "g1_judgment": "", "g2_user_prompt": "", "g2_judgment": "",
        "turn": turn, "tstamp": 1.0,
    }  # fmt: skip


def test_judgments_in_both_orders_show_what_swapping_does(tmp_path: Path) -> None:
    rows = [mt_pair(q, 1, "model_1", "model_1") for q in range(81, 85)]  # an opinion of the answers
    rows += [mt_pair(q, 1, "model_1", "model_2") for q in range(85, 89)]  # whatever comes first
    rows += [mt_pair(89, 1, "tie", "tie"), mt_pair(90, 1, "model_1", "error")]
    found = analyse_reviews(read_reviews(write(tmp_path / "gpt-4_pair.jsonl", rows)))
    pair = found["pairs"][0]
    assert found["invalid"] == 1
    assert (pair["base"], pair["model"], pair["n_reviews"], pair["fraction"]) == ("one", "two", 19, None)
    assert (pair["swap"]["n"], pair["swap"]["consistent"], pair["swap"]["first"]) == (9, 5 / 9, 4 / 9)
    assert (pair["win"], pair["tie"], pair["loss"]) == (4, 2, 13)
    assert "whatever came first" in text(found)
    turned = analyse_reviews(read_reviews(tmp_path / "gpt-4_pair.jsonl"), teacher="two")["pairs"][0]
    assert (turned["base"], turned["win"], turned["loss"]) == ("two", 13, 4)


def test_scores_of_single_answers_are_compared_over_common_questions(tmp_path: Path) -> None:
    rows = [
        {"question_id": q, "model": model, "judge": ["gpt-4", "single-v1"], "user_prompt": "", "judgment": f"[[{s}]]",
         "score": s, "turn": turn, "tstamp": 1.0}
        for q in range(81, 91)
        for turn in (1, 2)
        for model, s in (("large", 8), ("small", 6 + q % 2), ("tiny", 4 if q < 90 else -1))
    ]  # fmt: skip
    found = analyse_reviews(read_reviews(write(tmp_path / "gpt-4_single.jsonl", rows)), teacher="large")
    small, tiny = pair_of(found, "small", "large"), pair_of(found, "tiny", "large")
    assert (small["fraction"]["estimate"], small["n_questions"]) == (pytest.approx(6.5 / 8), 10)
    assert (tiny["fraction"]["estimate"], tiny["n_questions"], found["invalid"]) == (0.5, 9, 2)
    assert "scored one by one: no position" in text(found)


def test_plain_rows_in_both_orders_are_one_pair(tmp_path: Path) -> None:
    lines = ["run,question_id,category,model1,model2,score1,score2"]
    lines += [f"r,{q},c,big,small,9,6" for q in range(6)] + [f"r,{q},c,small,big,8,7" for q in range(6)]
    (tmp_path / "scores.csv").write_text("\n".join(lines) + "\n")
    pair = analyse_reviews(read_reviews(tmp_path))["pairs"][0]
    assert (pair["base"], pair["n_questions"], pair["n_reviews"], pair["base_first"]) == ("big", 6, 12, 6)
    assert pair["fraction"]["estimate"] == pytest.approx(7 / 8)
    assert (pair["swap"]["first"], pair["swap"]["advantage"]["estimate"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no such file"),
        ("empty.jsonl", "", "holds no review"),
        ("broken.jsonl", "{", "line 1"),
        ("list.jsonl", "[1]", "holds no review"),
        ("review_a_b_c.jsonl", json.dumps(first_format(1, [1.0, 2.0])), "which models it compares"),
        (
            "wrong.jsonl",
            '{"question_id": 1, "model1": "a", "model2": "b", "score1": "x", "score2": 2}',
            "row 1: ValueError",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_reviews(path)


def test_an_unknown_teacher_is_named(tmp_path: Path) -> None:
    found = read_reviews(write(tmp_path / "review_a_b.jsonl", [first_format(1, [1.0, 2.0])]))
    with pytest.raises(ConfigError, match="no review of a model 'c'"):
        analyse_reviews(found, teacher="c")


def test_the_shipped_questions_are_scenarios_in_nine_categories() -> None:
    from harness.records import Scenario, read_jsonl
    from harness.resources import data_path

    questions = read_jsonl(data_path("prompts/judge-questions.jsonl"), Scenario)
    assert len(questions) == len({one.id for one in questions}) == len({one.opening for one in questions}) == 80
    assert len({one.category for one in questions}) == 9
    assert all(one.goal and one.reached for one in questions)


def test_the_shipped_questions_are_not_vicunas(vicuna: Path) -> None:
    import difflib

    from harness.records import Scenario, read_jsonl
    from harness.resources import data_path

    theirs = [json.loads(line)["text"].lower() for line in (vicuna / "questions.jsonl").read_text().splitlines()]
    for one in read_jsonl(data_path("prompts/judge-questions.jsonl"), Scenario):
        nearest = max(difflib.SequenceMatcher(None, one.opening.lower(), other).ratio() for other in theirs)
        assert nearest < 0.75, one.opening
