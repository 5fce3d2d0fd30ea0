"""The suite `words`: how well a model predicts text, the teacher's own answers and real human writing.

Sums and counts are kept per document, so that any interval can be computed again from the samples.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from harness.bench.packing import Row
from harness.bench.plan import Span, make_plan
from harness.bench.reading import Reader, predictions
from harness.bench.requests import encode_texts
from harness.bench.rows import CHUNK, read, score, target_scores
from harness.bench.tokens import prefix_token, rolling_windows, window_length
from harness.errors import ConfigError
from harness.models.chat_format import encode_document
from harness.models.load import LoadedModel
from harness.records import Chat, Score
from harness.train.divergences import forward_kl

SUITE = "words"
WINDOW = 1024
STRIDE = 512

Done = Callable[[int, int], None]


def teacher_text(
    student: LoadedModel,
    teacher: LoadedModel | None,
    chats: Sequence[Chat],
    system: str | None,
    on_done: Done | None = None,
) -> list[dict[str, Any]]:
    """Score held-out teacher answers, assistant tokens only; one dict per chat.

    Each holds `tokens`, `loglikelihood` (nats, sum over tokens), `truncated` (tokens cut from the left to fit the
    window), and with a teacher `kl` (sum over tokens of KL(teacher || student) in nats) and `top1` (tokens at which
    both have the same likeliest token). When `teacher` is the very object `student`, they are 0 and `tokens` without
    a second pass. A teacher with another vocabulary is left out, since its distributions cannot be compared.
    """
    window = window_length(student.model, student.tokenizer)
    spans, cut = [], []
    for chat in chats:
        ids, target = encode_document(student.tokenizer, chat, system)
        cut.append(max(0, len(ids) - window - 1))
        ids, target = ids[cut[-1] :], target[cut[-1] :]
        at = [t - 1 for t in range(1, len(ids)) if target[t]]
        spans.append(Span(ids[:-1], at, [ids[t + 1] for t in at]))
    compare = teacher is not None and same_vocabulary(student.tokenizer, teacher.tokenizer)
    readers = [Reader(student.model)]
    if teacher is not None and compare and teacher is not student:
        readers.append(Reader(teacher.model))
    plan = make_plan(spans, limit=min(reader.limit for reader in readers), piece=readers[0].piece)
    sums_3N = np.zeros((3, plan.offsets[-1]))
    owner_N = np.repeat(np.arange(len(spans)), np.diff(plan.offsets))
    left = np.diff(plan.offsets)

    def visit(row: Row, first: int, logits: list[torch.Tensor]) -> None:
        at, target, slot = predictions(plan, row)
        here = (at >= first) & (at < first + len(logits[0]))
        sums_3N[0, slot[here]], _ = target_scores(logits[0], at[here] - first, target[here])
        if len(logits) > 1:
            kl_S, same_S = divergence(*logits)
            sums_3N[1, slot[here]], sums_3N[2, slot[here]] = kl_S[at[here] - first], same_S[at[here] - first]

    def finished(row: Row) -> None:
        members, counts = np.unique(owner_N[predictions(plan, row)[2]], return_counts=True)
        left[members] -= counts
        if on_done:
            on_done(int((left == 0).sum()), len(spans))

    read(readers, plan, range(len(plan.pieces)), visit, finished)
    records = []
    parts = np.split(sums_3N, plan.offsets[1:-1], axis=1) if spans else []
    for chat, span, part_3N, lost in zip(chats, spans, parts, cut, strict=True):
        logp, kl, same = part_3N.sum(axis=1)
        record = {"part": "teacher_text", "id": chat.id, "kind": chat.kind, "tokens": len(span.at)}
        record |= {"loglikelihood": float(logp), "truncated": lost}
        if compare:
            record |= {"kl": float(kl), "top1": int(same) if len(readers) > 1 else len(span.at)}
        records.append(record)
    return records


@torch.inference_mode()
def divergence(student_SV: torch.Tensor, teacher_SV: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(KL(teacher || student) [S] in nats, whether both have the same likeliest token [S]) from logits.

    Vocabularies padded to different sizes are compared over the tokens that both have.
    """
    size = min(student_SV.shape[-1], teacher_SV.shape[-1])
    kl, same = [], []
    for start in range(0, len(student_SV), CHUNK):
        logq = student_SV[start : start + CHUNK, :size].float().log_softmax(-1)
        logp = teacher_SV[start : start + CHUNK, :size].float().log_softmax(-1)
        same.append((logp.argmax(-1) == logq.argmax(-1)).cpu().numpy())
        kl.append(forward_kl(logq, logp).double().cpu().numpy())
    return np.concatenate(kl), np.concatenate(same)


