"""Release times and sizes are a function of text, rate, tick and delay: shown on a clock that only sleeps move."""

import asyncio
import itertools
import selectors
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from studyapp.broker import BrokerError
from studyapp.graphemes import boundary
from studyapp.pacing import FAILURE, Pace, Pacer, Shown, last_piece, paced

PACE = Pace(cps=75, tick=0.2, delay=1.2)
SENTENCE = "The answer is forty-two, and here is why: "


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once: where another one would wait, this one moves its clock on."""

    def __init__(self) -> None:
        self.passed = 0.0
        chosen = selectors.DefaultSelector()
        super().__init__(chosen)
        ready = chosen.select

        def select(timeout: float | None = None) -> Any:
            found = ready(0)
            if not found and timeout:
                self.passed += timeout
            return found

        chosen.select = select  # type: ignore[method-assign]

    def time(self) -> float:
        return self.passed


def on_virtual_time(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


async def writer(
    text: str, *, first: float, cps: float, size: int = 4, finish: str = "stop", fail_after: int | None = None
) -> AsyncIterator[str]:
    """A model that begins after `first` seconds and writes pieces of `size` characters at `cps`."""
    await asyncio.sleep(first)
    for start in range(0, len(text), size):
        if fail_after is not None and start >= fail_after:
            raise RuntimeError("arm 'teacher' broke")
        await asyncio.sleep(size / cps)
        yield text[start : start + size]
    if fail_after is not None:
        raise RuntimeError("arm 'teacher' broke")
    yield last_piece(finish)


def events(source: AsyncIterator[str], pace: Pace = PACE) -> list[tuple[float, str, Any]]:
    """(seconds since the question, all text shown, how it ended) for all that a rater gets."""

    async def watch() -> list[tuple[float, str, Any]]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        return [(round(loop.time() - start, 6), str(shown), shown.ended) async for shown in paced(source, pace)]

    return on_virtual_time(watch())


def test_two_models_of_different_speed_look_the_same() -> None:
    text = SENTENCE * 12
    fast = events(writer(text, first=0.05, cps=2000, size=11))
    slow = events(writer(text, first=0.95, cps=95, size=3))
    at_once = events(writer(text, first=0.0, cps=1e9, size=len(text)))
    assert fast == slow == at_once
    times = [time for time, _, _ in fast]
    assert times == pytest.approx([1.2 + 0.2 * number for number in range(len(times))])
    sizes = [len(later) - len(earlier) for (_, earlier, _), (_, later, _) in itertools.pairwise(fast)]
    assert sizes == [15] * (len(text) // 15 - 1) + [len(text) % 15, 0]
    _, shown, ended = fast[-1]
    assert shown == text
    assert (ended.finish, ended.underruns, ended.late_s, ended.failed) == ("stop", 0, 0, False)


@given(
    text=st.text(st.sampled_from("ab \n.e\u0301\u200d👍🏽🇩🇪한각\r"), max_size=120),
    cps=st.floats(3, 120),
    first=st.floats(0, 1.0),
    speed=st.floats(1.25, 50),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_what_a_rater_gets_depends_on_the_text_alone(
    text: str, cps: float, first: float, speed: float, sizes: tuple[int, int]
) -> None:
    """Any source that keeps the rules of calibration (cps at most 0.8 g, delay at least F and a tick)."""
    pace = Pace(cps=cps, tick=0.2, delay=1.0 + 0.2 + 10 / cps)  # a piece comes whole: up to 9 characters later
    slow = events(writer(text, first=first, cps=speed * cps, size=sizes[0]), pace)
    fast = events(writer(text, first=0.0, cps=1e9, size=sizes[1]), pace)
    assert slow == fast
    assert slow[-1][1] == text
    assert slow[-1][2].underruns == 0
    assert all(later.startswith(earlier) for (_, earlier, _), (_, later, _) in itertools.pairwise(slow))


def test_no_more_than_the_rate_is_shown_and_nothing_before_the_delay() -> None:
    for time, shown, _ in events(writer(SENTENCE * 5, first=0.1, cps=400), Pace(cps=33.3, tick=0.15, delay=0.7)):
        assert time >= 0.7 - 1e-6
        assert len(shown) <= 33.3 * (time - 0.7 + 0.15) + 1e-3


def test_a_slow_model_misses_ticks_which_are_counted_and_keeps_to_the_grid() -> None:
    text = SENTENCE * 4
    found = events(writer(text, first=0.2, cps=30, size=5))
    ended = found[-1][2]
    assert found[-1][1] == text
    assert ended.underruns >= 1
    assert not ended.failed
    last = found[-1][0]
    on_time = events(writer(text, first=0.2, cps=3000))[-1][0]
    assert ended.late_s == pytest.approx(last - on_time)
    for time, _, _ in found:
        steps = (time - PACE.delay) / PACE.tick
        assert steps == pytest.approx(round(steps), abs=1e-4)
    # what is shown grows by whole chunks also where it is late
    assert {len(later) - len(earlier) for (_, earlier, _), (_, later, _) in itertools.pairwise(found)} <= {
        15,
        len(text) % 15,
        0,
    }


def test_one_long_silence_is_one_underrun() -> None:
    async def hesitating() -> AsyncIterator[str]:
        yield "x" * 40
        await asyncio.sleep(5)
        yield "y" * 20
        yield last_piece("length")

    _, shown, ended = events(hesitating())[-1]
    assert shown == "x" * 40 + "y" * 20
    assert ended.underruns == 1
    assert ended.late_s == pytest.approx(3.4)
    assert ended.finish == "length"


def test_a_late_first_word_is_counted() -> None:
    found = events(writer("Yes, of course it is.", first=2.5, cps=500))
    assert found[0][0] == pytest.approx(2.6)
    assert found[-1][2].underruns == 1
    assert found[-1][2].late_s == pytest.approx(1.4)


def test_failures_show_one_sentence_at_one_time() -> None:
    quick = events(writer("anything", first=0.01, cps=500, fail_after=0))
    late = events(writer("anything", first=1.1, cps=500, fail_after=0))
    assert quick == late
    ((time, shown, ended),) = quick
    assert (time, shown) == (pytest.approx(1.2), FAILURE)
    assert ended.failed
    assert ended.finish == "failed"


def test_a_failure_in_the_middle_ends_what_was_written_like_any_text() -> None:
    text = SENTENCE * 2
    found = events(writer(text, first=0.1, cps=400, size=4, fail_after=40))
    whole = events(writer(text[:40], first=0.1, cps=400, size=4))
    assert found[:-1] == whole[:-1]
    assert found[-1][0] == whole[-1][0]
    assert found[-1][1] == FAILURE
    assert "teacher" not in repr(found)


def test_an_empty_answer_ends_after_the_delay() -> None:
    ((time, shown, ended),) = events(writer("", first=0.1, cps=10))
    assert (time, shown, ended.failed) == (pytest.approx(1.2), "", False)


def test_the_clock_starts_when_the_chat_is_admitted() -> None:
    class Queued:
        def __init__(self, wait: float) -> None:
            self.wait, self.inner, self.closed = wait, writer(SENTENCE, first=0.1, cps=500), False

        async def admitted(self) -> None:
            await asyncio.sleep(self.wait)

        def __aiter__(self) -> AsyncIterator[str]:
            return self.inner

        async def aclose(self) -> None:
            self.closed = True

    source = Queued(7.0)
    at_once, later = events(Queued(0.0)), events(source)  # type: ignore[arg-type]
    assert later == [(pytest.approx(time + 7.0), shown, ended) for time, shown, ended in at_once]
    assert source.closed


def test_a_model_server_that_is_away_is_the_callers_matter() -> None:
    class Away:
        async def admitted(self) -> None:
            raise BrokerError

        def __aiter__(self) -> AsyncIterator[str]:
            raise AssertionError("read all the same")

    with pytest.raises(BrokerError):
        events(Away())  # type: ignore[arg-type]


def test_who_leaves_early_stops_the_source() -> None:
    async def leave() -> tuple[int, list[str]]:
        said: list[str] = []

        async def endless() -> AsyncIterator[str]:
            try:
                while True:
                    await asyncio.sleep(0.1)
                    yield "word "
            finally:
                said.append("closed")

        shown = paced(endless(), PACE)
        seen = [text async for text in _some(shown, 3)]
        await shown.aclose()  # type: ignore[attr-defined]
        return len(seen), said

    assert on_virtual_time(leave()) == (3, ["closed"])


async def _some(shown: AsyncIterator[Shown], count: int) -> AsyncIterator[Shown]:
    for _ in range(count):
        yield await anext(shown)


def test_a_page_that_takes_its_time_gets_no_two_chunks_at_once() -> None:
    async def watch() -> list[float]:
        loop = asyncio.get_running_loop()
        times = []
        async for _ in paced(writer(SENTENCE * 3, first=0.0, cps=5000), PACE):
            times.append(loop.time())
            await asyncio.sleep(0.5 if len(times) == 2 else 0)
        return times

    times = on_virtual_time(watch())
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.19


@pytest.mark.parametrize(
    "text",
    [
        "e\u0301a\u0308o",  # combining marks
        "👩‍👩‍👧‍👦 family",  # joined
        "👍🏽👍",  # skin tone
        "🇩🇪🇫🇷🇬🇧",  # flags
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f!",  # Scotland
        "a\r\nb\rc\n",
        "각힣가",  # Hangul in parts
        "क्षि नमस्ते",
        "❤️‍🔥 x",
    ],
)
def test_characters_are_cut_where_unicode_cuts_them(text: str) -> None:
    expected = [0]
    for cluster in regex.findall(r"\X", text):
        expected.append(expected[-1] + len(cluster))
    place, found = 0, [0]
    for end in range(1, len(text) + 1):
        place = boundary(text, place, end)
        if place != found[-1]:
            found.append(place)
    # a stricter rule of Unicode 15 joins Indic conjuncts too; to cut there is no harm to blindness
    assert set(expected) <= set(found)
    if "क" not in text:
        assert found == expected


def test_a_flag_is_not_shown_by_halves() -> None:
    pacer = Pacer(Pace(cps=5, tick=0.2, delay=1))  # one code point a tick
    pacer.feed("🇩🇪x")
    pacer.close("stop")
    shown: Sequence[Shown | None] = [pacer.tick() for _ in range(4)]
    assert [None if one is None else str(one) for one in shown] == [None, "🇩🇪", "🇩🇪x", "🇩🇪x"]
    assert shown[-1] is not None
    assert shown[-1].ended
