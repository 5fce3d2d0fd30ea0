"""From tokens to text while the tokens are still coming."""

from typing import Any

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder makes of the first bytes of a character."""


class Letters:
    """The text of tokens that come one at a time, without special tokens and without half characters.

    Only the last few tokens are decoded each time, together with those before them: a decoder may write the same token
    in another way at the beginning of a text (the scheme of Hugging Face's text-generation-inference).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.before = 0  # the first token that is decoded again
        self.done = 0  # tokens whose text is out

    def feed(self, token: int) -> str:
        """The text that a token adds; empty while it has only begun a character."""
        self.ids.append(token)
        known, text = self._decoded(self.ids[self.before : self.done]), self._decoded(self.ids[self.before :])
        if len(text) <= len(known) or text.endswith(UNFINISHED):
            return ""
        self.before, self.done = self.done, len(self.ids)
        return text[len(known) :]

    def end(self) -> str:
        """What is left when no more comes; a character of which bytes are missing is left out."""
        known, text = self._decoded(self.ids[self.before : self.done]), self._decoded(self.ids[self.before :])
        return text[len(known) :].rstrip(UNFINISHED)

    def _decoded(self, ids: list[int]) -> str:
        # Not cleaned up: that would change what is out already.
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
