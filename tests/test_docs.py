"""The docs say what the code does."""

import re
from pathlib import Path

from harness.cli import build_parser
from harness.reference import command_reference, study_reference, subcommands

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def test_the_reference_pages_are_what_the_code_makes_of_them() -> None:
    """Run `make docs` when this fails."""
    assert (REPOSITORY / "docs" / "study-file.md").read_text(encoding="utf-8") == study_reference()
    assert (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8") == command_reference()


def test_every_viva_command_in_the_docs_can_be_parsed() -> None:
    commands = subcommands(build_parser())
    seen = 0
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash|console|)\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for line in block.splitlines():
                if not line.startswith("viva ") or line.startswith("viva --"):
                    continue
                words = line.split("#")[0].split()
                assert words[1] in commands, f"{page.name}: {line}"
                options = {option for action in commands[words[1]]._actions for option in action.option_strings}
                used = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
                assert used <= options, f"{page.name}: {line}"
                seen += 1
    assert seen >= 10


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z]+)", (REPOSITORY / "README.md").read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.M), target
