"""The recipe after Ranking Distillation: half the embedding, students and controls that differ in the teacher alone."""

import pytest

from harness.config import Shape, Student
from harness.models.ranker.family import fresh_ranker
from harness.models.ranker.interactions import Interactions
from harness.ranker_table import RankerTable
from harness.resources import data_path
from harness.study_file import load_study

STUDY = load_study(data_path("studies/ranking.toml"))
MOVIELENS = Interactions(tuple(map(str, range(1349))), {})  # films with at least five ratings


def arm(name: str) -> Student:
    return next(student for student in STUDY.student if student.name == name)


def parameters(shape: Shape | None, table: RankerTable | None) -> int:
    assert shape is not None
    assert table is not None
    return int(fresh_ranker(MOVIELENS, shape, table, 0).model.num_parameters())


def test_three_arms_and_three_seeds_of_one_family() -> None:
    assert STUDY.family == "ranker"
    assert len(STUDY.arms) == 1 + 2 * 3
    assert [suite.name for suite in STUDY.bench.all_suites] == ["ranking"]


def test_students_have_half_the_embedding_and_less_than_half_the_size() -> None:
    teacher, student = STUDY.teacher, arm("distilled-s0")
    assert teacher.train is not None
    assert student.train is not None
    assert teacher.shape is not None
    assert student.shape is not None
    assert (teacher.shape.hidden, student.shape.hidden) == (100, 50)
    assert teacher.shape.layers == student.shape.layers
    assert parameters(student.shape, student.train.ranker) < 0.5 * parameters(teacher.shape, teacher.train.ranker)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_student_and_control_differ_in_the_teacher_alone(seed: int) -> None:
    distilled, alone = arm(f"distilled-s{seed}"), arm(f"alone-s{seed}")
    assert distilled.train is not None
    assert alone.train is not None
    assert (distilled.pool, alone.pool) == ("distilled", "alone")
    assert (distilled.seed, alone.seed, alone.control_of) == (seed, seed, distilled.name)
    assert (distilled.start, alone.start) == ("scratch", "scratch")
    assert distilled.shape == alone.shape
    assert distilled.train.terms.weights.keys() == {"ce", "ranking"}
    assert alone.train.terms.weights.keys() == {"ce"}
    assert distilled.train.terms.ce == alone.train.terms.ce
    assert distilled.train.model_copy(update={"terms": alone.train.terms}) == alone.train


def test_the_ranking_term_has_the_papers_settings() -> None:
    train = arm("distilled-s0").train
    assert train is not None
    ranking = train.terms.ranking
    assert ranking is not None
    assert (ranking.k, ranking.sharpness, ranking.mu) == (10, 1.0, 0.1)
    assert ranking.hybrid_from == 10 / 50  # from epoch 10 of 50


def test_teacher_and_students_read_the_same_interactions() -> None:
    trains = [STUDY.teacher.train, *(student.train for student in STUDY.student)]
    tables = [train.ranker for train in trains if train]
    assert len({train.corpus for train in trains if train}) == 1
    assert len({(table.least, table.window, table.negatives) for table in tables if table}) == 1
