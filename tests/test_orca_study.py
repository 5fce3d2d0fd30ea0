"""The recipe after Orca: the same start and tokens for answers, explanations, and explanations from two teachers."""

import json
import re
from typing import Any

import pytest
import tomlkit

from harness.bench.perplexity import teacher_text
from harness.config import Student
from harness.lineage import in_order, teacher_of
from harness.models.load import load_model
from harness.records import Chat, read_jsonl
from harness.resources import data_path
from harness.stages import Run, open_run, train_stage
from harness.study_file import load_study
from harness.train.teacher_text import TeacherText
from tests.tiny import save_tiny, tiny_corpus

FILE = data_path("studies/orca.toml")
STUDY = load_study(FILE)
ROW = 200  # tokens of a row in the shortened recipe


def arm(name: str) -> Student:
    return next(student for student in STUDY.student if student.name == name)


def test_arms_differ_in_what_the_teachers_write_alone() -> None:
    explained, answers, first, progressive = map(arm, ("explained", "answers", "first-stage", "progressive"))
    trains = [one.train for one in (explained, answers, first, progressive) if one.train is not None]
    assert len(trains) == 4
    differing = {"terms": None, "tokens": 0}
    assert len({train.model_copy(update=differing).model_dump_json() for train in trains}) == 1
    assert trains[0].tokens == trains[1].tokens == trains[2].tokens + trains[3].tokens
    assert [one.start for one in (explained, answers, first)] == ["arm:base"] * 3
    assert progressive.start == "arm:first-stage"
    assert trains[1].terms.weights.keys() == {"sequence"}
    assert all(train.terms == trains[0].terms for train in trains[2:])
    assert trains[0].terms.weights.keys() == {"explanations"}
    explanations, sequence = trains[0].terms.explanations, trains[1].terms.sequence
    assert explanations is not None
    assert sequence is not None
    assert explanations.max_tokens == sequence.max_tokens


def test_the_easier_teacher_stands_between_students_and_teacher() -> None:
    assert [teacher_of(STUDY, arm(name)).name for name in ("first-stage", "progressive")] == ["easier", "teacher"]
    layers = [one.shape.layers for one in (arm("base"), arm("easier")) if one.shape and one.shape.layers]
    assert layers[0] < layers[1] < 30  # the teacher's
    order = [student.name for student in in_order(STUDY)]
    assert order.index("base") < order.index("first-stage") < order.index("progressive")
    assert order.index("easier") < order.index("first-stage")


def test_the_explanations_that_are_scored_answer_prompts_that_nobody_trains_on() -> None:
    chats = read_jsonl(data_path("corpus/explained.jsonl"), Chat)
    trained = arm("explained").train
    assert trained is not None
    from harness.corpus import read_corpus

    train, held_out = read_corpus(data_path("corpus/everyday.jsonl"))
    prompts = {chat.messages[0].content for chat in held_out}
    assert {chat.messages[1].content for chat in chats} <= prompts
    assert not {chat.messages[1].content for chat in chats} & {chat.messages[0].content for chat in train}
    assert len({chat.messages[0].content for chat in chats}) > 10  # system messages


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipe with tiny models, trained on a few hundred tokens."""
    folder = tmp_path_factory.mktemp("orca")
    save_tiny(folder / "teacher")
    tiny_corpus(folder / "corpus.jsonl")
    text = re.sub(r'source *= "pypi:[^"]*"\nsha256 *= "[0-9a-f]*"', 'source = "teacher"', FILE.read_text())
    study: Any = tomlkit.parse(text.replace("max_tokens = 96", "max_tokens = 24"))
    systems = [{"id": "why", "system": "Why?"}, {"id": "how", "system": "How?"}]
    (folder / "systems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in systems))
    for student in study["student"]:
        train = student["train"]
        if "shape" in student:
            student["shape"] = {"layers": {"base": 2, "easier": 3}[student["name"]]}
        if "corpus" in train:
            train |= {"corpus": "corpus.jsonl", "row_tokens": ROW, "evaluate_chats": 3, "lr": 5e-3}
        if "texts" in train:
            train["texts"] = 12
        if "explanations" in train.get("terms", {}):
            train["terms"]["explanations"]["systems"] = "systems.jsonl"
        train["tokens"] = {12_000: 4000, 6_000: 2000, 4_000: 1000}[train["tokens"]] if "tokens" in train else 0
        if not train["tokens"]:
            del train["tokens"]
    (folder / "study.toml").write_text(tomlkit.dumps(study))
    run = open_run(folder / "study.toml", folder / "run")
    train_stage(run)
    return run


def metrics(run: Run, name: str) -> list[dict[str, Any]]:
    lines = (run.dir.arm(name) / "metrics.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if "eval" in one]


def texts(run: Run, term: str) -> list[list[TeacherText]]:
    """What was written for a term, by teacher: the study's first, whose explanations more students asked for."""
    files = sorted(run.dir.root.glob(f"teacher-text/{term}-*.jsonl"))
    return [read_jsonl(path, TeacherText) for path in files]


