"""Every text of a rater's page comes from the language files, and all languages have them all."""

import ast
import re
from pathlib import Path

import pytest
from small_study import known, make, scenarios

from harness.errors import ConfigError
from studyapp import session, views
from studyapp.records import View
from studyapp.texts import Texts, languages, texts

STUDYAPP = Path(views.__file__).parent
FIELD = re.compile(r"\{(\w+)\}")
TEMPLATES = ("continue", "device", "end", "join", "language", "leave", "notice", "questions", "withdraw")
CODE = ("app", "guard", "layout", "pages", "routes", "screens", "views")


def marked(language="en"):
    """A language in which every text is its own key between brackets, with its fields."""
    fields = {key: "".join(f" {{{name}}}" for name in FIELD.findall(text)) for key, text in texts("en").entries.items()}
    marks = Texts(language, {})
    marks.entries = {key: f"[{key.replace('.', ':')}{fields[key]}]" for key in fields}
    marks.entries["language.name"] = "[language:name]"
    return marks


def test_english_comes_first_and_another_language_is_shipped():
    assert languages()[0] == "en"
    assert "de" in languages()


@pytest.mark.parametrize("language", languages())
def test_a_language_has_all_texts_with_all_their_fields(language):
    own, english = texts(language).entries, texts("en").entries
    assert own.keys() == english.keys()
    for key, text in own.items():
        assert text.strip(), key
        if not key.endswith("_one"):  # 'one chat' needs no number
            assert sorted(FIELD.findall(text)) == sorted(FIELD.findall(english[key])), key


def test_languages_differ():
    same = {key for key, text in texts("de").entries.items() if text == texts("en").entries[key]}
    assert same <= {"page.assistant"}


def test_a_text_counts():
    assert texts("en")("join.items", count=1) == "You will rate one chat"
    assert texts("en")("join.items", count=2) == "You will rate 2 chats"
    assert texts("de")("live.left", count=1) == "Noch eine Nachricht."


def test_an_unknown_language_names_the_known_ones():
    with pytest.raises(ConfigError, match="'xx'") as error:
        texts("xx")
    assert "de, " in error.value.hint or "en, de" in error.value.hint


def test_every_text_is_used():
    files = [*STUDYAPP.glob("*.py"), *STUDYAPP.glob("templates/*.html")]
    used = "".join(path.read_text(encoding="utf-8") for path in files)
    named = set(re.findall(r"""["'](\w+\.\w+)["']""", used))
    by_group = {"join", "note", "refused"}  # looked up by a reason or a status
    for key in texts("en").entries:
        stem = key.removesuffix("_one")
        others = {"page.device", "page.leave", "page.withdraw"}  # the links of views.hint
        titles = {f"{state}.title" for state in ("questions", "end", "paused", "closed")}
        assert stem in named | others | titles or key.split(".")[0] in by_group, key


@pytest.mark.parametrize("name", [*TEMPLATES, "plain"])
def test_no_template_has_words_of_its_own(name):
    source = (STUDYAPP / "templates" / f"{name}.html").read_text(encoding="utf-8")
    source = re.sub(r"<style>.*?</style>|\{%.*?%\}|\{\{.*?\}\}", "", source, flags=re.S)
    assert set(re.findall(r'(?:aria-label|title|alt|placeholder)="([^"]*)"', source)) <= {""}
    bare = re.sub(r"<[^>]*>|&nbsp;", "", source)
    assert not re.search(r"[^\W\d_]", bare), bare.strip()


@pytest.mark.parametrize("name", CODE)
def test_no_code_of_the_pages_has_sentences_for_raters(name):
    """Two words in one string: what is left are logs, errors for the owner, HTML and headers."""
    tree = ast.parse((STUDYAPP / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant("")  # docstrings
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("log.", "RatingError", "fonts")):
            node.args, node.keywords = [], []
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "fonts":
            node.value = ast.Constant("")
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for string in strings:
        if not re.search(r"[<>=;{(*]", string):
            assert not re.search(r"[A-Za-z]{2,} [a-z]{2,}", string), string


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "study.db"
    items = scenarios(turns=2, modes=("fixed", "live", "side-by-side"))
    make(path, items=items, training=[known(1)], side=3, scenarios_per_rater=4)
    return path


def words_of(html, *theirs):
    """The words that a reader sees outside the marks of `marked` and outside the study's own texts."""
    for text in theirs:
        html = html.replace(views.escape(text), "")
    return re.findall(r"[^\W\d_]{2,}", re.sub(r"\[[^\]]*\]", "", re.sub(r"<[^>]*>", " ", html)))


def test_the_rating_page_in_a_language_of_marks_has_no_other_words(db):
    t = marked()
    rater = session.who(db, session.join(db))
    seen = set()
    while (view := session.current(db, rater)).item is not None:
        item = view.item
        seen.add(item.mode + " for practice" * item.training)
        said = [message.content for panel in item.panels for message in panel.messages]
        html = views.head(view, t) + "".join(views.chat(item, panel, t) for panel in item.panels)
        assert words_of(html, item.goal, item.reached, *said) == []
        if item.mode == "live":
            turn = session.say(db, rater, item.position, "Hello")
            assert words_of(views.head(session.at(db, rater, item.position), t), item.goal, item.reached) == []
            session.heard(db, rater, turn, "Hi", finish="stop", underruns=0, late_s=0.0, failed=False)
            session.end_chat(db, rater, item.position)
        preference = None if len(item.panels) > 1 else session.NOT_SAID
        marks, version = [session.Marks(3, 3)] * len(item.panels), session.at(db, rater, item.position).item.version
        after = session.rate(db, rater, item.position, marks, preference=preference, version=version)
        if item.training:
            assert after.item.feedback
            assert words_of(views.head(after, t), item.goal, item.reached, after.item.feedback) == []
    assert seen == {"fixed for practice", "fixed", "live", "side-by-side"}
    for state in ("questions", "end", "paused", "closed"):
        assert words_of(views.head(View(state, 1, 1, None), t)) == []
    assert words_of(views.hint(t) + views.answering("A", "", t)) == []
