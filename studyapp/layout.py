"""The parts of the rating page, as Gradio components. None depends on an arm or on a rater.

What is shown when is decided by viva.css, from the classes that views.head gives the item: nothing is made visible or
invisible through Gradio, which would cost a round of updates for each part.
"""

from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from studyapp.schema import MAX_COMMENT, MAX_MESSAGE
from studyapp.screens import NONE
from studyapp.texts import Texts

MARKS = [(str(mark), mark) for mark in range(1, 6)]
LETTERS = [chr(letter) for letter in range(ord("A"), ord("Z") + 1)]


@dataclass(frozen=True)
class Layout:
    """The components by name, and in which order they are filled. `panels` counts the chats there is room for."""

    parts: dict[str, Any]
    panels: int
    live: bool

    @property
    def filled(self) -> list[str]:
        """What a whole page is made of."""
        names = ["item", "note", "place"]
        for n in range(1, self.panels + 1):
            names += [f"chat-{n}", f"satisfaction-{n}", f"goal_achievement-{n}", f"comment-{n}"]
        return [*names, *(["preference"] if self.panels > 1 else []), *(["say", "live"] if self.live else [])]

    @property
    def marked(self) -> list[str]:
        """What a submit takes: the place, then three values for each panel, then the preference."""
        names = ["place"]
        for n in range(1, self.panels + 1):
            names += [f"satisfaction-{n}", f"goal_achievement-{n}", f"comment-{n}"]
        return [*names, *(["preference"] if self.panels > 1 else [])]

    def of(self, names: list[str]) -> list[Any]:
        return [self.parts[name] for name in names]


def lay_out(t: Texts, *, panels: int, live: bool) -> Layout:
    """Make the components, inside an open gr.Blocks, with room for `panels` chats and, if `live`, for writing one."""
    said = labels(t, panels=panels, live=live)
    parts: dict[str, Any] = {"item": _markdown("item")}
    with gr.Row(elem_id="panels"):
        for n in range(1, panels + 1):
            with gr.Column(elem_id=f"panel-{n}", elem_classes="place", min_width=0):
                parts[f"chat-{n}"] = _markdown(f"chat-{n}")
                if live and n == 1:
                    parts.update(_writing(said))
                with gr.Column(elem_id=f"marks-{n}", elem_classes="marks"):
                    for scale in ("satisfaction", "goal_achievement"):
                        name = f"{scale}-{n}"
                        parts[name] = gr.Radio(MARKS, elem_id=name, elem_classes="scale", **said[name])
                    name = f"comment-{n}"
                    parts[name] = gr.Textbox(
                        lines=2, max_lines=6, max_length=MAX_COMMENT, elem_id=name, elem_classes="comment", **said[name]
                    )
    if panels > 1:
        # in a session that Gradio does not know (after a restart) any answer has to be possible
        choices = [*((code, code) for code in LETTERS), (NONE, NONE)]
        parts["preference"] = gr.Radio(choices, elem_id="preference", elem_classes="scale", **said["preference"])
    parts["note"] = _markdown("note")
    with gr.Row(elem_id="buttons"):
        for name in ("back", "save", "next"):
            variant: Literal["secondary", "primary"] = "secondary" if name == "back" else "primary"
            parts[name] = gr.Button(variant=variant, elem_id=name, **said[name])
    parts["hint"] = _markdown("hint", **said["hint"])
    with gr.Accordion(open=False, elem_id="problems", **said["problems"]) as parts["problems"]:
        parts["problem"] = gr.Textbox(lines=2, max_length=MAX_COMMENT, elem_id="problem", **said["problem"])
        parts["report"] = gr.Button(elem_id="report", size="md", **said["report"])
        parts["thanks"] = _markdown("thanks")
    # not shown, but in the page: what the rater is looking at, which the server checks
    parts["place"] = gr.Textbox(visible=False)
    return Layout(parts, panels, live)


def labels(t: Texts, *, panels: int, live: bool) -> dict[str, dict[str, Any]]:
    """The words on the parts, by name, in one language."""
    from studyapp import views

    said: dict[str, dict[str, Any]] = {
        "back": {"value": t("page.back")},
        "save": {"value": t("page.save")},
        "next": {"value": t("training.next")},
        "hint": {"value": views.hint(t)},
        "problems": {"label": t("problem.title")},
        "problem": {"label": t("problem.label")},
        "report": {"value": t("problem.send")},
    }
    for n in range(1, panels + 1):
        said[f"satisfaction-{n}"] = {"label": t("marks.satisfaction"), "info": t("marks.ends")}
        said[f"goal_achievement-{n}"] = {"label": t("marks.goal"), "info": t("marks.ends")}
        said[f"comment-{n}"] = {"label": t("marks.comment")}
    if panels > 1:
        said["preference"] = {"label": t("marks.preference")}
    if live:
        said["say"] = {"label": t("live.say"), "info": t("live.hint")}
        said["send"] = {"value": t("live.send")}
        said["again"] = {"value": t("live.again")}
        said["finish"] = {"value": t("live.finish")}
    return said


def _writing(said: dict[str, dict[str, Any]]) -> dict[str, Any]:
    parts: dict[str, Any] = {"live": _markdown("live")}
    with gr.Column(elem_id="writing"):
        parts["say"] = gr.Textbox(lines=3, max_lines=8, max_length=MAX_MESSAGE, elem_id="say", **said["say"])
        with gr.Row(elem_id="turns"):
            parts["send"] = gr.Button(variant="primary", elem_id="send", **said["send"])
            parts["again"] = gr.Button(variant="primary", elem_id="again", **said["again"])
            parts["finish"] = gr.Button(elem_id="finish", **said["finish"])
    return parts


def _markdown(name: str, value: str = "") -> gr.Markdown:
    return gr.Markdown(value, elem_id=name, sanitize_html=True, latex_delimiters=[], show_label=False)
