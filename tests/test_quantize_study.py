"""The recipe after Polino et al.: one student, and the same in fewer bits, each in three ways."""

import pytest

from harness.config import Quantize, Student
from harness.models.fresh import fresh_model
from harness.resources import data_path
from harness.study_file import load_study
from tests.tiny import tiny_tokenizer

STUDY = load_study(data_path("studies/quantize.toml"))
ARMS = {student.name: student for student in STUDY.student}
VOCABULARY = 2048


def parameters(arm: Student) -> int:
    assert arm.shape is not None
    assert arm.shape.hidden is not None
    tokenizer = tiny_tokenizer()
    small = fresh_model(tokenizer, arm.shape, 0).model
    return (VOCABULARY - len(tokenizer)) * arm.shape.hidden + sum(weight.numel() for weight in small.parameters())


def test_every_way_has_every_number_of_bits() -> None:
    few = {name: arm.quantize for name, arm in ARMS.items() if arm.quantize is not None}
    assert {(arm.bits, arm.scheme) for name, arm in few.items() if name.startswith("rounded")} == {
        (bits, scheme) for bits in (2, 4, 8) for scheme in ("bucketed", "uniform")
    }
    assert {(arm.bits, arm.scheme) for name, arm in few.items() if name.startswith("trained")} == {
        *((bits, "bucketed") for bits in (2, 4, 8)), *((bits, "uniform") for bits in (2, 4))
    }  # fmt: skip
    assert {arm.bits for arm in few.values() if arm.method == "points"} == {2, 4}
    assert {arm.bits for name, arm in few.items() if name.startswith("alone")} == {2, 4}
    assert ARMS.keys() - few.keys() == {"distilled", "scratch"}
    assert parameters(ARMS["distilled"]) == pytest.approx(240_000, rel=0.05)
    assert all(name.split("-")[1] == str(arm.bits) for name, arm in few.items())


@pytest.mark.parametrize("name", [name for name in ARMS if name.startswith("trained")])
def test_students_trained_behind_few_bits_differ_in_the_bits_alone(name: str) -> None:
    same = {"name": "", "quantize": None}
    assert ARMS[name].model_copy(update=same) == ARMS["distilled"].model_copy(update=same)


@pytest.mark.parametrize("name", ["alone-4", "alone-2", "scratch"])
def test_controls_have_the_bits_and_no_teacher(name: str) -> None:
    control = ARMS[name]
    original = ARMS[control.control_of or ""]
    assert control.train is not None
    assert original.train is not None
    assert (control.quantize, control.shape, control.start) == (original.quantize, original.shape, original.start)
    assert control.train.terms.weights.keys() == {"ce"}
    tuned = {"lr": 0.0, "terms": None, "cache": None}
    assert control.train.model_copy(update=tuned) == original.train.model_copy(update=tuned)


def test_points_are_learnt_and_weights_rounded_from_the_finished_student() -> None:
    for name, arm in ARMS.items():
        if name.startswith(("rounded", "points")):
            assert arm.start == "arm:distilled", name
            assert (arm.train is None) == name.startswith("rounded")
    assert ARMS["rounded-2"].quantize == Quantize(bits=2)


def test_the_teacher_is_trained_here_on_more_of_the_same() -> None:
    teacher, student = STUDY.teacher.train, ARMS["distilled"].train
    assert teacher is not None
    assert student is not None
    assert teacher.corpus == student.corpus
    assert teacher.tokens >= 4 * student.tokens
