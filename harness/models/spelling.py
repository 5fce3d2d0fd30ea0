"""What tokens spell: the bytes of text behind a token, and where in a text the tokens begin.

Byte-level BPE names bytes by letters of its own; SentencePiece writes a space as U+2581 and a rare byte as '<0x0A>'.
Which of them a tokenizer is stands in its decoder.
"""

import json
from itertools import accumulate
from typing import Any

from harness.errors import ConfigError
from harness.models.chat_format import end_of_turn


def borders(tokenizer: Any, text: str) -> tuple[list[int | None], bool]:
    """Where in the UTF-8 bytes of `text` each of its tokens begins, and its end; None for what is inside a character.

    The second value is whether the tokenizer puts a space of its own before the text. Raises ConfigError for a
    tokenizer that is not a fast one.

    The tokens' own bytes say it where together they are the text. Where they are not (a tokenizer that changes the
    text first, as lower-casing does), the spans in characters that the tokenizer gives say it: a token then begins
    at a border if it begins where all before it have ended.
    """
    raw = text.encode()
    style, added = _style(tokenizer), tokenizer.added_tokens_decoder
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    names = tokenizer.convert_ids_to_tokens(ids)
    pieces = [
        added[index].content.encode() if index in added else _piece(style, name)
        for index, name in zip(ids, names, strict=True)
    ]
    own_space = bool(pieces) and pieces[0].startswith(b" ") and not raw.startswith(b" ")
    starts: list[int | None]
    if b"".join(pieces) == (b" " if own_space else b"") + raw:
        begun = accumulate(map(len, pieces), initial=-1 if own_space else 0)
        starts = [max(0, start) for start in begun]
    else:
        size = [0, *accumulate(len(character.encode()) for character in text)]
        ended = [0, *accumulate((stop for _, stop in spans), max)]
        starts = [size[start] if start == end else None for (start, _), end in zip(spans, ended, strict=False)]
        starts = [0, *starts[1:], len(raw)] if starts else [len(raw)]
    inside = [start is not None and start < len(raw) and raw[start] & 0xC0 == 0x80 for start in starts]
    return [None if within else start for start, within in zip(starts, inside, strict=True)], own_space


def _style(tokenizer: Any) -> str:
    """How the tokenizer's tokens spell bytes: 'bytes' (byte-level BPE), 'metaspace' (SentencePiece) or 'plain'."""
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{type(tokenizer).__name__} does not say where in a text its tokens stand",
            hint="take a model with a tokenizer.json, or set terms.uld.aligned = false",
        )
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None:
        return "plain"
    state = json.loads(decoder.__getstate__())
    parts = state.get("decoders", [state])
    if any(part["type"] == "ByteLevel" for part in parts):
        return "bytes"
    if any(part["type"] in ("Metaspace", "ByteFallback") or "\u2581" in str(part) for part in parts):
        return "metaspace"
    return "plain"


def _byte_names() -> dict[str, int]:
    """The letters by which byte-level BPE (GPT-2) names bytes: printable ones as they are, the others from U+0100."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names = {chr(byte): byte for byte in shown}
    hidden = (byte for byte in range(256) if byte not in shown)
    return names | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


BYTES = _byte_names()


def _byte_fallback(name: str) -> int | None:
    """The byte of a SentencePiece token such as '<0x0A>'."""
    return int(name[3:5], 16) if len(name) == 6 and name.startswith("<0x") and name.endswith(">") else None


def _piece(style: str, name: str) -> bytes:
    """The bytes of text that a token stands for."""
    if style == "bytes":
        return bytes(BYTES[letter] for letter in name) if all(letter in BYTES for letter in name) else name.encode()
    if style == "metaspace":
        byte = _byte_fallback(name)
        return name.replace("\u2581", " ").encode() if byte is None else bytes([byte])
    return name.encode()


def spelled(tokenizer: Any) -> dict[tuple[str, bytes], int]:
    """Token ids by what they stand for: ('text', bytes), ('special', name) or ('end of turn', b'').

    Raises ConfigError for a tokenizer that is not a fast one.
    """
    style, added, special = _style(tokenizer), tokenizer.added_tokens_decoder, set(tokenizer.all_special_ids)
    special |= {index for index, token in added.items() if token.special}
    found: dict[tuple[str, bytes], int] = {}

    def last(item: tuple[str, int]) -> tuple[bool, int]:
        # SentencePiece has ASCII twice, and the bytes only for want of letters: the letter takes the byte's place.
        return (style == "metaspace" and _byte_fallback(item[0]) is None, -item[1])

    for name, index in sorted(tokenizer.get_vocab().items(), key=last):
        if index in special:
            found["special", name.encode()] = index
        elif index in added:
            found["text", added[index].content.encode()] = index
        else:
            found["text", _piece(style, name)] = index
    end = end_of_turn(tokenizer)
    found = {spelling: index for spelling, index in found.items() if index != end}
    return found | {("end of turn", b""): end}
