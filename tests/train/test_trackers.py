"""Trackers: what a study names in train.track gets the numbers too."""

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.train.trackers import trackers


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = trackers(["tensorboard"], tmp_path)
    tracker.log({"loss": 1.5, "eval/kl": 0.25}, step=1)
    tracker.log({"loss": 1.25}, step=2)
    tracker.finish()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {"loss", "eval/kl"}
    assert [(one.step, one.value) for one in read.Scalars("loss")] == [(1, 1.5), (2, 1.25)]
    assert [(one.step, one.value) for one in read.Scalars("eval/kl")] == [(1, 0.25)]


def test_wandb_stays_in_the_folder_where_nobody_has_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = tmp_path / "study" / "arms" / "distilled"
    folder.mkdir(parents=True)
    (tracker,) = trackers(["wandb"], folder)
    tracker.log({"loss": 1.5}, step=1)
    assert (tracker.tracker.project, tracker.tracker.name) == ("study", "distilled")
    tracker.finish()
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))


def test_no_name_no_tracker(tmp_path: Path) -> None:
    assert trackers([], tmp_path) == []


def test_a_tracker_that_is_not_installed_is_named_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="names wandb, which is not installed") as caught:
        trackers(["wandb"], tmp_path)
    assert caught.value.hint == "pip install wandb, or drop it"
