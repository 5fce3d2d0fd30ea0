"""Draws of tokens as few bytes: a document's distinct tokens and their counts at every position.

Sorted by token and then by position, a document's draws become one rising series of numbers `token * positions +
position`. Tokens that are likely all over the document lie close together in it, so its differences are small. Their
bytes, the high ones first, and the counts go through LZMA's adaptive coder, which is told that neighbouring bytes say
nothing of each other.
"""

import lzma
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# 64 KiB are more than a document's bytes; a larger dictionary is only slower to set up.
_CODER = [{"id": lzma.FILTER_LZMA1, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 16}]


def pack_draws(index_NK: "np.ndarray", count_NK: "np.ndarray") -> "np.ndarray":
    """A document's draws as bytes (uint8). Slots of count 0 are unused; a count is at most 255."""
    import numpy as np

    position_E, slot_E = np.nonzero(count_NK)
    series_E = index_NK[position_E, slot_E].astype(np.int64) * len(index_NK) + position_E
    order_E = series_E.argsort()
    step_E = np.diff(series_E[order_E], prepend=0)
    wide = max(1, (int(step_E.max()).bit_length() + 7) // 8)
    planes = [(step_E >> (8 * place) & 255).astype(np.uint8) for place in reversed(range(wide))]
    planes.append(count_NK[position_E, slot_E][order_E].astype(np.uint8))
    packed = lzma.compress(b"".join(plane.tobytes() for plane in planes), format=lzma.FORMAT_RAW, filters=_CODER)
    return np.frombuffer(bytes([wide]) + packed, dtype=np.uint8)


def unpack_draws(packed: "np.ndarray", positions: int) -> tuple["np.ndarray", "np.ndarray"]:
    """Token ids and counts, [N, K] int64 each, by rising id; unused slots hold 0."""
    import numpy as np

    wide = int(packed[0])
    raw = lzma.decompress(packed[1:].tobytes(), format=lzma.FORMAT_RAW, filters=_CODER)
    planes_WE = np.frombuffer(raw, dtype=np.uint8).reshape(wide + 1, -1).astype(np.int64)
    step_E = np.zeros(planes_WE.shape[1], dtype=np.int64)
    for plane_E in planes_WE[:-1]:
        step_E = step_E << 8 | plane_E
    token_E, position_E = np.divmod(step_E.cumsum(), positions)
    order_E = position_E.argsort(kind="stable")
    position_E = position_E[order_E]
    used_N = np.bincount(position_E, minlength=positions)
    slot_E = np.arange(len(position_E)) - np.repeat(used_N.cumsum() - used_N, used_N)
    index_NK, count_NK = np.zeros((2, positions, int(used_N.max())), dtype=np.int64)
    index_NK[position_E, slot_E] = token_E[order_E]
    count_NK[position_E, slot_E] = planes_WE[-1][order_E]
    return index_NK, count_NK
