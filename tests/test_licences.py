"""What a teacher's licence says of training on it: known licences, the check, and the page that lists them."""

import re
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.licences import FREE, KNOWN, check_licence, find_licence, is_free, licence_table

PAGE = Path(__file__).parent.parent / "docs" / "licences.md"


@pytest.mark.parametrize(
    "licence",
    [*FREE, "Apache License, Version 2.0", "apache 2.0", "The MIT License", "BSD 3-Clause", "CC BY 4.0", "mit"],
)
def test_free_licences_ask_nothing(licence: str) -> None:
    assert check_licence(licence, None) == []


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("llama2", "improve any other large language model than Llama 2"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "any other large language model than Llama 3"),
        ("cc-by-nc-4.0", "non-commercial purposes only"),
        ("CC-BY-NC-SA 3.0", "non-commercial purposes only"),
        ("Creative Commons Attribution-NonCommercial 4.0 International", "non-commercial purposes only"),
        ("tongyi-qianwen", "other large language model than Tongyi Qianwen"),
        ("Qwen RESEARCH LICENSE AGREEMENT", "non-commercial use only"),
        ("Mistral AI Research License", "for research only"),
        ("OpenAI", "compete with OpenAI"),
        ("Anthropic", "competing product"),
        ("gemini-api", "compete with them"),
        ("tencent-hunyuan-community", "improve any other AI model"),
    ],
)
def test_a_limiting_licence_needs_a_purpose(licence: str, said: str) -> None:
    for empty in (None, " "):
        with pytest.raises(ConfigError, match="states no purpose") as error:
            check_licence(licence, empty)
        assert said in error.value.what
        assert "https://" in error.value.what
        assert error.value.hint is not None
        assert 'purpose = "research"' in error.value.hint
    (note,) = check_licence(licence, "research")
    assert said in note
    assert note.endswith("the study states its purpose: research")


@pytest.mark.parametrize("licence", ["llama3.1", "Llama 3.2 Community License Agreement", "llama-3.3", "llama4"])
def test_newer_llamas_ask_for_a_name(licence: str) -> None:
    (note,) = check_licence(licence, None)
    assert "name beginning with 'Llama'" in note


@pytest.mark.parametrize("licence", ["gemma", "DeepSeek License Agreement v1.0", "qwen", "AGPL v3", "cc-by-sa-4.0"])
def test_conditions_reach_the_report_and_stop_nothing(licence: str) -> None:
    assert len(check_licence(licence, None)) == 1


@pytest.mark.parametrize("licence", [None, "", "other", "LicenseRef-Own"])
def test_what_is_not_known_is_said(licence: str | None) -> None:
    (note,) = check_licence(licence, None)
    assert note.endswith("was not checked")


def test_a_misspelt_licence_gets_the_nearest_name() -> None:
    (note,) = check_licence("Appache-2.0", None)
    assert "is Apache-2.0 meant?" in note


def test_no_name_means_two_licences() -> None:
    for licence in KNOWN:
        for name in (licence.name, *licence.aliases):
            assert find_licence(name) is licence, name
            assert not is_free(name), name
    for name in FREE:
        assert find_licence(name) is None, name


def test_every_entry_can_be_looked_up() -> None:
    for licence in KNOWN:
        assert re.match(r"https://\S+$", licence.source), licence.name
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", licence.as_of), licence.name
        assert "|" not in licence.says, licence.name


def test_the_page_lists_what_the_code_knows() -> None:
    """When this fails, put what `python -m harness.licences` prints in place of the page's table."""
    text = PAGE.read_text(encoding="utf-8")
    assert licence_table() in text
    for name in FREE:
        assert name in text
