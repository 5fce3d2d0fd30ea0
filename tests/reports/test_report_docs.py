"""docs/report.md names what report.json holds."""

import re
from pathlib import Path

from fixture_run import make_run

from reports.document import build
from reports.load import load
from reports.report_schema import schema_text
from reports.wording_warnings import WARNINGS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "report.md"


def test_every_warning_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    table = text[text.index("## Warnings") :]
    named = set(re.findall(r"`([a-z_]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert named == set(WARNINGS)


def test_every_field_is_documented(tmp_path: Path) -> None:
    report = build(load(make_run(tmp_path / "run")))
    text = DOCS.read_text(encoding="utf-8")
    student = report["arms"]["distilled"]["satisfaction"]
    for name in [*report, *report["study"], *student, *student["fraction"], *student["difference"]]:
        assert re.search(rf"`{name}[`.]", text), name


def test_the_schema_file_is_that_of_the_models() -> None:
    """Run `python -m reports.report_schema` when this fails."""
    assert (DOCS.parent / "report.schema.json").read_text(encoding="utf-8") == schema_text()
