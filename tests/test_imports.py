"""The import rules of the design, read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "lm_eval", "datasets", "gradio", "pandas", "matplotlib"}
MODEL_LIBRARIES = {"transformers", "lm_eval"}
MAY_LOAD_MODELS = ("harness/models/", "harness/train/", "harness/bench/", "harness/chat.py")


def sources(package: str) -> list[Path]:
    found = sorted((REPOSITORY / package).rglob("*.py"))
    assert found, f"no source in {package}"
    return found


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Full names of the modules that a file imports at run time (not under TYPE_CHECKING)."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", ["reports", "studyapp"])
def test_reports_and_studyapp_never_import_torch(package: str) -> None:
    for path in sources(package):
        assert not roots(imports(path)) & {"torch", "transformers", "lm_eval"}, path


def test_studyapp_and_reports_do_not_know_each_other() -> None:
    for path in sources("studyapp"):
        assert "reports" not in roots(imports(path)), path
    for path in sources("reports"):
        assert "studyapp" not in roots(imports(path)), path


def test_harness_reaches_studyapp_and_reports_only_inside_functions() -> None:
    for path in sources("harness"):
        assert not roots(imports(path, top_level_only=True)) & {"reports", "studyapp"}, path


def test_only_some_folders_load_models() -> None:
    for path in sources("harness"):
        name = path.relative_to(REPOSITORY).as_posix()
        if not name.startswith(MAY_LOAD_MODELS):
            assert not roots(imports(path)) & MODEL_LIBRARIES, path


def test_the_page_holds_no_sql_and_statistics_no_files() -> None:
    app = (REPOSITORY / "studyapp" / "app.py").read_text(encoding="utf-8")
    assert not any(word in app for word in ("SELECT ", "INSERT ", "UPDATE ", "DELETE "))
    for path in sources("reports/stats"):
        assert not roots(imports(path)) & {"pathlib", "os", "sqlite3", "pandas", "json", "io"}, path
        assert "open(" not in path.read_text(encoding="utf-8"), path


def test_blinding_is_opened_in_one_place_of_the_report_and_nowhere_in_the_app() -> None:
    for path in sources("studyapp"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        strings = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == "blinding.json"
        }
        assert not strings, path


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from harness.cli import build_parser; build_parser().format_help(); "
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
