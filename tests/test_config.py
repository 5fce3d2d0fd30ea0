"""Study files: what is filled in, and how mistakes are named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.resources import data_path
from harness.study_file import load_study

STUDY = """\
schema = 1
name = "small"
[teacher]
source = "pypi:thing==1.0/thing.gguf"
[[student]]
name = "distilled"
shape = { layers = 2 }
[student.train]
corpus = "chats.jsonl"
tokens = 100
lr = 3e-4
terms = { kd = { weight = 0.5 }, ce = { weight = 0.5 } }
[[student]]
name = "scratch"
control_of = "distilled"
start = "scratch"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_a_control_takes_shape_tokens_and_rate_but_not_the_teacher(tmp_path: Path) -> None:
    distilled, scratch = load_study(write(tmp_path, STUDY)).student
    assert scratch.shape == distilled.shape
    assert scratch.train is not None
    assert distilled.train is not None
    assert (scratch.train.tokens, scratch.train.lr) == (100, 3e-4)
    assert scratch.train.terms.kd is None
    assert scratch.train.terms.ce is not None
    assert (distilled.start, scratch.start) == ("importance", "scratch")


def test_a_control_differs_only_in_what_it_names(tmp_path: Path) -> None:
    text = STUDY + "[student.train]\nlr = 1e-3\nterms = { ce = { weight = 2.0 } }\n"
    scratch = load_study(write(tmp_path, text)).student[1]
    assert scratch.train is not None
    assert scratch.train.lr == 1e-3
    assert scratch.train.tokens == 100
    assert scratch.train.terms.ce is not None
    assert scratch.train.terms.ce.weight == 2.0


def test_layers_named_by_list_are_for_one_start_and_a_control_at_random_takes_none(tmp_path: Path) -> None:
    listed = STUDY.replace("{ layers = 2 }", '{ layers = 2, keep = [0, 3] }\nstart = "teacher-layers"')
    distilled, scratch = load_study(write(tmp_path, listed)).student
    assert distilled.shape is not None
    assert distilled.shape.keep == (0, 3)
    assert scratch.shape is not None
    assert scratch.shape.keep is None
    for wrong, says in (
        ('{ layers = 2, keep = "even" }', "does nothing with start"),
        ('{ layers = 3, keep = [0, 3] }\nstart = "teacher-layers"', "keep lists 2 layers, and layers = 3"),
        ('{ layers = 2, keep = [3, 0] }\nstart = "teacher-layers"', "not a rising list"),
    ):
        with pytest.raises(ConfigError, match=says):
            load_study(write(tmp_path, STUDY.replace("{ layers = 2 }", wrong)))


def test_paths_are_relative_to_the_study_file(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, STUDY))
    assert study.student[0].train is not None
    assert study.student[0].train.corpus == str(tmp_path / "chats.jsonl")


def test_a_control_may_be_a_finished_model(tmp_path: Path) -> None:
    text = """schema = 1
name = "elsewhere"
[teacher]
source = "nowhere"
[[student]]
name = "distilled"
source = "nowhere/distilled"
[[student]]
name = "scratch"
source = "nowhere/scratch"
control_of = "distilled"
"""
    scratch = load_study(write(tmp_path, text)).student[1]
    assert (scratch.control_of, scratch.source, scratch.train) == ("distilled", "nowhere/scratch", None)


def test_a_judges_rubric_and_model_are_relative_to_the_study_file(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    judge = '[judge]\nrubric = "rubric.txt"\n[[judge.by]]\nname = "own"\nsource = "judge"\n'
    study = load_study(write(tmp_path, f"{STUDY}\n{judge}"))
    assert study.judge.rubric == str(tmp_path / "rubric.txt")
    assert study.judge.by[0].source == str(tmp_path / "judge")


def test_the_resolved_copy_means_the_same(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, STUDY))
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "study.toml"
    copy.write_text(study.to_toml())
    assert load_study(copy) == study


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("lr = 3e-4", "learning_rate = 3e-4", 11, "unknown key 'student.0.train.learning_rate'"),
        ("weight = 0.5 }, ce", "weigth = 0.5 }, ce", 12, "did you mean 'weight'"),
        ("tokens = 100", "tokens = -1", 10, "found -1"),
        ('name = "small"', 'nmae = "small"', 2, "nmae"),
        ("schema = 1", "schema = 9", 1, "schema"),
        ('control_of = "distilled"', 'control_of = "destilled"', 15, "did you mean 'distilled'"),
        ('name = "scratch"', 'name = "distilled"', None, "called 'distilled'"),
        ('name = "scratch"', 'name = "teacher"', None, "teacher's name"),
        ("{ kd = { weight = 0.5 }, ce = { weight = 0.5 } }", "{ kd = { weight = 0 } }", None, "nothing to train on"),
        ("[teacher]", "[teacher", 3, "not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, line: int | None, says: str) -> None:
    assert old in STUDY
    with pytest.raises(ConfigError) as caught:
        load_study(write(tmp_path, STUDY.replace(old, new, 1)))
    assert says in str(caught.value)
    if line:
        assert f"line {line}" in str(caught.value)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="viva init"):
        load_study(tmp_path / "none.toml")


def test_the_shipped_demo_study_is_valid() -> None:
    study = load_study(data_path("studies/demo.toml"))
    assert study.arms == ("teacher", "distilled", "scratch")


@given(st.text(max_size=300))
def test_no_text_raises_anything_but_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "study.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(ConfigError):
        load_study(path)


@given(
    st.dictionaries(st.sampled_from(["teacher", "student", "bench", "rate", "name", "seed", "schema"]), st.integers())
)
def test_wrong_types_are_config_errors(tmp_path_factory: pytest.TempPathFactory, values: dict[str, int]) -> None:
    path = tmp_path_factory.mktemp("types") / "study.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
    with pytest.raises(ConfigError):
        load_study(path)
