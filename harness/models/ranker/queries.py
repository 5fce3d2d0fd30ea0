"""Asking a ranker: the place of the item that came, among all that the user did not have yet, and the best ten."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.models.ranker.interactions import Query

if TYPE_CHECKING:
    import torch

AT_ONCE = 128  # users scored together
SHOWN = 10  # items of a list that are kept


def padded(histories: Sequence[Sequence[int]], device: Any = "cpu") -> "tuple[torch.Tensor, torch.Tensor]":
    """Histories as one tensor [B, T], filled at their ends, and the position of each one's last item [B]."""
    import torch

    longest = max(map(len, histories))
    ids_BT = torch.zeros(len(histories), longest, dtype=torch.long)
    for row, history in enumerate(histories):
        ids_BT[row, : len(history)] = torch.tensor(history)
    last_B = torch.tensor([len(history) - 1 for history in histories])
    return ids_BT.to(device), last_B.to(device)


def last_scores(model: Any, histories: Sequence[Sequence[int]]) -> "torch.Tensor":
    """Scores of all items after each history, of which the model looks back on its last `window` [B, V], float32."""
    window = model.config.max_position_embeddings
    ids_BT, last_B = padded([history[-window:] for history in histories], next(model.parameters()).device)
    hidden_BD = model.hidden(ids_BT)[range(len(histories)), last_B]
    scores_BV: torch.Tensor = model.score(hidden_BD).float()
    return scores_BV


def ask(model: Any, queries: Sequence[Query]) -> Iterator[tuple[int, list[int]]]:
    """(the target's place from 1, the first ten items) for each query, in their order; `model` is in eval mode.

    What the user had before is left out of the list, unless it is the target itself. Items of the same score come
    before the target, and a score that is not a number is the worst.
    """
    import torch

    for first in range(0, len(queries), AT_ONCE):
        part = queries[first : first + AT_ONCE]
        with torch.inference_mode():
            scores_BV = last_scores(model, [query.seen for query in part]).nan_to_num(nan=-torch.inf)
            for row, query in enumerate(part):
                had = [item for item in set(query.seen) if item != query.target]
                scores_V = scores_BV[row]
                target = scores_V[query.target].clone()
                scores_V[had] = -torch.inf
                ahead = int((scores_V >= target).sum()) - 1
                if target == -torch.inf:
                    ahead -= len(had)  # those left out are in nobody's way
                yield ahead + 1, scores_V.topk(min(SHOWN, len(scores_V) - len(had))).indices.tolist()
