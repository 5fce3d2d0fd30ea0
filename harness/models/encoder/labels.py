"""Texts with labels through an encoder: the head of classes on the first token, its losses, its figures.

The loop, the terms and the layer terms are those of all training; a document is one text, and what it predicts is its
class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.config import Train
from harness.errors import ConfigError
from harness.labelled import Item
from harness.models.attention import Seen, packed
from harness.train import parallel
from harness.train.batches import Document, Row, pack
from harness.train.layers import View
from harness.train.objective import Objective, _weighted, counts, forward_precision, kd_loss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Labelled(Document):
    """A text and the number of its class; it makes one prediction, at its first token."""

    label: int = 0

    @cached_property
    def scored(self) -> tuple[int, ...]:
        return (0,)


def documents_of(tokenizer: Any, items: Sequence[Item], longest: int) -> list[Document]:
    """Items as documents of at most `longest` tokens: a text between the special tokens, and its pair behind them.

    Of a pair that is too long the longer text is cut first.
    """
    cls, sep = int(tokenizer.cls_token_id), int(tokenizer.sep_token_id)
    texts = _encoded(tokenizer, [item.text for item in items])
    pairs = _encoded(tokenizer, [item.pair or "" for item in items])
    found: list[Document] = []
    for item, text, pair in zip(items, texts, pairs, strict=True):
        room = longest - (3 if item.pair else 2)
        while len(text) + len(pair) > room:
            (text if len(text) >= len(pair) else pair).pop()
        ids = (cls, *text, sep, *((*pair, sep) if item.pair else ()))
        found.append(Labelled(ids, (True,) * len(ids), label=item.label))
    return found


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    found = tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)[
        "input_ids"
    ]
    return [list(ids) for ids in found]


def class_logits(model: Any, first_ND: "torch.Tensor") -> "torch.Tensor":
    """Logits of the classes [N, C] from the hidden states of each text's first token, by the model's own head.

    Raises ConfigError for an architecture whose head is not known.
    """
    import torch

    if hasattr(model, "pre_classifier"):  # DistilBERT
        found: torch.Tensor = model.classifier(model.dropout(torch.relu(model.pre_classifier(first_ND))))
        return found
    pooler = getattr(model.base_model, "pooler", None)
    if pooler is None:
        raise ConfigError(f"the head of a {type(model).__name__} is not known", hint="take a BERT or DistilBERT")
    found = model.classifier(model.dropout(pooler(first_ND[:, None])))
    return found


@dataclass(frozen=True)
class Read:
    """What a model says of a row: logits of the classes [N, C] in float32, and its layers where asked for."""

    logits_NC: "torch.Tensor"
    view: View = field(default_factory=lambda: View((), Seen()))


def read(model: Any, row: Row, objective: Objective, layers: Sequence[int], states: bool, device: Any) -> Read:
    """One pass of the encoder over a packed row; `layers` and `states` say what is looked at."""
    import torch

    seen = Seen()
    ids_1T = torch.tensor(row.ids, device=device)[None]
    position_1T = torch.cat([torch.arange(length, device=device) for length in row.lengths])[None]
    starts_N = torch.tensor([0, *row.lengths[:-1]], device=device).cumsum(0)
    with packed(model, row.lengths, seen, layers), forward_precision(objective.precision, torch.device(device).type):
        out = model.base_model(input_ids=ids_1T, position_ids=position_1T, output_hidden_states=states)
        logits_NC = class_logits(model, out.last_hidden_state[0, starts_N])
    hidden = tuple(state_1TD[0] for state_1TD in out.hidden_states) if states else ()
    return Read(logits_NC.float(), View(hidden, seen))


def backward(
    student: Any,
    teacher: Any,
    row: Row,
    objective: Objective,
    totals: Mapping[str, int],
    heads: Any,
    device: Any,
) -> dict[str, float]:
    """One forward and backward pass over a row of labelled texts; each term's part of the step's loss, unweighted.

    `ce` is the cross-entropy of the labels, `kd` the divergence from the fine-tuned teacher's classes, each a mean over
    texts; the layer terms are means over tokens, as ever.
    """
    import torch

    active = counts(row, objective.terms)
    scale = {name: objective.terms.weights[name] / totals[name] for name in active if totals[name]}
    layers = objective.layers
    states = layers is not None and layers.hidden_wanted
    theirs = None
    if active.keys() - {"ce"}:
        with torch.no_grad():
            theirs = read(teacher, row, objective, layers.teacher_layers if layers else (), states, device)
    ours = read(student, row, objective, layers.student_layers if layers else (), states, device)
    sums: dict[str, torch.Tensor] = {}
    if "ce" in active:
        label_N = labels_of(row, device)
        sums["ce"] = torch.nn.functional.cross_entropy(ours.logits_NC, label_N, reduction="sum")
    if "kd" in active and theirs is not None:
        assert objective.terms.kd is not None
        sums["kd"] = kd_loss(ours.logits_NC, theirs.logits_NC, objective.terms.kd).sum()
    if layers and theirs is not None:
        sums |= layers(row, ours.view, theirs.view)
    _weighted(sums, scale, ours.logits_NC).backward()
    return {name: float(value.detach()) / totals[name] for name, value in sums.items() if totals[name]}


def labels_of(row: Row, device: Any = "cpu") -> "torch.Tensor":
    """The classes of a row's texts [N]."""
    import torch

    return torch.tensor([getattr(document, "label", 0) for document in row.documents], device=device)


def held_out(documents: Sequence[Document], config: Train, objective: Objective) -> list[Row]:
    return pack(documents[: config.evaluate_chats], config.row_tokens)


def draw(rows: Sequence[Row], step: int, student: Any, objective: Objective, *, seed: int, end: int) -> list[Row]:
    """The rows as they are: labels do not change."""
    return list(rows)


def evaluate(student: Any, teacher: Any, rows: Sequence[Row], objective: Objective, heads: Any) -> dict[str, float]:
    """Cross-entropy and accuracy on held-out texts and, with a teacher, kl and the share of equal classes."""
    import torch

    sums = dict.fromkeys(("nll", "right", "kl", "same", "texts"), 0.0)
    training, device = student.training, next(student.parameters()).device
    student.eval()
    with torch.inference_mode():
        for row in rows:
            label_N = labels_of(row, device)
            logp_NC = read(student, row, objective, (), False, device).logits_NC.log_softmax(-1)
            sums["nll"] -= float(logp_NC.gather(1, label_N[:, None]).sum())
            sums["right"] += int((logp_NC.argmax(-1) == label_N).sum())
            sums["texts"] += len(label_N)
            if teacher is not None:
                theirs_NC = read(teacher, row, objective, (), False, device).logits_NC.log_softmax(-1)
                sums["kl"] += float((theirs_NC.exp() * (theirs_NC - logp_NC)).sum())
                sums["same"] += int((theirs_NC.argmax(-1) == logp_NC.argmax(-1)).sum())
    student.train(training)
    total = parallel.add_up(sums)
    found = {"loss": total["nll"] / total["texts"], "acc": total["right"] / total["texts"]}
    told = {"kl": total["kl"] / total["texts"], "top1": total["same"] / total["texts"]}
    return found | (told if teacher is not None else {})


def merit(found: Mapping[str, float]) -> float:
    """What counts of an evaluation: the loss on the labels."""
    return found["loss"]
