"""Perplexity of documents: of a file of the user's own texts, or of a plain-text corpus.

Sums and counts are kept per document, so that any interval can be computed again from the samples.
"""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.bench.perplexity import divergence, ratio, same_vocabulary
from harness.bench.plan import Span, make_plan
from harness.bench.reading import Reader, predictions
from harness.bench.requests import encode_texts
from harness.bench.rows import read, target_scores
from harness.bench.tokens import prefix_token, rolling_windows, window_length
from harness.errors import ConfigError
from harness.models.load import LoadedModel
from harness.records import Chat, Score, read_jsonl
from harness.texts import KINDS, Text, is_text_corpus, read_texts

CONTEXT = 1024  # tokens that a prediction sees at most, unless the suite says otherwise

Done = Callable[[int, int], None]


def read_documents(
    path: Path, split: str | None = None, text_column: str | None = None, group_column: str | None = None
) -> list[Text]:
    """The documents of a file: rows of JSONL and tables, parts of any other file, which is taken for plain text.

    `split` says how plain text is parted: `blank` lines between documents (the default), `whole` for one document, or
    a regular expression of the line that begins a document. Except with `blank`, a document is the file's exact text.
    Raises ConfigError for a file that is missing, is no text, or holds none.
    """
    plain = path.suffix == ".txt" or not path.name.lower().endswith(KINDS)
    if not plain:
        if split:
            raise ConfigError(f"split does nothing with {path}, whose rows are documents", hint="leave split out")
        return read_texts(path, text_column, group_column)
    if text_column or group_column:
        raise ConfigError(f"{path} has no columns", hint="text_column and group_column belong to tables")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}", hint="texts names a file beside the study file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}", hint="save it as UTF-8") from None
    found = [Text(id=str(number), text=part) for number, part in enumerate(_parts(text, split or "blank"), 1)]
    if not found:
        raise ConfigError(f"{path} holds no text", hint="there is nothing to score")
    return found


def read_chats(path: Path) -> list[Chat]:
    """The chats of a JSONL whose rows hold messages; none for any other file."""
    if path.suffix != ".jsonl" or not path.is_file() or is_text_corpus(path):
        return []
    return read_jsonl(path, Chat)


def _parts(text: str, split: str) -> list[str]:
    if split == "whole":
        parts = [text]
    elif split == "blank":
        parts = re.split(r"\n(?:[ \t\r]*\n)+", re.sub(r"\A(?:[ \t\r]*\n)+", "", text).rstrip("\r\n"))
    else:
        try:
            begin = re.compile(split)
        except re.error as error:
            raise ConfigError(
                f"split = {split!r} is no regular expression: {error}", hint="or blank, or whole"
            ) from None
        parts = [""]
        for line in text.splitlines(keepends=True):
            if begin.search(line):
                parts.append("")
            parts[-1] += line
    return [part for part in parts if part.strip()]


def score_documents(
    part: str,
    student: LoadedModel,
    documents: Sequence[Text],
    *,
    teacher: LoadedModel | None = None,
    context: int | None = None,
    stride: int | None = None,
    on_done: Done | None = None,
) -> list[dict[str, Any]]:
    """Rolling log-likelihood of whole documents, after the beginning-of-sequence token; one dict per document.

    Each holds `loglikelihood` (nats), `tokens`, `bytes` (UTF-8) and `words` (runs between white space, as lm-eval
    counts them); with a teacher of the same vocabulary `kl` (sum over tokens of KL(teacher || student), nats) and
    `top1` (tokens at which both find the same token likeliest). A prediction sees at most `context` tokens, and the
    window moves by `stride`: every token is predicted once. `on_done(documents done, all)`.
    """
    compared = teacher is not None and same_vocabulary(student.tokenizer, teacher.tokenizer)
    models = [student] if not compared or teacher is None or teacher is student else [student, teacher]
    context, stride = window_and_stride(student, context, stride)
    tokens = encode_texts(student.tokenizer, [document.text for document in documents])
    spans, owners = [], []
    for owner, document in enumerate(documents):
        ids = tokens[document.text].tolist()
        for window in rolling_windows(ids, prefix_token(student.tokenizer), context, stride):
            spans.append(Span.ending(*window))
            owners.append(owner)
    left_D = np.bincount(owners, minlength=len(documents)) if owners else np.zeros(len(documents), dtype=int)

    def finished(some: Sequence[int]) -> None:
        for span in some:
            left_D[owners[span]] -= 1
        if on_done:
            on_done(int((left_D == 0).sum()), len(documents))

    sums_S3 = score_spans([Reader(one.model) for one in models], spans, finished)
    sums_D3 = np.zeros((len(documents), 3))
    np.add.at(sums_D3, np.array(owners, dtype=int), sums_S3)
    return [
        _record(part, document, len(tokens[document.text]), sums_3, compared, len(models))
        for document, sums_3 in zip(documents, sums_D3, strict=True)
    ]


def _record(part: str, document: Text, tokens: int, sums_3: np.ndarray, compared: bool, models: int) -> dict[str, Any]:
    record = {"part": part, "id": document.id, "doc_hash": text_hash(document.text), **text_sizes(document.text)}
    record |= {"tokens": tokens, "loglikelihood": float(sums_3[0])}
    if compared:  # of a model with itself: no second pass
        record |= {"kl": float(sums_3[1]), "top1": int(sums_3[2]) if models > 1 else tokens}
    return record


