"""The rating page in Gradio: its parts (layout.py) tied to what happens when they are used (screens.py).

Gradio tells the browser far more than it shows: initial State values, hidden components, choice values, function names,
docstrings of handlers, their running times. So nothing here depends on an arm. The handlers get the rater from the
guard and the rest from the page; there is no gr.State, no function per arm, no handler has a docstring, and none sees
more of an arm than its code and its text.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastapi
import gradio as gr

from studyapp import views
from studyapp.calls import Function
from studyapp.layout import Layout, labels, lay_out
from studyapp.screens import NONE, ProblemError, Reader, Screens, Values
from studyapp.texts import Texts, texts

log = logging.getLogger("studyapp")

# Few threads: SQLite lets one write at a time, and the more stand in line for it, the more they cost one another.
_desks = ThreadPoolExecutor(max_workers=4, thread_name_prefix="desk")

MAX_STREAMS = 500
"""Answers that Gradio shows at once; its own default of 40 would make the 41st rater wait for another's answer."""


class QuietBlocks(gr.Blocks):
    """Blocks that keep to themselves how long a handler took, and how many others wait."""

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        result = await super().process_api(*args, **kwargs)
        return {**result, "duration": 0.0, "average_duration": 0.0}


def theme() -> gr.themes.Base:
    """Colours, and the fonts of the rater's own system: none is fetched."""
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    base = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=("ui-monospace", "monospace"))
    return base.set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700")


def build(screens: Screens, t: Texts) -> gr.Blocks:
    """The page of the study behind `screens`, labelled in the study's language."""
    demo = QuietBlocks(title=t("join.title"), analytics_enabled=False)
    with demo:
        layout = lay_out(t, panels=screens.panels, live=screens.chats is not None)
        _tie(demo, layout, screens, t)
    demo._queue.max_thread_count = MAX_STREAMS
    _hush(demo._queue)
    return demo


def mounted(demo: gr.Blocks, root_path: str) -> fastapi.FastAPI:
    """An app with nothing but the page in it, which tells browsers as little as Gradio can be made to."""
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def name(request: fastapi.Request) -> str | None:  # were it not async, it would cost a thread
        rater = request.scope["state"].get("rater")
        return rater.label if rater else None

    gr.mount_gradio_app(
        app,
        demo,
        path="/",
        auth_dependency=name,
        root_path=root_path or None,
        theme=theme(),
        css_paths=[views.STATIC / "viva.css"],
        head='<script src="viva.js"></script>',  # from us, not inline: the policy would stop that
        footer_links=[],
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        allowed_paths=[],
        max_file_size=1,
    )
    return app


def functions(demo: gr.Blocks) -> dict[int, Function]:
    """What the guard lets through to each of the page's functions."""
    return {index: Function(len(one.inputs), bool(one.queue)) for index, one in demo.fns.items()}


def _tie(demo: gr.Blocks, layout: Layout, screens: Screens, t: Texts) -> None:
    """Tie the buttons to the screens. The first functions are show, speak, save, back, onward and report."""
    part = layout.parts
    # queue=False: Gradio's queue is several times slower and tells raters about one another's running times. Nor are
    # values processed by the components: so these calls need not pass through Gradio at all (see direct.py), which
    # asks the functions with the request first, then the inputs.
    quiet: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    quiet |= {"preprocess": False, "postprocess": False}
    whole: Any = {"outputs": layout.of(layout.filled), **quiet}

    async def show(request: gr.Request) -> list[Any]:
        return await _answer(layout.filled, request, lambda reader: screens.show(reader, _asked_for(request)))

    async def speak(request: gr.Request) -> list[Any]:
        spoken = _reader(request).t
        said = labels(spoken, panels=layout.panels, live=layout.live)
        return [gr.update(**said[name]) if spoken.code != t.code else gr.skip() for name in worded]

    async def save(request: gr.Request, place: Any, *given: Any) -> list[Any]:
        marks = [given[start : start + 3] for start in range(0, 3 * layout.panels, 3)]
        preferred = given[-1] if layout.panels > 1 else None
        return await _answer(layout.filled, request, lambda reader: screens.save(reader, place, marks, preferred))

    async def back(request: gr.Request, place: Any) -> list[Any]:
        return await _answer(layout.filled, request, lambda reader: screens.back(reader, place))

    async def onward(request: gr.Request, place: Any) -> list[Any]:
        return await _answer(layout.filled, request, lambda reader: screens.onward(reader, place))

    async def report(request: gr.Request, text: Any, place: Any) -> list[Any]:
        return await _answer(
            ["problem", "thanks"], request, lambda reader: screens.report(reader, place, text), "thanks"
        )

    worded = list(labels(t, panels=layout.panels, live=layout.live))
    opened = demo.load(show, None, **whole)
    demo.load(speak, None, layout.of(worded), **quiet)
    part["save"].click(save, layout.of(layout.marked), **whole)
    part["back"].click(back, part["place"], **whole)
    part["next"].click(onward, part["place"], **whole)
    part["report"].click(report, [part["problem"], part["place"]], [part["problem"], part["thanks"]], **quiet)
    if layout.live:
        _tie_live(layout, screens, opened, quiet)


