"""People's ratings that others published: means, ratios and agreement as another program computed them."""

import csv
import json
from pathlib import Path

import pytest

from reports.analysis import analyse
from reports.tidy import make_tidy


@pytest.mark.parametrize(
    ("name", "teacher", "column"),
    [("ratings_summeval_op", "human-summaries", "rating"), ("ratings_squality", "human", "rating_1to5")],
)
def test_ratios_and_agreement_of_published_ratings(shared_data: Path, name: str, teacher: str, column: str) -> None:
    with (shared_data / name / "ratings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [[row[key] for row in rows] for key in ("rater", "item", "system")]
    tidy = make_tidy(*keys, {"satisfaction": [float(row[column]) for row in rows]}, teacher=teacher)
    found = analyse(tidy, draws=500)
    summary = json.loads((shared_data / name / "summary.json").read_text())
    assert found["n"] == {
        "ratings": summary["n_ratings"],
        "raters": summary["n_raters"],
        "scenarios": summary["n_items"],
    }
    assert all("few_clusters" in {w["code"] for w in found["warnings"] if w.get("arm") == arm} for arm in tidy.arms[1:])
    if column != "rating":
        return  # the summary is about the scale of 0 to 100
    for arm in tidy.arms[1:]:
        block = found["arms"][arm]["satisfaction"]
        assert block["mean"] == pytest.approx(summary["systems"][arm]["mean"], abs=1e-6)
        assert block["fraction"]["estimate"] == pytest.approx(summary["ratio_to_human"][arm], abs=1e-6)
        assert block["fraction"]["low"] < block["fraction"]["estimate"] < block["fraction"]["high"]
    agreed = found["reliability"]["satisfaction"]
    assert agreed["krippendorff_ordinal"] == pytest.approx(summary["krippendorff_alpha_ordinal"], abs=1e-5)
    assert agreed["krippendorff_interval"] == pytest.approx(summary["krippendorff_alpha_interval"], abs=1e-5)
