"""The recipe after Gemma 2: a teacher trained here, three sizes, and pairs that differ in the teacher alone."""

import pytest

from harness.config import Shape, Student
from harness.models.fresh import fresh_model
from harness.resources import data_path
from harness.study_file import load_study
from tests.tiny import tiny_tokenizer

STUDY = load_study(data_path("studies/gemma2.toml"))
POOLS = {"0.2M": 240_000, "0.5M": 480_000, "1M": 1_000_000}
VOCABULARY = 2048


def arm(name: str) -> Student:
    return next(student for student in STUDY.student if student.name == name)


def parameters(shape: Shape | None) -> int:
    assert shape is not None
    tokenizer = tiny_tokenizer()
    small = fresh_model(tokenizer, shape, 0).model
    assert shape.hidden is not None
    missing = (VOCABULARY - len(tokenizer)) * shape.hidden
    return missing + sum(parameter.numel() for parameter in small.parameters())


def test_the_teacher_is_trained_here_and_larger_than_every_student() -> None:
    assert STUDY.teacher.train is not None
    assert STUDY.teacher.vocabulary == VOCABULARY
    assert parameters(STUDY.teacher.shape) == pytest.approx(4_750_000, rel=0.01)
    assert len(STUDY.arms) == 1 + 2 * 3 * len(POOLS)


@pytest.mark.parametrize("size", POOLS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_student_and_control_differ_in_the_teacher_alone(size: str, seed: int) -> None:
    distilled, alone = arm(f"distilled-{size}-s{seed}"), arm(f"scratch-{size}-s{seed}")
    assert distilled.train is not None
    assert alone.train is not None
    assert (distilled.pool, alone.pool) == (f"distilled-{size}", f"scratch-{size}")
    assert (distilled.seed, alone.seed, alone.control_of) == (seed, seed, distilled.name)
    assert (distilled.start, alone.start) == ("scratch", "scratch")
    assert distilled.shape == alone.shape
    assert parameters(distilled.shape) == pytest.approx(POOLS[size], rel=0.05)
    assert distilled.train.terms.weights.keys() == {"kd"}
    assert alone.train.terms.weights.keys() == {"ce"}
    tuned = {"lr": 0.0, "terms": None, "cache": None}
    assert distilled.train.model_copy(update=tuned) == alone.train.model_copy(update=tuned)


def test_all_sizes_see_the_same_tokens_and_share_one_cache() -> None:
    students = [student.train for student in STUDY.student if student.train]
    for name in ("corpus", "tokens", "row_tokens", "evaluate_chats"):
        assert len({getattr(train, name) for train in students}) == 1, name
    assert len({train.cache for train in students if train.cache}) == 1
    teacher = STUDY.teacher.train
    assert teacher is not None
    assert teacher.tokens >= 4 * students[0].tokens
    assert (teacher.corpus, teacher.row_tokens) == (students[0].corpus, students[0].row_tokens)
