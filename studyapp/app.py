"""The rating page in Gradio: layout and thin handlers over session.py.

Gradio tells the browser far more than it shows: initial State values, hidden components, choice values, function names,
docstrings of handlers, their running times. So nothing here depends on an arm. The handlers get a rater from the
cookie (`request.username`, set by the guard) and a position; there is no gr.State, no function per arm, no handler has
a docstring, and none sees more of an arm than its code and its text.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from harness.errors import RatingError, VivaError
from studyapp import session, store, views
from studyapp.schema import MAX_COMMENT

log = logging.getLogger("studyapp")

MARKS = [(str(mark), mark) for mark in range(1, 6)]
FAILED = "Something went wrong here. What you saved before is kept; please reload the page."


class QuietBlocks(gr.Blocks):
    """Blocks that keep to themselves how long a handler took."""

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        result = await super().process_api(*args, **kwargs)
        return {**result, "duration": 0.0, "average_duration": 0.0}


def theme() -> gr.themes.Base:
    """Colours, and the fonts of the rater's own system: none is fetched."""
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    base = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=("ui-monospace", "monospace"))
    return base.set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700")


def build(db: Path, *, title: str) -> gr.Blocks:
    """The page of the study in `db`."""
    demo = QuietBlocks(title=title, analytics_enabled=False)
    with demo:
        item = gr.Markdown(elem_id="item", sanitize_html=True, latex_delimiters=[], show_label=False)
        with gr.Column(visible=False, elem_id="form") as form:
            ends = "1 = not at all, 5 = fully"
            satisfaction = gr.Radio(MARKS, label="How satisfied would you be?", info=ends, elem_id="satisfaction")
            goal = gr.Radio(MARKS, label="How far was the goal reached?", info=ends, elem_id="goal_achievement")
            comment = gr.Textbox(label="Comment (optional)", lines=2, max_lines=6, max_length=MAX_COMMENT)
        note = gr.Markdown(elem_id="note", sanitize_html=True, latex_delimiters=[], show_label=False)
        with gr.Row(elem_id="buttons"):
            back = gr.Button("Back", interactive=False, elem_id="back")
            save = gr.Button("Save and next", variant="primary", interactive=False, elem_id="save")
        gr.Markdown(
            "Each rating is saved at once. You can close the page at any time: open it again in this browser and go on "
            "where you were. Keys: **1** to **5** for each question, **Enter** to save. "
            "Someone else's turn? [Start as a new rater](leave)",
            elem_id="hint",
        )
        # visible=False keeps their values in the page; they say what the rater is looking at, which the server checks
        position = gr.Number(visible=False, precision=0)
        revision = gr.Number(visible=False, precision=0)
        outputs = [item, form, satisfaction, goal, comment, note, back, save, position, revision]

        def screen(view: session.View, problem: str = "") -> list[Any]:
            shown = view.item
            if shown is None:
                marks: list[Any] = [None, None, ""]
                place = [view.total + 1, 0]
            else:
                marks = [shown.satisfaction, shown.goal_achievement, shown.comment]
                place = [shown.position, shown.revision]
            return [
                views.item(view),
                gr.update(visible=shown is not None),
                *marks,
                views.note(problem),
                gr.update(interactive=view.can_go_back),
                gr.update(interactive=shown is not None, visible=shown is not None),
                *place,
            ]

        def answered(act: Callable[[store.Rater], session.View], request: gr.Request) -> list[Any]:
            try:
                rater = store.rater_by_label(db, str(request.username))
                if rater is None:
                    raise RatingError("please open the page again from its address")
                return screen(act(rater))
            except VivaError as error:
                problem = error.what + (f": {error.hint}" if error.hint else "")
                problem = problem[0].upper() + problem[1:] + "."
            except Exception:
                log.exception("a rater's request failed")
                problem = FAILED
            # everything stays as the rater has it; only the note changes
            return [gr.skip() if output is not note else views.note(problem) for output in outputs]

        def show(request: gr.Request) -> list[Any]:
            return answered(lambda rater: session.current(db, rater), request)

        def rate(s: Any, g: Any, text: str, at: int, seen: int, request: gr.Request) -> list[Any]:
            return answered(lambda rater: session.rate(db, rater, at, s, g, text or "", seen), request)

        def step_back(at: int, request: gr.Request) -> list[Any]:
            return answered(lambda rater: session.back(db, rater, at), request)

        # queue=False: Gradio's queue is several times slower and tells raters about one another's running times
        quiet: Any = {"outputs": outputs, "queue": False, "show_progress": "hidden", "api_visibility": "private"}
        demo.load(show, None, **quiet)
        save.click(rate, [satisfaction, goal, comment, position, revision], **quiet)
        back.click(step_back, [position], **quiet)
    return demo
