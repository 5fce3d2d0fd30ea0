"""benchmarks/coverage.py simulates what it says it does."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_truth_is_the_mean_of_the_rounded_scale(script: ModuleType) -> None:
    rng = np.random.default_rng(1)
    for design in script.DESIGNS:
        for mean, true in zip((design.mean_s, design.mean_t), design.truth(), strict=True):
            drawn = np.clip(np.round(mean + design.spread * rng.standard_normal(400_000)), 1, 5)
            assert drawn.mean() == pytest.approx(true, abs=0.01)


def test_studies_have_the_shape_of_their_design(script: ModuleType) -> None:
    for design in script.DESIGNS:
        ratings = next(script.studies(design, 1, np.random.default_rng(2)))
        both = np.bincount(ratings.rater * design.scenarios + ratings.scenario)
        assert ratings.value.min() >= 1
        assert ratings.value.max() <= 5
        assert len(np.unique(ratings.rater)) == design.raters
        assert both.max() == (1 if design.between else 2)
        if design.per_rater:
            given = np.bincount(ratings.rater) / (1 if design.between else 2)
            assert set(given) == {design.per_rater}


def test_the_default_covers_and_the_naive_interval_does_not(script: ModuleType) -> None:
    found = script.measure(script.DESIGNS[0], 300, 30, 5)
    assert 0.91 <= found["default"] <= 0.985
    assert found["iid pairs"] < 0.8
    assert found["iid bootstrap"] < 0.9
    assert found["false alarms"] < 0.1