def window_and_stride(student: LoadedModel, context: int | None, stride: int | None) -> tuple[int, int]:
    """Tokens that a prediction sees at most, within the model's window, and tokens by which the window moves."""
    window = min(context or CONTEXT, window_length(student.model, student.tokenizer))
    return window, min(stride or max(1, window // 2), window)


def text_hash(text: str) -> str:
    """What tells one document from another."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def text_sizes(text: str) -> dict[str, int]:
    """Bytes in UTF-8, and words as lm-eval counts them."""
    return {"bytes": len(text.encode()), "words": len(re.split(r"\s+", text))}


def score_spans(readers: Sequence[Reader], spans: Sequence[Span], finished: Callable[[list[int]], None]) -> np.ndarray:
    """For each span [S, 3]: log-likelihood of its targets, and against a second reader KL and tokens alike, as sums.

    `finished` is told the numbers of spans that a row completed, one call at a time.
    """
    import torch

    plan = make_plan(spans, limit=min(reader.limit for reader in readers), piece=readers[0].piece)
    sums_N3 = np.zeros((int(plan.offsets[-1]), 3))
    owner_N = np.repeat(np.arange(len(spans)), np.diff(plan.offsets))
    left_S = np.diff(plan.offsets)

    def visit(row: Any, first: int, logits: list[torch.Tensor]) -> None:
        at, target, slot = predictions(plan, row)
        here = (at >= first) & (at < first + len(logits[0]))
        sums_N3[slot[here], 0], _ = target_scores(logits[0], at[here] - first, target[here])
        if len(logits) > 1:
            kl, same = divergence(*logits)
            sums_N3[slot[here], 1], sums_N3[slot[here], 2] = kl[at[here] - first], same[at[here] - first]

    def after(row: Any) -> None:
        members, counts = np.unique(owner_N[predictions(plan, row)[2]], return_counts=True)
        left_S[members] -= counts
        finished([int(one) for one in members[left_S[members] == 0]])

    read(readers, plan, range(len(plan.pieces)), visit, after)
    sums_S3 = np.zeros((len(spans), 3))
    np.add.at(sums_S3, owner_N, sums_N3)
    return sums_S3


def text_scores(suite: str, part: str, samples: Sequence[dict[str, Any]]) -> list[Score]:
    """Scores of one text from its samples, each with a standard error by documents; none without tokens.

    `<part>_perplexity` (per token), `_word_perplexity`, `_byte_perplexity`, `_bits_per_byte`, and where samples hold
    them `_kl` (nats/token) and `_top1` (share of tokens).
    """
    mine = [one for one in samples if one["part"] == part and one["tokens"]]
    if not mine:
        return []
    scores = []

    def add(metric: str, value: float, stderr: float | None, unit: str, better: bool = False) -> None:
        name = f"{part}_{metric}"
        scores.append(
            Score(suite=suite, metric=name, value=value, stderr=stderr, n=len(mine), unit=unit, higher_is_better=better)
        )

    nll = [-one["loglikelihood"] for one in mine]
    for metric, per in (("perplexity", "tokens"), ("word_perplexity", "words"), ("byte_perplexity", "bytes")):
        mean, stderr = ratio(nll, [one[per] for one in mine])
        value = math.exp(min(mean, 700.0))  # a broken student must not overflow: e^700 says enough
        # Delta method: the error of e^x is e^x times the error of x.
        add(metric, value, None if stderr is None else value * stderr, f"perplexity/{per[:-1]}")
    bits, stderr = ratio([one / math.log(2) for one in nll], [one["bytes"] for one in mine])
    add("bits_per_byte", bits, stderr, "bits/byte")
    if all("kl" in one for one in mine):
        tokens = [one["tokens"] for one in mine]
        add("kl", *ratio([one["kl"] for one in mine], tokens), "nats/token")
        add("top1", *ratio([one["top1"] for one in mine], tokens), "share", better=True)
    return scores


def interval(score: Score, level: float = 0.95) -> tuple[float, float] | None:
    """The confidence interval of a score over documents by Student's t, within what the score can be.

    Of a perplexity it is that of its logarithm.
    """
    from scipy.stats import t

    if score.stderr is None or score.n < 2:
        return None
    half = float(t.ppf((1 + level) / 2, score.n - 1)) * score.stderr
    if not score.unit.startswith("perplexity"):
        least = -math.inf if score.unit not in ("share", "squared error", "nats/token", "bits/byte") else 0.0
        most = 1.0 if score.unit == "share" else math.inf
        return max(least, score.value - half), min(most, score.value + half)
    factor = math.exp(min(half / score.value, 700.0))
    return score.value / factor, score.value * factor


def text_results(suite: str, scores: Sequence[Score], settings: dict[str, Any], samples: int) -> dict[str, Any]:
    """The results of a suite of texts in lm-eval's form, with scores and their 95 % intervals under `viva`."""
    metrics: dict[str, Any] = {"alias": suite}
    for score in scores:
        metrics[f"{score.metric},none"] = score.value
        metrics[f"{score.metric}_stderr,none"] = "N/A" if score.stderr is None else score.stderr
    intervals = {score.metric: found for score in scores if (found := interval(score))}
    return {
        "results": {suite: metrics},
        "configs": {suite: {"task": suite, **settings}},
        "versions": {suite: 1.0},
        "n-shot": {suite: 0},
        "higher_is_better": {suite: {score.metric: score.higher_is_better for score in scores}},
        "n-samples": {suite: {"original": samples, "effective": samples}},
        "viva": {"scores": [score.model_dump() for score in scores], "intervals": intervals},
    }
