"""Arms made from other arms: their names, their order, and who teaches whom."""

from pathlib import Path

import pytest

from harness.config import Study
from harness.errors import ConfigError
from harness.lineage import in_order, needs, teacher_of, teachers_behind
from harness.study_file import load_study

HEAD = 'schema = 1\nname = "small"\n[teacher]\nsource = "org/big"\nlicence = "MIT"\n'


def student(name: str, *keys: str) -> str:
    train = '[student.train]\ncorpus = "chats.jsonl"\ntokens = 100\nterms = { kd = {} }\n'
    return "\n".join(["[[student]]", f'name = "{name}"', *keys, train])


def load(tmp_path: Path, *students: str) -> Study:
    path = tmp_path / "study.toml"
    path.write_text(HEAD + "".join(students))
    return load_study(path)


LAST = student("last", 'start = "arm:middle"')
MIDDLE = student("middle", 'start = "arm:first"', 'teacher = "helper"')
FIRST = student("first", "shape = { layers = 2 }")
HELPER = '[[student]]\nname = "helper"\nsource = "org/helper"\nlicence = "Apache-2.0"\n'


def test_an_arm_comes_after_those_it_needs_and_else_as_written(tmp_path: Path) -> None:
    study = load(tmp_path, LAST, HELPER, MIDDLE, FIRST, student("free", "shape = { layers = 1 }"))
    assert [one.name for one in in_order(study)] == ["first", "helper", "middle", "last", "free"]
    assert [one.name for one in in_order(study, ["middle"])] == ["first", "helper", "middle"]
    assert study.arms == ("teacher", "last", "helper", "middle", "first", "free")
    assert needs(study.student[2]) == ("first", "helper")


def test_who_teaches_and_whose_words_are_in_the_weights(tmp_path: Path) -> None:
    study = load(tmp_path, LAST, HELPER, MIDDLE, FIRST)
    last, _, middle, first = study.student
    assert teacher_of(study, first) is study.teacher
    helper = teacher_of(study, middle)
    assert (helper.name, helper.source, helper.licence) == ("helper", "org/helper", "Apache-2.0")
    assert [one.name for one in teachers_behind(study, middle)] == ["helper", "teacher"]
    assert [one.name for one in teachers_behind(study, last)] == ["teacher", "helper"]
    pupil = load(tmp_path, FIRST, student("pupil", "shape = { layers = 1 }", 'teacher = "first"')).student[1]
    taught = teacher_of(load(tmp_path, FIRST), pupil)
    assert (taught.source, taught.licence) == ("arm:first", "MIT")


def test_the_teacher_may_be_named_as_a_start_and_as_a_teacher(tmp_path: Path) -> None:
    study = load(tmp_path, student("again", 'start = "arm:teacher"', 'teacher = "teacher"'))
    assert [one.name for one in in_order(study)] == ["again"]
    assert teacher_of(study, study.student[0]) is study.teacher


def test_seeds_follow_seeds_and_a_control_follows_its_student(tmp_path: Path) -> None:
    first = FIRST.replace('"first"', '"first"\nseeds = [0, 1]')
    second = student("second", "seeds = [1, 0]", 'start = "arm:first"', 'teacher = "one"')
    control = '[[student]]\nname = "alone"\ncontrol_of = "second"\n'
    study = load(tmp_path, first, second, student("one", "shape = { layers = 1 }"), control.replace("alone", "x"))
    starts = {one.name: (one.start, one.teacher) for one in study.student}
    assert starts["second-s0"] == ("arm:first-s0", "one")
    assert starts["second-s1"] == ("arm:first-s1", "one")
    assert starts["x-s1"] == ("arm:first-s1", "one")


def test_the_resolved_copy_means_the_same(tmp_path: Path) -> None:
    (tmp_path / "arm:first").mkdir()  # a folder of that name is not meant
    study = load(tmp_path, FIRST, student("second", 'start = "arm:first"', 'teacher = "first"'))
    copy = tmp_path / "copy.toml"
    copy.write_text(study.to_toml())
    assert load_study(copy) == study
    assert study.student[1].start == "arm:first"


@pytest.mark.parametrize(
    ("students", "words"),
    [
        (student("b", 'start = "arm:frist"'), "line 15, student 'b': start names 'frist'.* did you mean 'first'"),
        (student("b", "shape = { layers = 1 }", 'teacher = "fist"'), "line 16, .*teacher names 'fist'"),
        (student("b", 'start = "arm:b"'), "'b', which is the student itself"),
        (student("b", 'start = "arm:c"') + student("c", 'start = "arm:b"'), "b -> c -> b"),
        (student("b", 'start = "arm:c"') + student("c", "shape = { layers = 1 }", 'teacher = "b"'), "b -> c -> b"),
        (student("b", 'start = "arm:first"', "shape = { layers = 1 }"), "that model's shape"),
        (HELPER + 'teacher = "first"\n', "teacher does nothing with a source"),
        (student("b", "shape = { layers = 1 }", 'licence = "MIT"'), "licence is that of source"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, students: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, FIRST, students)


def test_arms_over_seeds_are_known_by_their_own_names(tmp_path: Path) -> None:
    first = FIRST.replace('"first"', '"first"\nseeds = [0, 1]')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, first, student("second", 'start = "arm:first"'))
    assert "did you mean 'first-s" in str(caught.value)
