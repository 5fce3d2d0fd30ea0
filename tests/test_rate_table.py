"""The `[rate]` table: its keys, and how mistakes and idle keys are named."""

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.rate_table import Rate, idle_keys, self_words
from harness.resources import data_path
from harness.study_file import load_study

STUDY = """\
schema = 1
name = "small"
[teacher]
source = "pypi:thing==1.0/thing.gguf"
[[student]]
name = "small-one"
source = "org/Fine-Model-135M"
"""


def load(tmp_path: Path, rate: str) -> Rate:
    path = tmp_path / "study.toml"
    path.write_text(STUDY + "[rate]\n" + rate)
    return load_study(path).rate


def test_defaults(tmp_path: Path) -> None:
    rate = load(tmp_path, "")
    assert (rate.mode, rate.crossing, rate.ratings_per_cell, rate.scenarios_per_rater) == ("fixed", "within", 3, 12)
    assert (rate.open, rate.lease_minutes, rate.repeats, rate.language) == (True, 120, 0, "en")


def test_every_key_is_kept_and_the_resolved_study_means_the_same(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        STUDY
        + """\
[rate]
mode = "live"
crossing = "between"
training = "training.jsonl"
checks = "data:rating/checks.jsonl"
check_every = 7
repeats = 2
side = 3
questions = false
max_raters = 40
lease_minutes = 45.5
self_identification = ["Otto"]
completion_url = "https://platform.example/done?cc=1"
cps = 25
delay = 2.5
at_once = 8
[[rate.serve]]
arm = "teacher"
endpoint = "http://localhost:8000/v1"
model = "big"
"""
    )
    study = load_study(tmp_path / "study.toml")
    assert study.rate.training == str(tmp_path / "training.jsonl")
    assert study.rate.checks == "data:rating/checks.jsonl"
    assert study.rate.serve[0].model == "big"
    (tmp_path / "again.toml").write_text(study.to_toml())
    assert load_study(tmp_path / "again.toml").rate == study.rate


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ('mode = "dead"', "line 9: rate.mode"),
        ('crossing = "over"', "rate.crossing"),
        ("side = 1", "rate.side"),
        ("side = 5", "rate.side"),
        ("ratings_per_cell = 0", "rate.ratings_per_cell"),
        ("lease_minutes = 0", "rate.lease_minutes"),
        ("repeats = -1", "rate.repeats"),
        ('language = "English"', "rate.language"),
        ('completion_url = "javascript:alert(1)"', "rate.completion_url"),
        ("check_every = 5", "check_every does nothing without checks"),
        ("open = false\nmax_raters = 5", "max_raters does nothing with open = false"),
        ('completion_code = "A"\ncompletion_url = "https://a.example"', "completion_code or completion_url"),
        ('[[rate.serve]]\narm = "nobody"\nendpoint = "http://a/v1"', "serves 'nobody', which is no arm"),
        ('[[rate.serve]]\narm = "teacher"\nendpoint = "localhost:8000"', "'localhost:8000' is not a URL"),
        (
            '[[rate.serve]]\narm = "teacher"\nendpoint = "http://a/v1"\n' * 2,
            "two [[rate.serve]] tables serve 'teacher'",
        ),
        ("crosing = 'within'", "unknown key 'rate.crosing'; did you mean 'crossing'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, rate: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, rate)
    assert message in error.value.what


def test_keys_of_a_mode_that_no_scenario_has_are_named() -> None:
    serve = ({"arm": "teacher", "endpoint": "http://a/v1"},)
    rate = Rate.model_validate({"cps": 20, "delay": 1, "at_once": 9, "serve": serve, "side": 2})
    assert idle_keys(rate, ["fixed"]) == [
        *("cps: live", "delay: live", "at_once: live", "serve: live", "side: side-by-side"),
    ]
    assert idle_keys(rate, ["fixed", "live", "side-by-side"]) == []
    assert idle_keys(Rate(), ["fixed"]) == []


def test_names_that_unblind_a_chat() -> None:
    words = self_words(["teacher", "scratch", "otto", "pypi:thing==1.0/Otto-2B.Q4_1.gguf", "org/Fine-Model", "a/QWEN"])
    assert {"ChatGPT", "otto", "Otto-2B.Q4_1", "Fine-Model"} <= set(words)
    assert not {"teacher", "scratch", "QWEN"} & set(words)  # plain words, and one that is there already
    assert len(words) == len({word.lower() for word in words})


def test_the_shipped_known_answers_are_such() -> None:
    from harness.records import KnownAnswer, read_jsonl

    training = read_jsonl(data_path("rating/training.jsonl"), KnownAnswer)
    checks = read_jsonl(data_path("rating/checks.jsonl"), KnownAnswer)
    assert all(item.feedback for item in training)
    assert not any(item.feedback for item in checks)
    assert len({item.id for item in (*training, *checks)}) == len(training) + len(checks)
    for item in (*training, *checks):
        assert item.messages[0].content == item.opening
    requests = {(item.goal, item.opening, item.reached) for item in checks}
    assert len(checks) == 2 * len(requests)  # a good and a bad answer to each, so that they can stand side by side
    assert all(item.satisfaction in ((4, 5), (1, 2)) for item in checks)