def test_each_stage_goes_on_from_the_one_before(short: Run) -> None:
    base = metrics(short, "base")[-1]["eval"]["perplexity"]
    for name in ("explained", "answers", "first-stage"):
        assert metrics(short, name)[0]["eval"]["perplexity"] == pytest.approx(base, rel=1e-3)
    first = metrics(short, "first-stage")[-1]["eval"]["perplexity"]
    assert metrics(short, "progressive")[0]["eval"]["perplexity"] == pytest.approx(first, rel=1e-3)
    assert first != pytest.approx(base, rel=1e-3)


def test_both_teachers_explain_and_students_of_one_teacher_share_its_texts(short: Run) -> None:
    assert len(texts(short, "sequence")) == 1
    explained = texts(short, "explanations")
    assert len(explained) == 2  # by the teacher, for two students, and by the easier one
    assert [len(file) for file in explained] == [12, 12]
    asked = [{text.id: text.messages[:-1] for text in file} for file in explained]
    assert asked[0] == asked[1]
    assert {text.messages[-1] for text in explained[0]} != {text.messages[-1] for text in explained[1]}


def test_the_tokens_are_the_same(short: Run) -> None:
    tokens = {
        name: json.loads((short.dir.arm(name) / "manifest.json").read_text())["training"]["tokens"]
        for name in ("explained", "answers", "first-stage", "progressive")
    }
    assert abs(tokens["explained"] - tokens["answers"]) < ROW
    assert abs(tokens["first-stage"] + tokens["progressive"] - tokens["explained"]) < 2 * ROW


def test_students_learn_what_their_own_teacher_wrote(short: Run) -> None:
    (answers,) = texts(short, "sequence")
    # Which file is the easier teacher's is told by who read it.
    easier, harder = sorted(texts(short, "explanations"), key=lambda file: _known(short, "explained", file))
    for name in ("explained", "answers", "first-stage", "progressive"):
        assert _known(short, name, harder) > _known(short, "base", harder) + 0.5
    leaning = {name: _known(short, name, harder) - _known(short, name, answers) for name in ("explained", "answers")}
    assert leaning["explained"] > leaning["answers"] + 0.2
    lean = {name: _known(short, name, harder) - _known(short, name, easier) for name in ("first-stage", "progressive")}
    assert lean["first-stage"] < 0 < lean["progressive"]


def _known(run: Run, name: str, file: list[TeacherText]) -> float:
    """Mean log-likelihood in nats of a token of the texts."""
    model = load_model(run.model_dir(name))
    found = teacher_text(model, None, [text for text in file if text.messages[-1].content], run.study.system)
    return sum(one["loglikelihood"] for one in found) / sum(one["tokens"] for one in found)
