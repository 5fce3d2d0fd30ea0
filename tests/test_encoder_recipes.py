"""The recipes after DistilBERT and TinyBERT: what the papers describe, and controls that lack the teacher alone."""

import pytest

from harness.config import Student, Study
from harness.models.encoder.tasks import parts_of
from harness.resources import data_path
from harness.study_file import load_study
from harness.train.layer_map import match_layers

STUDIES = {name: load_study(data_path(f"studies/{name}.toml")) for name in ("distilbert", "tinybert")}
DISTILBERT, TINYBERT = STUDIES["distilbert"], STUDIES["tinybert"]
SAME = ("corpus", "texts", "tokens", "row_tokens", "accumulate", "evaluate_chats")


def arm(study: Study, name: str) -> Student:
    return next(student for student in study.student if student.name == name)


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_reads_the_same_texts_and_is_fine_tuned_on_two_tasks(name: str) -> None:
    study = STUDIES[name]
    assert study.family == "encoder"
    assert len(study.task) >= 2
    trains = [student.train for student in study.student]
    for key in SAME:
        assert len({getattr(train, key) for train in trains}) == 1, key
    assert study.teacher.train is not None
    assert study.teacher.train.terms.weights == {"ce": 1.0}


def test_distilberts_objective_start_and_shape() -> None:
    distilled = arm(DISTILBERT, "distilled")
    assert distilled.train is not None
    terms = distilled.train.terms
    assert terms.weights == {"kd": 5.0, "ce": 2.0, "hidden": 1.0}
    assert terms.kd is not None
    assert terms.hidden is not None
    assert (terms.kd.temperature, terms.kd.divergence, terms.hidden.distance) == (2.0, "forward_kl", "cosine")
    assert distilled.start == "teacher-layers"
    assert distilled.shape is not None
    assert distilled.shape.keep == (0, 2, 4)
    assert distilled.tune == ()


def test_distilberts_arms_are_the_four_of_start_and_teacher() -> None:
    starts = {
        name: (arm(DISTILBERT, name).start, arm(DISTILBERT, name).train.terms.need_teacher)  # type: ignore[union-attr]
        for name in DISTILBERT.arms[1:]
    }
    assert starts == {
        "distilled": ("teacher-layers", True),
        "alone": ("teacher-layers", False),
        "scratch": ("scratch", False),
        "random-start": ("scratch", True),
    }
    assert {name for name in starts if arm(DISTILBERT, name).control_of} == {"alone", "scratch"}


def test_tinyberts_two_stages_and_its_map() -> None:
    tiny = arm(TINYBERT, "tinybert")
    assert tiny.train is not None
    assert tiny.train.terms.weights == {"embedding": 1.0, "hidden": 1.0, "attention": 1.0}
    assert tiny.train.terms.attention is not None
    assert tiny.train.terms.attention.kind == "scores"
    inside, soft = tiny.tune
    assert inside.terms is not None
    assert soft.terms is not None
    assert inside.terms.weights == tiny.train.terms.weights
    assert soft.terms.weights == {"kd": 1.0}
    assert soft.terms.kd is not None
    assert soft.terms.kd.temperature == 1.0
    assert inside.augment == soft.augment
    assert soft.augment is not None
    assert (soft.augment.replace, soft.augment.candidates) == (0.4, 15)
    assert [part for part, _ in parts_of(TINYBERT.task[0], tiny.tune)] == ["sentiment-1", "sentiment"]
    assert match_layers("even", 2, 6, None, "hidden.layers") == [(0, 2), (1, 5)]  # g(m) = 3m, counted from 0


@pytest.mark.parametrize("term", ["embedding", "hidden", "attention"])
def test_tinyberts_ablations_lack_one_term_in_both_stages(term: str) -> None:
    whole, without = arm(TINYBERT, "tinybert"), arm(TINYBERT, f"no-{term}")
    assert whole.train is not None
    assert without.train is not None
    left = whole.train.terms.weights.keys() - {term}
    assert without.train.terms.weights.keys() == left
    assert without.tune[0].terms is not None
    assert without.tune[0].terms.weights.keys() == left
    assert (without.shape, without.tune[1]) == (whole.shape, whole.tune[1])


def test_tinyberts_controls_see_as_many_tokens_of_the_tasks() -> None:
    tokens = {
        student.name: [sum(stage.tokens or 0 for _, stage in parts_of(task, student.tune)) for task in TINYBERT.task]
        for student in TINYBERT.student
    }
    assert len(set(map(tuple, tokens.values()))) == 1, tokens
    scratch = arm(TINYBERT, "scratch")
    assert (scratch.control_of, scratch.shape) == ("tinybert", arm(TINYBERT, "tinybert").shape)
    assert scratch.train is not None
    assert scratch.train.terms.weights == {"ce": 1.0}
