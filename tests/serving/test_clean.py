"""What raters may see of a text: the same for all arms, whatever marks a model or a server leaves in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.serving.clean import ANY, Cleaner, cleaned

MARKS = ("<|im_start|>", "<|im_end|>", "[CLS]", "<extra_id_0>")


@pytest.mark.parametrize(
    ("text", "expected", "cut"),
    [
        ("  Hello.\n", "Hello.", False),
        ("Hello.<|im_end|>\n<|im_start|>user\nMore?", "Hello.", True),
        ("Hello.</s>", "Hello.", True),
        ("<s> Hello.", "Hello.", False),
        ("<|begin_of_text|>Hello <pad>you", "Hello you", False),
        ("<|im_end|>Hello", "Hello", False),
        ("Hi<｜end▁of▁sentence｜>", "Hi", True),
        ("Hi <extra_id_0> there", "Hi", True),
        ("<think>\nwell, 'tis hard\n</think>\n\nYes.", "Yes.", False),
        ("Hello <think>hm</think>world", "Hello world", False),
        ("<think>never ends", "", False),
        ("thought aloud</think>Yes.", "thought aloudYes.", False),
        ("a < b, c[0] <b>bold</b> <|", "a < b, c[0] <b>bold</b> <|", False),
        ("bell\x07 and\r\nline", "bell and\nline", False),
        ("", "", False),
        (" \n ", "", False),
    ],
)
def test_texts_as_raters_see_them(text: str, expected: str, cut: bool) -> None:
    assert cleaned(text, MARKS) == (expected, cut)


def test_a_chat_whose_prompt_opens_the_thinking_begins_inside_it() -> None:
    cleaner = Cleaner(thinking=True)
    assert cleaner.feed("let me see</thi") + cleaner.feed("nk> Yes") + cleaner.end() == "Yes"


PARTS = [
    *MARKS,
    "<s>",
    "</s>",
    "<think>",
    "</think>",
    "<|",
    "|>",
    "<",
    ">",
    "[",
    "Hello",
    " ",
    "\n",
    "x",
    "é",
    "|",
    "\x00",
]


@given(st.lists(st.sampled_from(PARTS), max_size=14), st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_a_text_in_pieces_is_the_text_as_a_whole(parts: list[str], sizes: list[int]) -> None:
    text = "".join(parts)
    cleaner = Cleaner(MARKS)
    out, start, step = "", 0, 0
    while start < len(text):
        size = sizes[step % len(sizes)]
        out += cleaner.feed(text[start : start + size])
        assert out == out.strip()
        start, step = start + size, step + 1
    out += cleaner.end()
    assert (out, cleaner.ended) == cleaned(text, MARKS)
    assert not any(mark in out for mark in MARKS)


def test_plain_text_is_kept_back_only_while_it_could_be_a_mark() -> None:
    cleaner = Cleaner(MARKS)
    assert cleaner.feed("If a <") == "If a"
    assert cleaner.feed("= b") == " <= b"
    assert cleaner.feed(" <|im") == ""
    assert cleaner.feed("possible") == ""  # could still end in |>
    assert cleaner.feed(" it is") == " <|impossible it is"
    assert "|" in ANY
