"""Where a text may be cut without tearing apart what a reader sees as one character.

The rules of Unicode's extended grapheme clusters (UAX 29) as far as models write them: combining marks, joined emoji,
skin tones, flags, Hangul syllables in parts, line ends. Left out are prepended marks (a few Indic and Arabic signs).
"""

import unicodedata

JOINER = "\u200d"


def boundary(text: str, start: int, end: int) -> int:
    """The last place at or before `end` at which `text` may be cut; `start` is one such place, and the least answer.

    Everything up to `text[end]` is looked at, and nothing behind it, unless the text ends there.
    """
    if end >= len(text):
        return len(text)
    while end > start and _joined(text, start, end):
        end -= 1
    return end


def _joined(text: str, start: int, at: int) -> bool:
    """Whether text[at] belongs to the character before it."""
    before, letter = text[at - 1], text[at]
    if letter == "\n":
        return before == "\r"
    if before in "\r\n" or letter == "\r":
        return False
    if before == JOINER or _extends(letter):
        return True
    if _is_flag_letter(letter):
        run = at
        while run > start and _is_flag_letter(text[run - 1]):
            run -= 1
        return (at - run) % 2 == 1
    return False


def _extends(letter: str) -> bool:
    code = ord(letter)
    if code < 0x300:
        return False
    return (
        unicodedata.category(letter) in ("Mn", "Me", "Mc")
        or letter in (JOINER, "\u200c")
        or 0x1F3FB <= code <= 0x1F3FF  # skin tones
        or 0xE0020 <= code <= 0xE007F  # tags, as in the flag of Scotland
        or 0x1160 <= code <= 0x11FF  # vowels and ends of Hangul syllables
        or 0xD7B0 <= code <= 0xD7FF
    )


def _is_flag_letter(letter: str) -> bool:
    return 0x1F1E6 <= ord(letter) <= 0x1F1FF