def _tie_live(layout: Layout, screens: Screens, opened: Any, quiet: Any) -> None:
    """Tie what a live chat has: send, again and finish, the stream, and what follows it."""
    part = layout.parts
    said = ["item", "note", "chat-1", "live", "place", "say"]
    settled_parts = [name for name in said if name != "say"]

    async def send(request: gr.Request, text: Any, place: Any) -> list[Any]:
        return await _answer_live(said, request, lambda reader: screens.send(reader, place, text))

    async def again(request: gr.Request, place: Any) -> list[Any]:
        return await _answer_live(said, request, lambda reader: screens.again(reader, place))

    async def watch(request: gr.Request, place: Any) -> AsyncIterator[str]:
        try:
            async for shown in screens.watch(_reader(request), place):
                yield shown
        except ProblemError:
            return

    async def settle(request: gr.Request, place: Any) -> list[Any]:
        return await _answer(settled_parts, request, lambda reader: screens.settled(reader, place))

    async def finish(request: gr.Request, place: Any) -> list[Any]:
        return await _answer(layout.filled, request, lambda reader: screens.finish(reader, place))

    stream: Any = {**quiet, "queue": True, "concurrency_limit": None}
    sent = part["send"].click(send, [part["say"], part["place"]], layout.of(said), **quiet)
    asked = part["again"].click(again, part["place"], layout.of(said), **quiet)
    part["finish"].click(finish, part["place"], layout.of(layout.filled), **quiet)
    for begun in (opened, sent, asked):
        streamed = begun.then(watch, part["place"], part["live"], **stream)
        streamed.then(settle, part["place"], layout.of(settled_parts), **quiet)


async def _answer(
    names: list[str], request: gr.Request, act: Callable[[Reader], Values], note: str = "note"
) -> list[Any]:
    """What an action gives for the parts in `names`; if it does not come off, only the note changes."""

    async def acting(reader: Reader) -> Values:
        return await asyncio.get_running_loop().run_in_executor(_desks, act, reader)

    return await _answer_live(names, request, acting, note)


async def _answer_live(
    names: list[str], request: gr.Request, act: Callable[[Reader], Awaitable[Values]], note: str = "note"
) -> list[Any]:
    reader = _reader(request)
    try:
        return _fill(names, await act(reader), reader.t)
    except ProblemError as problem:
        said = str(problem)
    except Exception:
        log.exception("a rater's request failed")
        said = reader.t("note.failed")
    return _fill(names, {note: views.note(said)}, reader.t)


def _fill(names: list[str], values: Values, t: Texts) -> list[Any]:
    filled = [values.get(name, gr.skip()) for name in names]
    if "preference" in names and values.get("codes"):
        choices = [(t("page.assistant", code=code), code) for code in values["codes"]]
        update = gr.update(choices=[*choices, (t("marks.none"), NONE)], value=values["preference"])
        filled[names.index("preference")] = update
    return filled


def _reader(request: gr.Request) -> Reader:
    """Whom the guard found behind the cookie."""
    assert request.request is not None
    state = request.request.scope["state"]
    return Reader(state["rater"], texts(state["language"]))


def _asked_for(request: gr.Request) -> int | None:
    """The item that the page was opened at, of which the guard has checked the form."""
    at = request.query_params.get("at", "")
    return int(at) if at.isdecimal() else None


def _hush(queue: Any) -> None:
    """Make the queue's messages say nothing of how long others took and how many there are."""
    tell = queue.send_message

    def send_message(event: Any, message: Any) -> None:
        for name in ("rank", "rank_eta", "eta", "cache_duration", "avg_time"):
            if hasattr(message, name):
                setattr(message, name, None)
        if hasattr(message, "queue_size"):
            message.queue_size = 0
        tell(event, message)

    queue.send_message = send_message
