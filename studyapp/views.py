"""The HTML that a rater reads. Every text from a study, a model or a rater passes through `escape` on its way in."""

import html
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template

from studyapp.session import View

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"

SECONDS_PER_ITEM = 45
"""For the consent page's 'takes about'; a guess until raters have shown better."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SPEAKERS = {"user": "You", "system": "Instructions"}


def page(name: str, **values: object) -> str:
    """One of the plain pages (join, leave, closed), rendered."""
    return _template(name).render(**values)


def item(view: View) -> str:
    """What stands above the marks: progress, the goal and the chat; or the thanks when all is rated.

    It is one line of HTML, shown by gr.Markdown. gr.HTML cannot be used: its templates need 'unsafe-eval' in the
    content security policy. A line break would end the HTML and begin Markdown, so none may be left. Gradio's sanitiser
    lets few attributes through, so what the keyboard script needs to know (the position) is a class.
    """
    shown = view.item
    if shown is None:
        parts = [
            '<section class="viva at-end">',
            _progress(view.done, view.total),
            '<h1 tabindex="-1">Thank you, that was all</h1>',
            f"<p>All {view.total} ratings are saved. You may go back and change some, or close this page.</p>",
        ]
    else:
        assistant = f"Assistant {escape(shown.code)}"
        parts = [
            f'<section class="viva at-{shown.position}">',
            _progress(shown.position, view.total),
            f'<h1 tabindex="-1">{assistant}</h1>',
            '<dl class="goal">',
            f"<div><dt>Your goal</dt><dd>{escape(shown.goal)}</dd></div>",
            f"<div><dt>Reached when</dt><dd>{escape(shown.reached)}</dd></div>",
            "</dl>",
            '<ol class="chat">',
        ]
        for message in shown.messages:
            speaker = _SPEAKERS.get(message.role, assistant)
            text = escape(message.content.strip()) or "<em>(an empty answer)</em>"
            parts.append(f'<li class="{message.role}"><b>{speaker}</b><div>{text}</div></li>')
        parts.append("</ol>")
    return "".join([*parts, "</section>"])


def note(text: str) -> str:
    """A line beside the buttons: what is missing, or what went wrong."""
    return f'<p class="viva-note">{escape(text)}</p>' if text else ""


def escape(text: str) -> str:
    """Text as HTML that shows exactly its characters, on one line. Control characters are dropped.

    Models write Markdown and HTML. Both stay visible as typed: rendered, an image would call another host, and what
    a model likes to emphasise would be one more way to tell arms apart.
    """
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return html.escape(text).replace("\n", "&#10;")


def _progress(position: int, total: int) -> str:
    return (
        f'<p class="progress"><span>{position} of {total}</span>'
        f'<progress value="{position}" max="{total}"></progress></p>'
    )


@cache
def _template(name: str) -> Template:
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template(f"{name}.html")
