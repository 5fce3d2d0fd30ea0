"""What is asked of a model, as tokens: encoded once for all models that share a tokenizer."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from harness.bench.tokens import prefix_token

REMEMBERED = 4
"""Lists of requests whose tokens are kept in memory: the suites of an arm, for the next arm."""

Pair = tuple[np.ndarray, np.ndarray]

_pairs: dict[str, list[Pair]] = {}


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Token ids of each (context, continuation), cut where lm-eval's `TemplateLM.loglikelihood` cuts them.

    The same pairs are encoded once for each tokenizer (by its content) as long as the process lives.
    """
    key = _digest([tokenizer_digest(tokenizer), *(text for pair in pairs for text in pair)])
    if key not in _pairs:
        while len(_pairs) >= REMEMBERED:
            del _pairs[next(iter(_pairs))]
        _pairs[key] = _encode_pairs(tokenizer, pairs)
    return _pairs[key]


def _encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    # Blanks at the end of a context belong to the continuation: tokens begin with a blank, and do not end with one.
    stems = [context.rstrip() for context, _ in pairs]
    wholes = [context + continuation for context, continuation in pairs]
    bare = [continuation for context, continuation in pairs if not context]
    tokens = encode_texts(tokenizer, [*wholes, *stems])
    plain = encode_texts(tokenizer, bare, add_special_tokens=False)
    prefix = np.array([prefix_token(tokenizer)], dtype=np.int32)
    found: list[Pair] = []
    for (context, continuation), stem, whole in zip(pairs, stems, wholes, strict=True):
        if context:
            before = tokens[stem]
            found.append((before if len(before) else prefix, tokens[whole][len(before) :]))
        else:
            after = plain[continuation]
            own = len(after) > 0 and after[0] == prefix[0]  # a text that brings its own first token needs no other
            found.append((prefix, after[1:] if own else after))
    return found


def encode_texts(tokenizer: Any, texts: Iterable[str], add_special_tokens: bool | None = None) -> dict[str, np.ndarray]:
    """Token ids of each different text as `tokens.encode_text` has them, all in one call of the tokenizer."""
    opening = tokenizer.decode(prefix_token(tokenizer))
    groups: dict[bool | None, list[str]] = {}
    for text in dict.fromkeys(texts):
        own = add_special_tokens is None and text.startswith(opening)
        groups.setdefault(False if own else add_special_tokens, []).append(text)
    found: dict[str, np.ndarray] = {}
    for special, some in groups.items():
        options = {} if special is None else {"add_special_tokens": special}
        encoded = tokenizer(some, return_attention_mask=False, verbose=False, **options)["input_ids"]
        found |= {text: np.array(ids, dtype=np.int32) for text, ids in zip(some, encoded, strict=True)}
    return found


def tokenizer_digest(tokenizer: Any) -> str:
    """A digest of what a tokenizer does to a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    core = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return _digest([type(tokenizer).__name__, core, str(tokenizer.special_tokens_map)])


def request_keys(kind: str, requests: Sequence[Any]) -> list[str]:
    """A key for each of lm-eval's requests: of its kind, task, document and arguments, and of how often it came before.

    An answer depends on nothing else, but for the model.
    """
    hashes: dict[int, str] = {}
    seen: Counter[str] = Counter()
    keys = []
    for request in requests:
        if id(request.doc) not in hashes:
            hashes[id(request.doc)] = _digest([json.dumps(request.doc, sort_keys=True, default=str)])
        asked = json.dumps(request.args, sort_keys=True, default=str)
        key = _digest([kind, str(request.task_name), hashes[id(request.doc)], asked])
        keys.append(f"{key}-{seen[key]}")
        seen[key] += 1
    return keys


def _digest(texts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for text in texts:
        part = text.encode("utf-8", errors="surrogatepass")
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()[:32]