def same_vocabulary(one: Any, other: Any) -> bool:
    """Whether two tokenizers give every token the same number."""
    return one is other or one.get_vocab() == other.get_vocab()


def human_text(
    student: LoadedModel,
    documents: Sequence[str],
    *,
    window: int = WINDOW,
    stride: int = STRIDE,
    on_done: Done | None = None,
) -> list[dict[str, Any]]:
    """Rolling log-likelihood of whole documents; one dict per document.

    Each holds `loglikelihood` (nats), `tokens`, `bytes` (UTF-8) and `words` (runs between white space, as lm-eval
    counts them). Windows are at most `window` tokens long (and the model's own limit) and move by `stride`.
    """
    window = min(window, window_length(student.model, student.tokenizer))
    stride = min(stride, window)
    spans, owners = [], []
    tokens = encode_texts(student.tokenizer, documents)
    for owner, document in enumerate(documents):
        ids = tokens[document].tolist()
        for one in rolling_windows(ids, prefix_token(student.tokenizer), window, stride):
            spans.append(Span.ending(*one))
            owners.append(owner)
    records = [
        {"part": "human_text", "id": str(number), "loglikelihood": 0.0, "tokens": 0}
        | {"bytes": len(document.encode()), "words": len(_lm_eval_words(document))}
        for number, document in enumerate(documents)
    ]
    done = 0

    def finished(scored: Sequence[Any]) -> None:
        nonlocal done
        done += len(scored)
        if on_done:
            on_done(done, len(spans))

    for owner, (logp, _) in zip(owners, score(Reader(student.model), spans, on_done=finished), strict=True):
        records[owner]["loglikelihood"] += float(logp.sum())
        records[owner]["tokens"] += len(logp)
    return records


def _lm_eval_words(document: str) -> list[str]:
    return re.split(r"\s+", document)


def summarise(samples: Sequence[dict[str, Any]]) -> list[Score]:
    """The scores of `words` from its samples, each with a standard error by documents.

    Raises ConfigError when there is nothing to score.
    """
    scores = []
    teacher = [one for one in samples if one["part"] == "teacher_text" and one["tokens"]]
    human = [one for one in samples if one["part"] == "human_text" and one["tokens"]]
    if not (teacher or human):
        raise ConfigError("the suite words has no text to score", hint="give held-out chats or human documents")
    if teacher:
        scores.append(_perplexity("teacher_text_perplexity", teacher, "tokens"))
        if all("kl" in one for one in teacher):
            kl, kl_stderr = ratio([one["kl"] for one in teacher], [one["tokens"] for one in teacher])
            top1, top1_stderr = ratio([one["top1"] for one in teacher], [one["tokens"] for one in teacher])
            scores.append(_score("teacher_text_kl", kl, kl_stderr, len(teacher), "nats/token", False))
            scores.append(_score("teacher_text_top1", top1, top1_stderr, len(teacher), "share", True))
    if human:
        bits, stderr = ratio([-one["loglikelihood"] / math.log(2) for one in human], [one["bytes"] for one in human])
        scores.append(_perplexity("human_text_perplexity", human, "tokens"))
        scores.append(_score("human_text_bits_per_byte", bits, stderr, len(human), "bits/byte", False))
        scores.append(_perplexity("human_text_word_perplexity", human, "words"))
    return scores


def _perplexity(metric: str, documents: Sequence[dict[str, Any]], per: str) -> Score:
    nll, stderr = ratio([-one["loglikelihood"] for one in documents], [one[per] for one in documents])
    value = math.exp(min(nll, 700.0))  # a broken student must not overflow: e^700 says enough
    unit = "perplexity/word" if per == "words" else "perplexity/token"
    # Delta method: the error of e^x is e^x times the error of x.
    return _score(metric, value, None if stderr is None else value * stderr, len(documents), unit, False)


def _score(metric: str, value: float, stderr: float | None, n: int, unit: str, better: bool) -> Score:
    return Score(suite=SUITE, metric=metric, value=value, stderr=stderr, n=n, unit=unit, higher_is_better=better)


def ratio(sums: Sequence[float], sizes: Sequence[float]) -> tuple[float, float | None]:
    """sum(sums) / sum(sizes) and its standard error with documents as the unit that is drawn.

    The linearised ratio estimator (Cochran, Sampling Techniques, eq. 6.13); None for the error of one document.
    """
    sums_N, sizes_N = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    n, mean = len(sums_N), sums_N.sum() / sizes_N.sum()
    if n < 2:
        return float(mean), None
    residual_N = sums_N - mean * sizes_N
    return float(mean), float(math.sqrt(n / (n - 1) * (residual_N**2).sum()) / sizes_N.sum())
