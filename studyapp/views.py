"""The HTML that a rater reads. Every text from a study, a model or a rater passes through `escape` on its way in.

Each piece is one line of HTML, shown by gr.Markdown. gr.HTML cannot be used: its templates need 'unsafe-eval' in the
content security policy. A line break would end the HTML and begin Markdown, so none may be left. Gradio's sanitiser
lets few attributes through, so what the style sheet and the keyboard script need to know is in classes.
"""

import html
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template

from studyapp.records import Item, Panel, View
from studyapp.texts import Texts, languages, texts

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"

SECONDS_PER_ITEM = 45
"""For the consent page's 'takes about'; a guess until raters have shown better."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MODES = {"live": "live", "fixed": "fixed", "side-by-side": "side"}


def page(name: str, t: Texts, root: str, **values: object) -> str:
    """One of the plain pages (join, leave, end, ...), rendered; `root` is the prefix of all its links."""
    others = [texts(code) for code in languages()]
    return _template(name).render(t=t, root=root, languages=others, **values)


def head(view: View, t: Texts, *, answering: bool = False) -> str:
    """What stands above the chats: progress, the goal, what to do; away from items, the way to where the rater belongs.

    `answering`: the answer that a live chat waits for is on its way.
    """
    item = view.item
    if item is None:
        return (
            f'<section class="viva elsewhere lang-{t.code}"><h1>{escape(t(f"{_page_of(view.state)}.title"))}</h1>'
            f'<p><a href="{elsewhere(view) or "./"}">{escape(t("page.go"))}</a></p></section>'
        )
    place = min(item.position, view.total)  # positions have gaps where pages went to other raters
    title = t("page.compare") if len(item.panels) > 1 else t("page.assistant", code=item.panels[0].code)
    parts = [
        f'<section class="{_classes(view, item, t)}">',
        f'<p class="progress"><span>{escape(t("page.progress", done=place, total=view.total))}</span>'
        f'<progress value="{place}" max="{view.total}"></progress></p>',
        f'<h1 tabindex="-1">{escape(title)}</h1>',
    ]
    if item.training:
        parts.append(f'<p class="guide"><b>{escape(t("page.training"))}</b> {escape(t("training.guide"))}</p>')
    parts += [
        '<dl class="goal">',
        f"<div><dt>{escape(t('page.goal'))}</dt><dd>{escape(item.goal)}</dd></div>",
        f"<div><dt>{escape(t('page.reached'))}</dt><dd>{escape(item.reached)}</dd></div>",
        "</dl>",
    ]
    if item.feedback:
        parts.append(
            f'<div class="feedback"><b>{escape(t("training.feedback"))}</b><p>{escape(item.feedback)}</p></div>'
        )
    if item.mode == "live":
        parts.append(f'<p class="guide">{escape(_guide(item, t, answering))}</p>')
    return "".join([*parts, "</section>"])


def chat(item: Item, panel: Panel, t: Texts) -> str:
    """One panel's chat; where there are several, under the name of its assistant."""
    assistant = t("page.assistant", code=panel.code)
    speakers = {"user": t("page.you"), "system": t("page.instructions")}
    parts = ['<section class="viva">']
    if len(item.panels) > 1:
        parts.append(f'<h2 tabindex="-1">{escape(assistant)}</h2>')
    parts.append('<ol class="chat">')
    for message in panel.messages:
        text = escape(message.content.strip()) or f"<em>{escape(t('page.empty'))}</em>"
        speaker = escape(speakers.get(message.role, assistant))
        parts.append(f'<li class="{message.role}"><b>{speaker}</b><div>{text}</div></li>')
    return "".join([*parts, "</ol></section>"])


def answering(code: str, text: str, t: Texts) -> str:
    """An answer on its way. It is left open at the end, so that more of it only adds to the HTML."""
    return (
        f'<section class="viva on-its-way"><ol class="chat"><li class="assistant"><b>'
        f"{escape(t('page.assistant', code=code))} <i>{escape(t('live.writing'))}</i></b><div>{escape(text)}"
    )


def note(text: str) -> str:
    """A line beside the buttons: what is missing, or what went wrong."""
    return f'<p class="viva-note">{escape(text)}</p>' if text else ""


def hint(t: Texts) -> str:
    """What stands below the buttons: the keys, and the ways out."""
    names = {"device": "device", "leave": "leave", "withdraw": "withdraw"}
    links = [f'<a href="{path}">{escape(t(f"page.{key}"))}</a>' for key, path in names.items()]
    if len(languages()) > 1:
        links.append(f'<a href="language">{escape(t("language.switch"))}</a>')
    return f'<section class="viva"><p>{escape(t("page.keys"))}</p><p class="links">{" ".join(links)}</p></section>'


def elsewhere(view: View) -> str | None:
    """The page that shows this state, None while there is an item."""
    return None if view.item else _page_of(view.state)


def pending(item: Item) -> bool:
    """Whether a live chat waits for an answer."""
    return item.mode == "live" and bool(item.panels[0].messages) and item.panels[0].messages[-1].role == "user"


def escape(text: str) -> str:
    """Text as HTML that shows exactly its characters, on one line. Control characters are dropped.

    Models write Markdown and HTML. Both stay visible as typed: rendered, an image would call another host, and what
    a model likes to emphasise would be one more way to tell arms apart.
    """
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return html.escape(text).replace("\n", "&#10;")


def _classes(view: View, item: Item, t: Texts) -> str:
    marks = {
        "first": not view.can_go_back,
        "training": item.training,
        "answered": item.feedback is not None,
        "writing": item.writing,
        "begun": item.mode == "live" and bool(item.panels[0].messages),
        "pending": pending(item),
        "rateable": item.rateable,
    }
    facts = ["viva", f"at-{item.position}", _MODES[item.mode], f"panels-{len(item.panels)}", f"lang-{t.code}"]
    return " ".join([*facts, *(name for name, holds in marks.items() if holds)])


def _guide(item: Item, t: Texts, answering: bool) -> str:
    if item.rateable:
        return t("live.ended")
    said = sum(message.role == "user" for message in item.panels[0].messages)
    if not said:
        return t("live.guide", count=item.turns)
    if pending(item) and not answering:
        return t("live.cut")
    return t("live.left", count=item.turns - said)


def _page_of(state: str) -> str:
    return state if state in ("questions", "end", "paused", "closed") else "paused"


@cache
def _template(name: str) -> Template:
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template(f"{name}.html")
