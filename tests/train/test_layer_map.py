"""Which layer learns from which: maps by table, and those that fit no pair of models."""

from typing import Any

import pytest

from harness.errors import ConfigError
from harness.train.layer_map import match_layers

EVEN = [
    ((4, 12), [2, 5, 8, 11]),
    ((6, 12), [1, 3, 5, 7, 9, 11]),
    ((4, 6), [1, 2, 4, 5]),
    ((5, 5), [0, 1, 2, 3, 4]),
    ((1, 9), [8]),
    ((20, 30), [1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17, 19, 20, 22, 23, 25, 26, 28, 29]),
    ((6, 2), [0, 0, 0, 0, 1, 1]),
    ((3, 7), [1, 4, 6]),
]


@pytest.mark.parametrize(("depths", "teachers"), EVEN)
def test_the_even_map(depths: tuple[int, int], teachers: list[int]) -> None:
    assert match_layers("even", *depths, None, "hidden.layers") == list(enumerate(teachers))


def test_the_other_maps() -> None:
    assert match_layers("last", 4, 12, None, "x") == [(3, 11)]
    assert match_layers("kept", 3, 12, [0, 4, 11], "x") == [(0, 0), (1, 4), (2, 11)]
    assert match_layers(((2, 5), (0, 1), (0, 2)), 3, 12, None, "x") == [(2, 5), (0, 1), (0, 2)]


WRONG_MAPS = [
    ("kept", None, r'hidden.layers = "kept" needs a student that was cut'),
    ("kept", [0, 1, 2], r"knows of 3 of the teacher's layers, and the student has 2"),
    ((), None, r"hidden.layers = \[\] matches no layers"),
    (((2, 0),), None, r"names layer 2 of the student, which has 0 to 1"),
    (((0, 4),), None, r"names layer 4 of the teacher, which has 0 to 3"),
    (((-1, 0),), None, r"names layer -1 of the student"),
    (((0, 1), (1, 2), (0, 1)), None, r"names the pair \[0, 1\] twice"),
]


@pytest.mark.parametrize(("layers", "kept", "message"), WRONG_MAPS)
def test_a_map_that_does_not_fit_is_refused(layers: Any, kept: list[int] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        match_layers(layers, 2, 4, kept, "hidden.layers")
    assert error.value.hint
