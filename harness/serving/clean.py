"""One look for the texts of all arms: no marks of a chat template, no thinking aloud, no white space at the ends.

A model's tokenizer keeps its own special tokens out of a text. That is not enough: servers leak theirs, and models
spell such marks out letter by letter. Each would name the family of the model.
"""

import re
from collections.abc import Iterable

THINK, THOUGHT = "<think>", "</think>"
STARTS = ("<s>", "<bos>", "<pad>", "<unk>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>")
ENDS = ("</s>", "<eos>", "<end_of_turn>", "<start_of_turn>", "[INST]", "[/INST]")
ANY = r"<[|｜][^<>\s]{1,48}?[|｜]>"
"""Marks that are written like <|im_end|>, whatever stands in them."""
LONGEST = 64
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Cleaner:
    """Takes pieces of a text as they come and gives back what may be shown of them.

    A mark that starts a text is left out; any other one ends it, for what comes after it is somebody else's turn.
    What stands between <think> and </think> is left out; with `thinking` the text begins inside. `marks` are further
    marks, such as the special tokens of the study's models.
    """

    def __init__(self, marks: Iterable[str] = (), *, thinking: bool = False) -> None:
        own = {mark for mark in marks if len(mark) > 2 and not mark.isalnum()}
        self.literals = sorted({*STARTS, *ENDS, THINK, THOUGHT, *own}, key=len, reverse=True)
        self.pattern = re.compile("|".join([*map(re.escape, self.literals), ANY]))
        self.first = {"<", *(mark[0] for mark in self.literals)}
        self.thinking = thinking
        self.ended = False
        self.shown = False
        self.rest = self.space = ""

    def feed(self, piece: str) -> str:
        """What may be shown now. White space is kept back until something follows it."""
        self.rest += _CONTROL.sub("", piece)
        return self._trimmed(self._release(whole=False))

    def end(self) -> str:
        """What is left to be shown when no more comes."""
        return self._trimmed(self._release(whole=True))

    def _release(self, *, whole: bool) -> str:
        """What comes out of the rest, white space and all."""
        out = ""
        while not self.ended:
            if self.thinking:
                at = self.rest.find(THOUGHT)
                if at < 0:
                    self.rest = self.rest[-len(THOUGHT) + 1 :]
                    return out
                self.rest, self.thinking = self.rest[at + len(THOUGHT) :], False
                continue
            ready = len(self.rest) if whole else self._certain()
            found = self.pattern.search(self.rest)
            if found is None or found.start() >= ready:
                out, self.rest = out + self.rest[:ready], self.rest[ready:]
                return out
            out, self.rest = out + self.rest[: found.start()], self.rest[found.end() :]
            if found[0] == THINK:
                self.thinking = True
            elif found[0] not in (*STARTS, THOUGHT) and (self.shown or out.strip()):
                self.ended = True
        return out

    def _trimmed(self, out: str) -> str:
        out = self.space + out if self.shown else out.lstrip()
        kept = out.rstrip()
        self.space = out[len(kept) :]
        self.shown = self.shown or bool(kept)
        return kept

    def _certain(self) -> int:
        """How much of the rest cannot be part of a mark that is still being written."""
        for at in range(max(0, len(self.rest) - LONGEST), len(self.rest)):
            tail = self.rest[at:]
            if tail[0] not in self.first:
                continue
            if any(mark.startswith(tail) for mark in self.literals) or re.fullmatch(r"<([|｜][^<>\s]{0,49})?", tail):
                return at
        return len(self.rest)


def cleaned(text: str, marks: Iterable[str] = ()) -> tuple[str, bool]:
    """A whole text as a rater sees it, and whether a mark ended it before its own end."""
    cleaner = Cleaner(marks)
    out = cleaner.feed(text)
    return out + cleaner.end(), cleaner.ended
