"""Which layer of a student learns from which of its teacher."""

from collections.abc import Sequence

from harness.errors import ConfigError
from harness.terms import Layers

Pairs = list[tuple[int, int]]


def match_layers(
    layers: Layers, student_depth: int, teacher_depth: int, kept: Sequence[int] | None, where: str
) -> Pairs:
    """Pairs (student layer, teacher layer), from 0.

    `even` is the uniform map of TinyBERT (Jiao et al. 2020): layer i of n learns from layer
    round((i + 1) m / n) - 1 of m, halves rounded up, so that both last layers meet. `kept` are the teacher's layers
    that the student was cut from, None where it was not. Raises ConfigError, naming the setting `where`, for a map
    that does not fit both models.
    """
    if layers == "even":
        return [(index, even(index, student_depth, teacher_depth)) for index in range(student_depth)]
    if layers == "last":
        return [(student_depth - 1, teacher_depth - 1)]
    if layers == "kept":
        return _kept(student_depth, kept, where)
    return _listed(layers, student_depth, teacher_depth, where)


def even(index: int, student_depth: int, teacher_depth: int) -> int:
    """round((index + 1) teacher_depth / student_depth) - 1 in whole numbers, halves up, and not below 0."""
    return max(0, (2 * (index + 1) * teacher_depth + student_depth) // (2 * student_depth) - 1)


def _kept(student_depth: int, kept: Sequence[int] | None, where: str) -> Pairs:
    if kept is None:
        raise ConfigError(
            f'{where} = "kept" needs a student that was cut from its teacher',
            hint=f'start it from "teacher-layers" or "importance", or set {where} = "even"',
        )
    if len(kept) != student_depth:
        raise ConfigError(
            f'{where} = "kept" knows of {len(kept)} of the teacher\'s layers, and the student has {student_depth}',
            hint=f"list the pairs: {where} = [[0, 0], ...]",
        )
    return list(enumerate(kept))


def _listed(layers: Sequence[tuple[int, int]], student_depth: int, teacher_depth: int, where: str) -> Pairs:
    if not layers:
        raise ConfigError(f"{where} = [] matches no layers", hint=f'set {where} = "even", or leave the term out')
    for pair in layers:
        for whose, index, depth in zip(("student", "teacher"), pair, (student_depth, teacher_depth), strict=True):
            if not 0 <= index < depth:
                raise ConfigError(
                    f"{where} names layer {index} of the {whose}, which has 0 to {depth - 1}",
                    hint="a pair is [student layer, teacher layer], both counted from 0",
                )
    twice = sorted({pair for pair in layers if list(layers).count(pair) > 1})
    if twice:
        raise ConfigError(f"{where} names the pair {list(twice[0])} twice", hint="list every pair once")
    return list(layers)
