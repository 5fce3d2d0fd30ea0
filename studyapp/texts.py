"""Every text that a rater reads, by language: one file each in languages/.

A language is added by adding its file. All files have the same keys, and in each text the same fields in braces.
"""

import tomllib
from functools import cache
from pathlib import Path

from harness.errors import ConfigError

LANGUAGES = Path(__file__).parent / "languages"
DEFAULT = "en"


class Texts:
    """The texts of one language: `texts("page.save")`, `texts("join.items", items=36)`.

    A text that counts has a twin under the same key with `_one` for exactly one: pass the number as `count`.
    """

    def __init__(self, code: str, table: dict[str, dict[str, str]]) -> None:
        self.code = code
        self.entries = {f"{group}.{key}": text for group, keys in table.items() for key, text in keys.items()}

    def __call__(self, key: str, **fields: object) -> str:
        if fields.get("count") == 1 and f"{key}_one" in self.entries:
            key += "_one"
        text = self.entries[key]
        return text.format(**fields) if fields else text

    @property
    def name(self) -> str:
        """What the language calls itself."""
        return self.entries["language.name"]


@cache
def languages() -> tuple[str, ...]:
    """The codes of all languages there are, English first."""
    found = {path.stem for path in LANGUAGES.glob("*.toml")}
    return (DEFAULT, *sorted(found - {DEFAULT}))


@cache
def texts(language: str) -> Texts:
    """The texts of a language. Raises ConfigError for one that there is no file of."""
    if language not in languages():
        raise ConfigError(
            f"there are no texts for the language {language!r}", hint=f"use one of {', '.join(languages())}"
        )
    return Texts(language, tomllib.loads((LANGUAGES / f"{language}.toml").read_text(encoding="utf-8")))
