"""Families of models: what a study may ask of which."""

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.models.families import CAUSAL_LM, FAMILIES, chats, check_terms, family_of
from harness.study_file import load_study

STUDY = """schema = 1
name = "some"
family = "{family}"
[teacher]
source = "a/b"
[[student]]
name = "small"
shape = {{ layers = 1 }}
[student.train]
corpus = "data:corpus/everyday.jsonl"
tokens = 100
terms = {{ ce = {{}} }}
{more}
"""


def study(folder: Path, family: str, more: str = "") -> Path:
    path = folder / "study.toml"
    path.write_text(STUDY.format(family=family, more=more), encoding="utf-8")
    return path


def test_models_that_write_are_the_default_and_alone_can_be_rated(tmp_path: Path) -> None:
    path = study(tmp_path, CAUSAL_LM)
    path.write_text(path.read_text().replace('family = "causal-lm"\n', ""))
    assert load_study(path).family == CAUSAL_LM
    assert [name for name in FAMILIES if chats(name)] == [CAUSAL_LM]


def test_a_family_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="family"):
        load_study(study(tmp_path, "decoder"))
    with pytest.raises(ConfigError, match="no family 'decoder'"):
        family_of("decoder")


def test_suites_that_ask_for_texts_are_refused_to_models_that_do_not_write(tmp_path: Path) -> None:
    more = '[bench]\nsuites = ["hellaswag"]'
    assert load_study(study(tmp_path, CAUSAL_LM, more)).bench.suites == ("hellaswag",)
    with pytest.raises(ConfigError, match="'hellaswag' asks models to write"):
        load_study(study(tmp_path, "encoder", more))


def test_a_term_without_meaning_is_named_with_those_that_have_one() -> None:
    family = family_of(CAUSAL_LM)
    check_terms(family, {"kd": 1.0, "ce": 0.5}, "small")
    with pytest.raises(ConfigError, match="small: the term ranking means nothing to family = 'causal-lm'") as caught:
        check_terms(family, {"kd": 1.0, "ranking": 1.0}, "small")
    assert "on_policy" in str(caught.value.hint)
