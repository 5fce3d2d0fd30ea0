"""Anybody's tidy ratings: what is accepted, and how a mistake is named."""

from pathlib import Path

import pytest

from harness.errors import ConfigError
from reports.analysis import analyse
from reports.tidy import Tidy, UnusableRatingsError, make_tidy
from reports.tidy_csv import read_csv


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_optional_columns_and_gaps(tmp_path: Path) -> None:
    table = write(
        tmp_path / "r.csv",
        "\ufeffrater,scenario,arm,satisfaction,goal_achievement,category",
        "A,s1,teacher,4,5,writing",
        "A,s1,small,,3,writing",
        "B,s1,teacher,3,,writing",
    )
    tidy = read_csv(table, "teacher")
    assert tidy.arms == ("teacher", "small")
    assert tidy.category == ("writing",)
    assert len(tidy.measure("satisfaction")[0].value) == 2
    assert len(tidy.measure("goal_achievement")[0].value) == 2


@pytest.mark.parametrize("value", ["6", "0", "3.5", "-1", "four"])
def test_rating_out_of_range_is_named(tmp_path: Path, value: str) -> None:
    lines = ["rater,scenario,arm,satisfaction", "A,s1,teacher,4", f"B,s2,small,{value}"]
    with pytest.raises(UnusableRatingsError) as error:
        read_csv(write(tmp_path / "r.csv", *lines), "teacher")
    assert error.value.code == "rating_out_of_range"
    assert value in error.value.what
    assert "line 3" in error.value.what or all(word in error.value.what for word in ("B", "s2", "small"))


def test_missing_column_teacher_and_rows(tmp_path: Path) -> None:
    table = write(tmp_path / "r.csv", "rater,item,arm,satisfaction", "A,s1,teacher,4")
    with pytest.raises(ConfigError, match="no column scenario"):
        read_csv(table, "teacher")
    table = write(tmp_path / "r.csv", "rater,scenario,arm,satisfaction", "A,s1,gpt,4")
    with pytest.raises(UnusableRatingsError, match="arms are gpt"):
        read_csv(table, "teacher")
    lines = "rater,scenario,arm,satisfaction"
    with pytest.raises(UnusableRatingsError) as error:
        read_csv(write(tmp_path / "r.csv", lines), "teacher")
    assert error.value.code == "no_ratings"
    with pytest.raises(ConfigError, match="line 3: the scenario is empty"):
        read_csv(write(tmp_path / "r.csv", lines, "A,s1,teacher,4", "A, ,teacher,4"), "teacher")
    with pytest.raises(ConfigError, match="line 2"):
        read_csv(write(tmp_path / "r.csv", lines, "A,s1,teacher"), "teacher")


def grid(teacher: list[int], student: list[int], raters: int) -> Tidy:
    """Every rater rates as many scenarios as values are given, in both arms."""
    rows = [
        (f"r{rater}", f"s{at}", arm, float(value))
        for rater in range(raters)
        for arm, values in (("teacher", teacher), ("student", student))
        for at, value in enumerate(values)
    ]
    columns = list(zip(*rows, strict=True))
    return make_tidy(*columns[:3], {"satisfaction": columns[3]}, teacher="teacher")


def codes(tidy: Tidy) -> set[str]:
    return {warning["code"] for warning in analyse(tidy, draws=200)["warnings"]}


def test_ceiling_is_said() -> None:
    assert "ceiling" in codes(grid([5, 5, 4, 5], [5, 5, 4, 4], 4))


def test_no_variance_is_said() -> None:
    assert "zero_variance" in codes(grid([4, 4, 4], [4, 4, 4], 3))


def test_teacher_at_the_floor_is_said() -> None:
    assert "teacher_at_floor" in codes(grid([1, 1, 1], [1, 2, 1], 3))


def test_other_arms_do_not_change_a_students_numbers() -> None:
    few = grid([4, 3, 5, 4], [3, 3, 4, 5], 5)
    rows = range(len(few.rater))
    rater, scenario = [few.raters[few.rater[at]] for at in rows], [few.scenarios[few.scenario[at]] for at in rows]
    arm, value = [few.arms[few.arm[at]] for at in rows], list(few.values["satisfaction"])
    more = make_tidy(
        [*rater, "r0"], [*scenario, "s0"], [*arm, "extra"], {"satisfaction": [*value, 2.0]}, teacher="teacher"
    )
    a, b = (analyse(tidy, draws=200)["arms"]["student"]["satisfaction"] for tidy in (few, more))
    for key in ("fraction", "fraction_rescaled", "pairs", "effect", "permutation"):
        assert a[key] == b[key]
