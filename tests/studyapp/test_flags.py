"""Flags of raters: what must be flagged, what must not, and what may make no difference."""

from hypothesis import assume, given
from hypothesis import strategies as st

from studyapp.flags import (
    FAST_SHARE,
    FASTEST,
    LEAST_SECONDS,
    LONG_RUN,
    MEAN_DIFFERENCE,
    MIN_FAST,
    MIN_RATINGS,
    MIN_REPEATS,
    SAME_SHARE,
    Page,
    flags,
)

MARKS = st.tuples(st.integers(1, 5), st.integers(1, 5))
PAGES = st.lists(
    st.builds(Page, st.lists(MARKS, min_size=1, max_size=4).map(tuple), st.floats(0, 500), st.integers(0, 20_000)),
    max_size=60,
)


def names(*given_, **named):
    return {flag.name for flag in flags(*given_, **named)}


def slow(*marks):
    return [Page((pair,), 60.0, 500) for pair in marks]


def test_someone_who_reads_and_differs_has_no_flag():
    marks = [(at % 5 + 1, (at * 3) % 5 + 1) for at in range(36)]
    assert flags(slow(*marks), [True, True, True], [((4, 3), (4, 4)), ((2, 2), (3, 2))]) == ()


def test_someone_who_has_done_nothing_has_no_flag():
    assert flags([]) == ()


@given(MARKS, st.integers(MIN_RATINGS, 80))
def test_always_the_same_marks_are_straight_lining(pair, count):
    (flag,) = flags(slow(*[pair] * count))
    assert flag.name == "straight-lining"
    assert f"{count} of {count}" in flag.text


@given(MARKS, st.integers(0, MIN_RATINGS - 1))
def test_a_few_equal_marks_say_nothing_yet(pair, count):
    assert flags(slow(*[pair] * count)) == ()


def test_a_long_run_in_an_otherwise_careful_session_is_seen():
    careful = [(at % 5 + 1, at % 4 + 1) for at in range(20)]
    assert names(slow(*careful, *[(3, 3)] * LONG_RUN)) == {"straight-lining"}
    assert names(slow(*careful, *[(3, 3)] * (LONG_RUN - 1))) == set()


@given(PAGES)
def test_straight_lining_follows_its_definition(pages):
    marks = [pair for page in pages for pair in page.marks]
    most = max((marks.count(pair) for pair in marks), default=0)
    longest = max(
        (
            n
            for n in range(len(marks) + 1)
            if any(marks[i : i + n] == marks[i : i + 1] * n for i in range(len(marks) - n + 1))
        ),
        default=0,
    )
    expected = len(marks) >= MIN_RATINGS and (most >= SAME_SHARE * len(marks) or longest >= LONG_RUN)
    assert ("straight-lining" in names(pages)) == expected


@given(PAGES)
def test_too_fast_follows_its_definition(pages):
    fast = [page for page in pages if page.seconds < LEAST_SECONDS or page.seconds * FASTEST < page.characters]
    assume(all(page.seconds * FASTEST != page.characters for page in pages))
    expected = len(fast) >= MIN_FAST and len(fast) / len(pages) >= FAST_SHARE
    assert ("too fast" in names(pages)) == expected


@given(PAGES, st.floats(1, 100))
def test_more_time_never_makes_a_rater_too_fast(pages, more):
    slower = [Page(page.marks, page.seconds + more, page.characters) for page in pages]
    assert "too fast" in names(pages) or "too fast" not in names(slower)


@given(PAGES, st.randoms())
def test_the_order_of_pages_does_not_matter_for_speed(pages, random):
    mixed = random.sample(pages, len(pages))
    assert ("too fast" in names(pages)) == ("too fast" in names(mixed))


@given(PAGES, st.lists(st.booleans(), max_size=12), st.lists(st.tuples(MARKS, MARKS), max_size=8))
def test_marks_mirrored_give_the_same_flags(pages, checks, repeats):
    """Careful or not does not depend on whether marks are high or low, so flags do not tell good arms from bad."""

    def mirror(marks):
        return tuple((6 - one, 6 - two) for one, two in marks)

    turned = [Page(mirror(page.marks), page.seconds, page.characters) for page in pages]
    again = [mirror(pair) for pair in repeats]
    assert names(pages, checks, repeats) == names(turned, checks, again)


@given(st.lists(st.booleans(), max_size=12))
def test_checks_are_counted(checks):
    found = flags([], checks)
    missed = checks.count(False)
    assert [flag.text.split(" known")[0] for flag in found] == ([f"{missed} of {len(checks)}"] if missed else [])


@given(st.lists(st.tuples(MARKS, MARKS), max_size=8))
def test_repeats_are_compared_by_their_mean_difference(repeats):
    gaps = [abs(a - c) + abs(b - d) for (a, b), (c, d) in repeats]
    expected = len(repeats) >= MIN_REPEATS and sum(gaps) / (2 * len(gaps)) > MEAN_DIFFERENCE
    assert ("repeats differ" in names([], [], repeats)) == expected
    swapped = [(second, first) for first, second in repeats]
    assert flags([], [], repeats) == flags([], [], swapped)
