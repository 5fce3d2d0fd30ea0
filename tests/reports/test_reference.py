"""Every number of ../shared/reference/stats is reproduced within its tolerance."""

import json
from functools import cache
from typing import Any

import pytest
import reference_numbers as reference

pytestmark = pytest.mark.skipif(
    not (reference.FOLDER / "expected.json").exists(), reason=f"no reference numbers at {reference.FOLDER}"
)


@cache
def expected() -> dict[str, Any]:
    path = reference.FOLDER / "expected.json"
    return json.loads(path.read_text()) if path.exists() else {"ratings": {}, "tiny": {}, "other": {}}


@cache
def found(section: str) -> dict[str, Any]:
    return reference.other_numbers() if section == "other" else reference.ratings_numbers(section)


KEYS = [(section, key) for section in ("ratings", "tiny", "other") for key in expected()[section]]


@pytest.mark.parametrize(("section", "key"), KEYS, ids=[f"{section}-{key}" for section, key in KEYS])
def test_expected(section: str, key: str) -> None:
    wanted = expected()[section][key]
    assert key in found(section)
    got = found(section)[key]
    if isinstance(wanted["value"], (int, float)) and not isinstance(wanted["value"], bool):
        assert got == pytest.approx(wanted["value"], rel=0, abs=wanted["tol"])
    else:
        assert got == wanted["value"]


def edge_cases() -> list[dict[str, Any]]:
    path = reference.FOLDER / "edge_cases.json"
    return json.loads(path.read_text())["cases"] if path.exists() else []


@pytest.mark.parametrize("case", edge_cases(), ids=lambda case: case["name"])
def test_edge_case(case: dict[str, Any]) -> None:
    got = reference.edge_case(case["ratings"])
    assert got["error"] == case.get("error")
    for key in ("all_data_ratio", "rescaled", "interval"):
        if key in case:
            assert got[key] == _near(case[key])
    for key, value in case.get("values", {}).items():
        assert got[key] == _near(value), key
    if "warning" in case:
        assert case["warning"] in got["warnings"]


def _near(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _near(inner) for key, inner in value.items()}
    if isinstance(value, str):
        return float(value)
    return None if value is None else pytest.approx(value, rel=0, abs=1e-6)
