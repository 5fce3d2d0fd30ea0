"""What a student's training minimises: a weighted sum of terms, each in nats per learnt token."""

from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError
from harness.terms import KNOBS, Kd, Terms
from harness.train.batches import Batch
from harness.train.divergences import DIVERGENCES

if TYPE_CHECKING:
    import torch


def needs_teacher(terms: Terms) -> bool:
    """Whether the teacher has to run while the student trains."""
    return terms.kd is not None and terms.kd.weight > 0


def kd_loss(student_NV: "torch.Tensor", teacher_NV: "torch.Tensor", kd: Kd) -> "torch.Tensor":
    """Divergence per token [N] between logits, at a temperature.

    Both logits are divided by T. With `t_squared` the result is multiplied by T² (Hinton et al. 2015, section 2), so
    that the gradient keeps its size as T changes; tools differ in this, so 'temperature 2' alone names no objective.
    """
    student_logp_NV = (student_NV / kd.temperature).log_softmax(-1)
    teacher_logp_NV = (teacher_NV / kd.temperature).log_softmax(-1)
    knobs = {name: getattr(kd, name) for name in KNOBS.get(kd.divergence, ()) if getattr(kd, name) is not None}
    loss_N = DIVERGENCES[kd.divergence](student_logp_NV, teacher_logp_NV, **knobs)
    return loss_N * kd.temperature**2 if kd.t_squared else loss_N


def loss_sums(student: Any, teacher: Any, batch: Batch, terms: Terms, vocabulary: int) -> dict[str, "torch.Tensor"]:
    """Each term of the objective, unweighted and summed over the batch's learnt tokens.

    A term of weight 0 is not computed at all, so that kd_weight = 0 is the control bit for bit. `teacher` may be
    None when no term needs it. `vocabulary` is the number of tokens that the shared tokenizer knows: models that
    share it may be padded to different sizes, and what is behind takes no part in the comparison.
    """
    import torch

    student_NV = batch.logits(student).float()
    sums = {}
    if terms.kd and terms.kd.weight:
        with torch.no_grad():
            teacher_NV = batch.logits(teacher).float()
        sums["kd"] = kd_loss(student_NV[:, :vocabulary], teacher_NV[:, :vocabulary], terms.kd).sum()
    if terms.ce and terms.ce.weight:
        sums["ce"] = torch.nn.functional.cross_entropy(student_NV, batch.label_N, reduction="sum")
    return sums


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest token id that the tokenizer can give."""
    return 1 + max(tokenizer.get_vocab().values())


def weighted(sums: dict[str, "torch.Tensor"], terms: Terms) -> "torch.Tensor":
    """The objective: the terms' sums, each times its weight."""
    import torch

    return torch.stack([getattr(terms, name).weight * value for name, value in sums.items()]).sum()


def check_vocabularies(teacher: Any, student: Any) -> None:
    """Raise ConfigError unless both tokenizers give the same meaning to the same ids.

    Compared is the tokenizers' content, not `vocab_size`: padding of the embedding matrix differs between models
    that share a tokenizer.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    different = sum(1 for token, index in theirs.items() if ours.get(token) != index)
    raise ConfigError(
        f"teacher and student vocabularies differ: {len(theirs)} and {len(ours)} tokens, {different} of the "
        "teacher's tokens have another id or none in the student",
        hint="token distillation needs one tokenizer: cut the student from the teacher, or use terms without kd",
    )
