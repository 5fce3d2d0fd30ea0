"""Across tokenizers: where a student and a teacher with other tokens speak of the same text, and how far they differ.

Universal logit distillation (Boizard et al. 2024) compares distributions over two vocabularies by their sorted
probabilities, so that no token of one needs a counterpart in the other. Published, it compares the i-th tokens of both
answers, which stand at different places of the text as soon as one tokenizer cuts otherwise. Here it can be aligned:
compared is where both have a border at the same place, and what both vocabularies spell alike is compared by name.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError
from harness.models.spelling import borders, spelled
from harness.records import Chat
from harness.train.batches import Document, Row, to_document

if TYPE_CHECKING:
    import torch

CHUNK_VALUES = 1 << 22  # probabilities of both sides that are sorted at once: 16 MiB in float32


@dataclass(frozen=True)
class Pair:
    """A document in the teacher's tokens, and which predictions of both sides are compared.

    `student_at[i]` (a position in the student's document) is compared with `teacher_at[i]` (in `ids`); both rise.
    """

    ids: tuple[int, ...]
    student_at: tuple[int, ...]
    teacher_at: tuple[int, ...]

    def cut(self, tokens: int) -> "Pair":
        """What remains when the student's document is cut to its first `tokens` tokens, the last of which predicts
        none of them any more."""
        kept = bisect_left(self.student_at, tokens - 1)
        teacher_at = self.teacher_at[:kept]
        return Pair(self.ids[: teacher_at[-1] + 1] if kept else (), self.student_at[:kept], teacher_at)


def pair_document(
    chat: Chat,
    student_tokenizer: Any,
    teacher_tokenizer: Any,
    system: str | None,
    aligned: bool,
    kind: str = "corpus",
) -> Document:
    """The student's document of a chat, with its pair in the teacher's tokens.

    Each side has its own chat template and end of turn; compared are predictions of the assistant's tokens only, turn
    by turn. Raises ConfigError when the teacher's template refuses the chat, and when `aligned` is asked of tokenizers
    that are not fast ones.
    """
    from jinja2 import TemplateError

    document = to_document(student_tokenizer, chat, system, kind)
    try:
        theirs = to_document(teacher_tokenizer, chat, system, kind)
    except TemplateError as error:
        raise ConfigError(
            f"the teacher's chat template refuses the chat {chat.id!r}: {error}",
            hint="leave the study's system message or such chats out, or take a teacher that knows these roles",
        ) from error
    both = zip(
        _answers(student_tokenizer, document, chat, aligned),
        _answers(teacher_tokenizer, theirs, chat, aligned),
        strict=True,
    )
    match = _by_border if aligned else _by_place
    places = [place for ours, other in both for place in match(ours, other) if min(place) >= 0]
    pair = Pair(theirs.ids, tuple(student for student, _ in places), tuple(teacher for _, teacher in places))
    return Document(document.ids, document.target, kind, pair)


@dataclass(frozen=True)
class _Answer:
    """An assistant's turn in one side's tokens: the place of the first, and where in the text each begins.

    `starts` are offsets in bytes, None where no text border is; the end of turn begins at the end of the text.
    `own_space` says that the tokenizer puts a space of its own before the text.
    """

    first: int
    starts: tuple[int | None, ...]
    own_space: bool = False


def _answers(tokenizer: Any, document: Document, chat: Chat, aligned: bool) -> list[_Answer]:
    found = []
    place = 0
    for message in chat.messages:
        if message.role != "assistant":
            continue
        if aligned:
            starts, own_space = borders(tokenizer, message.content)
        else:
            tokens = len(tokenizer(message.content, add_special_tokens=False)["input_ids"])
            starts, own_space = [None] * (tokens + 1), False
        while place < len(document.target) and not document.target[place]:
            place += 1
        length = min(len(starts), len(document.ids) - place)  # the chat's last answer, if cut, has no end of turn
        found.append(_Answer(place, tuple(starts[:length]), own_space))
        place += length
    return found


def _by_place(ours: _Answer, theirs: _Answer) -> list[tuple[int, int]]:
    """The i-th token with the i-th, as published: the shorter answer ends it."""
    common = min(len(ours.starts), len(theirs.starts))
    return [(ours.first + place - 1, theirs.first + place - 1) for place in range(common)]


def _by_border(ours: _Answer, theirs: _Answer) -> list[tuple[int, int]]:
    """Where the next token begins at the same offset on both sides, so that both predict what follows the same text."""
    there: dict[int, int] = {}
    for place, start in enumerate(theirs.starts):
        if start is not None:
            there.setdefault(start, place)
    if ours.own_space != theirs.own_space:
        there.pop(0, None)  # ' The' on one side would be 'The' on the other
    matched = []
    for place, start in enumerate(ours.starts):
        if start is not None and start in there:
            matched.append((ours.first + place - 1, theirs.first + there.pop(start) - 1))
    return matched


@dataclass(frozen=True, eq=False)
class Shared:
    """Which tokens two vocabularies have in common: `student_K[i]` and `teacher_K[i]` are the same token's ids.

    `student_size` and `teacher_size` are the numbers of tokens that the tokenizers know: matrices may be padded.
    """

    student_K: "torch.Tensor"
    teacher_K: "torch.Tensor"
    student_size: int
    teacher_size: int


def shared_tokens(student_tokenizer: Any, teacher_tokenizer: Any, aligned: bool = True) -> Shared:
    """The tokens that both spell alike, none unless `aligned`: the same bytes of text, the same name of a special
    token, or the end of turn whatever its name."""
    import torch

    ours, theirs = (spelled(tokenizer) if aligned else {} for tokenizer in (student_tokenizer, teacher_tokenizer))
    common = sorted((index, theirs[spelling]) for spelling, index in ours.items() if spelling in theirs)
    return Shared(
        torch.tensor([student for student, _ in common], dtype=torch.long),
        torch.tensor([teacher for _, teacher in common], dtype=torch.long),
        1 + max(student_tokenizer.get_vocab().values()),
        1 + max(teacher_tokenizer.get_vocab().values()),
    )


def student_positions(row: Row) -> list[int]:
    """Positions of the packed row whose predictions are compared with the teacher's, in the order of its logits."""
    positions: list[int] = []
    start = 0
    for document in row.documents:
        positions += [start + place for place in (document.pair.student_at if document.pair else ())]
        start += len(document.ids)
    return positions


def teacher_logits(teacher_model: Any, row: Row) -> "torch.Tensor":
    """The teacher's logits [M, V'] at all compared positions of the row, without a gradient.

    Its documents are packed end to end, each up to its last compared position; none attends to another.
    """
    import torch

    from harness.models.attention import packed

    pairs = [document.pair for document in row.documents if document.pair and document.pair.teacher_at]
    device = next(teacher_model.parameters()).device
    if not pairs:
        return torch.zeros(0, teacher_model.config.get_text_config().vocab_size, device=device)
    parts = [pair.ids[: pair.teacher_at[-1] + 1] for pair in pairs]
    lengths = [len(part) for part in parts]
    starts = [0, *accumulate(lengths)]
    keep = [start + place for pair, start in zip(pairs, starts, strict=False) for place in pair.teacher_at]
    with torch.no_grad(), packed(teacher_model, lengths):
        out = teacher_model(
            input_ids=torch.tensor([[token for part in parts for token in part]], device=device),
            position_ids=torch.cat([torch.arange(length, device=device) for length in lengths])[None],
            logits_to_keep=torch.tensor(keep, device=device),
            use_cache=False,
        )
    logits_MV: torch.Tensor = out.logits[0]
    return logits_MV


def uld_sum(
    student_NV: "torch.Tensor", teacher_NV: "torch.Tensor", temperature: float, shared: Shared | None
) -> "torch.Tensor":
    """The distance of two distributions over different vocabularies, summed over positions; at most 2 at each.

    Logits [N, V] and [N, V'] are divided by the temperature. The distance is L1 between the sorted probabilities, the
    shorter vector filled up with zeros (Boizard et al. 2024, eq. 3 to 5); tokens that are `shared` are compared by
    name, and only the others sorted. The student's gradient is found along with the sum, some positions at a time, so
    that no more than its own size is kept of it; the teacher gets none.
    """
    import torch

    wanted = student_NV.requires_grad and torch.is_grad_enabled()
    grad_NV = torch.zeros_like(student_NV) if wanted else None
    total = torch.zeros((), dtype=_wide(student_NV).dtype, device=student_NV.device)
    chunk = max(1, CHUNK_VALUES // (student_NV.shape[1] + teacher_NV.shape[1]))
    for start in range(0, len(student_NV), chunk):
        part = slice(start, start + chunk)
        own_nV = student_NV[part].detach().requires_grad_(wanted)
        with torch.set_grad_enabled(wanted):
            distance = _distance(own_nV, teacher_NV[part].detach(), temperature, shared)
        if grad_NV is not None:
            (grad_NV[part],) = torch.autograd.grad(distance, own_nV)
        total += distance.detach()
    return total if grad_NV is None else _with_gradient(student_NV, total, grad_NV)


def _wide(tensor: "torch.Tensor") -> "torch.Tensor":
    return tensor if tensor.itemsize >= 4 else tensor.float()


def _distance(
    student_nV: "torch.Tensor", teacher_nV: "torch.Tensor", temperature: float, shared: Shared | None
) -> "torch.Tensor":
    import torch

    if shared is not None:
        student_nV, teacher_nV = student_nV[:, : shared.student_size], teacher_nV[:, : shared.teacher_size]
    student_nV = (_wide(student_nV) / temperature).softmax(-1)
    teacher_nV = (_wide(teacher_nV) / temperature).softmax(-1)
    common = torch.zeros((), dtype=student_nV.dtype, device=student_nV.device)
    if shared is not None and len(shared.student_K):
        student_K, teacher_K = shared.student_K.to(student_nV.device), shared.teacher_K.to(student_nV.device)
        common = (student_nV[:, student_K] - teacher_nV[:, teacher_K]).abs().sum()
        student_nV, teacher_nV = _without(student_nV, student_K), _without(teacher_nV, teacher_K)
    own_nV, other_nV = _rising(student_nV), _rising(teacher_nV)
    width = min(own_nV.shape[1], other_nV.shape[1])
    own_low, other_low = own_nV.shape[1] - width, other_nV.shape[1] - width
    # The smallest of the longer vector stand against the zeros that fill up the shorter one.
    left = own_nV[:, :own_low].sum() + other_nV[:, :other_low].sum()
    return common + (own_nV[:, own_low:] - other_nV[:, other_low:]).abs().sum() + left


def _rising(values_nV: "torch.Tensor") -> "torch.Tensor":
    """Each row sorted. On processors numpy sorts several times faster than torch, most of all without an order."""
    import numpy as np
    import torch

    if values_nV.device.type != "cpu":
        return values_nV.sort(-1).values
    if not values_nV.requires_grad:
        return torch.from_numpy(np.sort(values_nV.numpy(), axis=-1))
    return values_nV.gather(-1, torch.from_numpy(np.argsort(values_nV.detach().numpy(), axis=-1)))


def _without(values_nV: "torch.Tensor", taken_K: "torch.Tensor") -> "torch.Tensor":
    import torch

    free_V = torch.ones(values_nV.shape[1], dtype=torch.bool, device=values_nV.device)
    free_V[taken_K] = False
    return values_nV[:, free_V]


def _with_gradient(inputs: "torch.Tensor", value: "torch.Tensor", grad: "torch.Tensor") -> "torch.Tensor":
    """`value` as a function of `inputs` whose gradient is known already."""
    result: torch.Tensor = _known().apply(inputs, value, grad)
    return result


@cache
def _known() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class Known(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: torch.Tensor, value: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(grad)
            return value.clone()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
            return upstream * ctx.saved_tensors[0], None, None

    return Known
