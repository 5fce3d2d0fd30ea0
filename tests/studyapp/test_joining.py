"""Who takes part: invitations, limits, other devices, platforms, leases that run out, withdrawal."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from raters import change, newcomer, rate_all, rate_page, rows, talk
from small_study import known, make, scenarios

from studyapp import session, store_owner_acts
from studyapp.records import NOT_SAID, Marks, RefusedError

LONG_AGO = "2020-01-01T00:00:00.000+00:00"


@pytest.fixture
def tight(tmp_path):
    """Four scenarios by three arms, two ratings each: room for three raters, the third one with two scenarios."""
    path = tmp_path / "tight.db"
    make(path, ratings_per_cell=2, completion_code="DONE")
    return path


def refused(act, *values, **how):
    with pytest.raises(RefusedError) as error:
        act(*values, **how)
    return error.value.reason


def expire(path, rater):
    change(path, f"UPDATE assignment SET leased_until = '{LONG_AGO}' WHERE rater = {rater.id}")


def cells(path, where="done_at NOT NULL"):
    """How many of each cell's items are in that state."""
    return dict(
        rows(
            path,
            "SELECT scenario.id || arm.key, (SELECT count(*) FROM assignment WHERE scenario = scenario.id"
            f" AND arm_key = arm.key AND kind = 'rated' AND released_at IS NULL AND {where})"
            " FROM scenario CROSS JOIN arm",
        )
    )


def test_an_invitation_is_good_for_one_rater(tmp_path):
    path = tmp_path / "study.db"
    make(path, open_join=False)
    first, second = store_owner_acts.invite(path, 2, "cli", "for Ann")
    assert refused(session.join, path) == "invite"
    assert refused(session.join, path, invite="made up") == "invite"
    rater = newcomer(path, invite=first)
    session.current(path, rater)
    assert refused(session.join, path, invite=first) == "invite"
    assert newcomer(path, invite=second).label == "R02"
    assert rows(path, "SELECT rater, used_at IS NOT NULL FROM invite ORDER BY id") == [(1, 1), (2, 1)]
    assert rater.label == "R01"


def test_an_invitation_claimed_twice_at_once_lets_one_in(tmp_path):
    path = tmp_path / "study.db"
    make(path, open_join=False)
    (token,) = store_owner_acts.invite(path, 1, "cli")

    with ThreadPoolExecutor(8) as pool:
        cookies = list(pool.map(lambda _: session.join(path, invite=token), range(8)))
    assert rows(path, "SELECT count(*) FROM rater") == [(1,)]
    (rater,) = [found for cookie in cookies if (found := session.who(path, cookie))]  # the one that came last
    session.current(path, rater)
    assert refused(session.join, path, invite=token) == "invite"


@pytest.mark.parametrize("by", ["invite", "crowd"])
def test_who_never_got_their_cookie_joins_anew_and_leaves_nothing_behind(tmp_path, by):
    """A connection lost behind the button, or a double click: nobody has that cookie, nobody has seen a page."""
    path = tmp_path / "study.db"
    make(path, open_join=by == "crowd", ratings_per_cell=1)
    how = {"crowd": {"platform": "prolific", "person": "5f1", "study": "s9", "session": "x1"}}
    if by == "invite":
        how = {"invite": store_owner_acts.invite(path, 1, "cli")[0]}
    lost = session.join(path, **how)
    rater = newcomer(path, **how)
    assert session.who(path, lost) is None
    assert rows(path, "SELECT label FROM rater") == [("R01",)]
    assert rows(path, "SELECT count(*) FROM token") == [(1,)]
    assert rate_all(path, rater, most=1).done == 1
    assert refused(session.join, path, **how) == ("again" if by == "crowd" else "invite")
    assert max(cells(path, "1").values()) == 1


def test_open_studies_have_a_limit_that_invitations_pass(tmp_path):
    path = tmp_path / "study.db"
    make(path, max_raters=2)
    (token,) = store_owner_acts.invite(path, 1, "cli")
    for how in ({}, {"invite": token}, {}):
        newcomer(path, **how)
    assert refused(session.join, path) == "full"
    store_owner_acts.extend(path, "cli", raters=1)
    assert newcomer(path).label == "R04"


def test_tokens_themselves_are_not_stored(path):
    token = session.join(path)
    rater = session.who(path, token)
    link = session.return_link(path, rater)
    (invitation,) = store_owner_acts.invite(path, 1, "cli")
    stored = b"".join(file.read_bytes() for file in path.parent.glob("study.db*"))
    for secret in (token, link, invitation):
        assert len(secret) >= 32
        assert secret.encode() not in stored
        assert hashlib.sha256(secret.encode()).hexdigest().encode() in stored


def test_a_return_link_brings_a_rater_to_another_device(path):
    token = session.join(path)
    rater = session.who(path, token)
    first = session.return_link(path, rater)
    link = session.return_link(path, rater)
    assert refused(session.join_again, path, first) == "return"  # the newer one counts
    assert refused(session.join_again, path, token) == "return"  # a cookie is no link
    assert session.who(path, link) is None  # and a link no cookie
    phone = session.join_again(path, link)
    assert phone != token
    assert session.who(path, phone) == session.who(path, token) == rater
    session.join_again(path, link)  # a third device
    assert rows(path, "SELECT purpose, count(*) FROM token GROUP BY 1") == [("cookie", 3), ("return", 1)]


def test_a_participant_of_a_platform_joins_once(path):
    crowd = {"platform": "prolific", "person": "5f1", "study": "s9", "session": "x1"}
    session.current(path, newcomer(path, crowd=crowd))
    assert refused(session.join, path, crowd={**crowd, "session": "x2"}) == "again"
    newcomer(path, crowd={**crowd, "person": "5f2"})
    assert rows(path, "SELECT rater, platform, person, study, session FROM crowd")[0] == (
        *(1, "prolific"),
        *("5f1", "s9", "x1"),
    )
    tidy = str(rows(path, "SELECT * FROM tidy_ratings")) + str(rows(path, "SELECT * FROM rater"))
    assert "5f1" not in tidy


def test_a_refused_newcomer_leaves_no_trace(path):
    crowd = {"platform": "prolific", "person": "5f1", "study": "s9", "session": "x1"}
    session.current(path, newcomer(path, crowd=crowd))
    before = rows(path, "SELECT count(*) FROM assignment")
    (token,) = store_owner_acts.invite(path, 1, "cli")
    assert refused(session.join, path, crowd=crowd, invite=token) == "again"
    assert rows(path, "SELECT count(*) FROM rater") == [(1,)]
    assert rows(path, "SELECT count(*) FROM assignment") == before
    assert newcomer(path, invite=token).label == "R02"  # the invitation was not used up


def test_language_and_consent_are_noted(tmp_path):
    make(tmp_path / "study.db", language="de")
    assert newcomer(tmp_path / "study.db").language == "de"
    assert newcomer(tmp_path / "study.db", language="en").language == "en"
    assert rows(tmp_path / "study.db", "SELECT DISTINCT consent_version, consented_at = joined_at FROM rater") == [
        (1, 1)
    ]


def test_judges_are_raters_of_another_kind_who_take_no_place(tight):
    judge = newcomer(tight, kind="judge")
    assert rows(tight, "SELECT kind, consented_at FROM rater") == [("judge", None)]
    assert rows(tight, "SELECT DISTINCT leased_until FROM assignment") == [(None,)]
    rate_all(tight, judge)
    for _ in range(3):
        rate_all(tight)
    assert refused(session.join, tight) == "full"
    newcomer(tight, kind="simulated")
    people = "(SELECT id FROM rater WHERE kind = 'person')"
    assert set(cells(tight, f"done_at NOT NULL AND rater IN {people}").values()) == {2}


def test_when_all_is_dealt_newcomers_are_told_whether_to_come_back(tight):
    raters = [newcomer(tight) for _ in range(3)]
    assert [session.current(tight, rater).total for rater in raters] == [9, 9, 6]
    assert refused(session.join, tight) == "busy"
    for rater in raters:
        rate_all(tight, rater)
    assert refused(session.join, tight) == "full"
    assert set(cells(tight).values()) == {2}
    store_owner_acts.extend(tight, "cli", ratings=1)
    rate_all(tight)
    assert sum(cells(tight).values()) == 24 + 9


def test_many_who_join_at_once_get_different_items(tight):
    def enter(_):
        try:
            return newcomer(tight)
        except RefusedError as error:
            return error.reason

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(enter, range(12)))
    assert results.count("busy") == 9
    assert set(cells(tight, "done_at IS NULL").values()) == {2}


def test_items_whose_lease_ran_out_go_to_the_next_rater(tight):
    gone = newcomer(tight)
    rate_all(tight, gone, most=4)  # one scenario in two arms at most: no scenario is whole
    rate_all(tight), rate_all(tight)
    assert refused(session.join, tight) == "busy"
    expire(tight, gone)
    rate_all(tight)
    assert min(cells(tight).values()) == 2
    assert refused(session.join, tight) == "full"
    # what was rated stays, what was not is nobody's but the new rater's
    kept = f"SELECT count(*) FROM rating JOIN assignment ON assignment.id = assignment WHERE rater = {gone.id}"
    assert rows(tight, kept) == [(4,)]
    assert max(cells(tight, f"rater <> {gone.id}").values()) == 2


def test_a_rater_who_comes_back_too_late_is_told_and_gets_no_code(tight):
    late = newcomer(tight)
    rate_all(tight, late, most=1)
    expire(tight, late)
    for _ in range(3):
        rate_all(tight)
    view = session.current(tight, late)
    assert (view.state, view.done, view.total, view.released, view.completion) == ("end", 1, 1, 8, None)
    assert refused(session.rate, tight, late, 2, [Marks(3, 3)], version=0) == "gone"
    assert rate_all(tight, late).state == "end"


def test_what_is_left_without_items_is_given_back_too(tmp_path):
    """Nobody is called back for practice, checks or repeats alone."""
    path = tmp_path / "study.db"
    make(path, ratings_per_cell=1, items=scenarios(3), training=[known(1)], checks=[known(2), known(3)], repeats=2)
    late = newcomer(path)
    rate_all(path, late, most=2)  # practice, and one item
    expire(path, late)
    rate_all(path)
    view = session.current(path, late)
    assert (view.state, view.done, view.total) == ("end", 2, 2)


def test_a_rater_who_comes_back_before_that_goes_on_and_holds_the_items_again(tight):
    slow = newcomer(tight)
    rate_all(tight, slow, most=1)
    expire(tight, slow)
    assert session.current(tight, slow).item.position == 2
    assert rows(tight, f"SELECT count(*) FROM assignment WHERE leased_until = '{LONG_AGO}'") == [(1,)]  # the rated one
    for _ in range(2):
        rate_all(tight)
    assert refused(session.join, tight) == "busy"
    assert rate_all(tight, slow).completion == "DONE"
    assert set(cells(tight).values()) == {2}


def test_a_lease_lasts_as_long_as_the_study_says(tmp_path):
    make(tmp_path / "study.db", lease_minutes=30)
    newcomer(tmp_path / "study.db")
    sql = "SELECT (julianday(leased_until) - julianday('now')) * 1440 FROM assignment"
    assert all(28 < minutes <= 30 for (minutes,) in rows(tmp_path / "study.db", sql))


@pytest.mark.parametrize("crossing", ["within", "between"])
def test_whoever_leaves_no_open_item_is_ever_with_two_raters(tmp_path, crossing):
    """Raters come, rate some, leave, come back, in threads; each cell is held no more often than it is wanted."""
    path = tmp_path / "study.db"
    make(path, ratings_per_cell=2, crossing=crossing, items=scenarios(3))
    chance = random.Random(crossing)
    raters = []

    def act(number):
        try:
            rater = newcomer(path) if number % 3 == 0 or not raters else raters[number % len(raters)]
            rate_all(path, rater, most=number % 4)
        except RefusedError as error:
            return error.reason
        if rater not in raters:
            raters.append(rater)
        if number % 2:
            expire(path, rater)
        return "rated"

    for _ in range(4):
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(act, [chance.randrange(12) for _ in range(8)]))
        assert set(results) <= {"rated", "busy", "full", "gone", "changed"}
        for scenario, arm, n in rows(
            path,
            "SELECT scenario, arm_key, count(*) FROM assignment AS one WHERE released_at IS NULL AND NOT EXISTS ("
            " SELECT 1 FROM assignment AS other WHERE other.rater = one.rater AND other.scenario = one.scenario"
            " AND other.released_at NOT NULL) GROUP BY scenario, arm_key",
        ):
            assert n <= 2, (scenario, arm)
    for number, label in rows(path, "SELECT id, label FROM rater"):
        expire(path, session.Rater(number, label))
    assert refused(lambda: [rate_all(path) for _ in range(99)]) == "full"
    assert min(cells(path).values()) >= 2
    if crossing == "between":
        assert max(cells(path).values()) == 2


def fill_everything(path):
    """A rater with something of theirs in every table that there is."""
    secret = "QUITE-UNLIKELY-WORDS"
    (invitation,) = store_owner_acts.invite(path, 1, "cli", f"for {secret}")
    crowd = dict.fromkeys(("platform", "person", "study", "session"), secret)
    token = session.join(path, invite=invitation, crowd=crowd)
    rater = session.who(path, token)
    session.return_link(path, rater)
    view = session.current(path, rater)
    while view.item:
        item = view.item
        session.report_problem(path, rater, item.position, f"{secret} is wrong")
        if item.mode == "live":
            session.say(path, rater, item.position, f"I am {secret}")
            item = talk(path, rater, item)
        preference = item.panels[0].code if len(item.panels) > 1 else NOT_SAID
        marks = [Marks(2, 2, f"{secret} {item.position}")] * len(item.panels)
        session.rate(path, rater, item.position, marks, preference=preference, version=item.version)
        item = session.at(path, rater, item.position).item
        view = rate_page(path, rater, item)  # and changes it
    session.answer_questions(path, rater, [None] * len(view.pairs))
    return rater, token, secret


def test_who_withdraws_leaves_a_label_and_a_time_in_the_whole_file(tmp_path):
    path = tmp_path / "study.db"
    modes = ("fixed", "side-by-side", "live")
    make(path, items=scenarios(3, modes=modes), training=[known(1)], checks=[known(2)], repeats=1, questions=True)
    stays = newcomer(path)
    rate_all(path, stays)
    ids = {table: len(rows(path, f"SELECT * FROM {table}")) for (table,) in rows(path, TABLES)}
    rater, token, secret = fill_everything(path)
    empty = [table for table, before in ids.items() if len(rows(path, f"SELECT * FROM {table}")) == before]
    assert set(empty) <= {"study", "scenario", "arm", "answer", "extra", "withdrawal", "judge", "verdict"}
    session.withdraw(path, rater)
    assert session.who(path, token) is None
    for (table,) in rows(path, TABLES):
        now = rows(path, f"SELECT * FROM {table}")
        grown = {"withdrawal": 1, "log": 2, "invite": 1}.get(table, 0)
        assert len(now) == ids[table] + grown, table
        assert secret not in str(now), table
    assert [label for label, _ in rows(path, "SELECT label, at FROM withdrawal")] == ["R02"]
    assert rows(path, "SELECT actor, action, detail FROM log")[-1] == ("rater:R02", "withdraw", "")
    assert rows(path, "SELECT used_at IS NOT NULL, rater, note FROM invite") == [(1, None, "")]
    assert rows(path, "PRAGMA foreign_key_check") == []
    for file in path.parent.glob("study.db*"):  # nor in free pages or the write-ahead log
        assert secret.encode() not in file.read_bytes(), file


TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%sqlite%' ORDER BY name"


def test_after_a_withdrawal_label_and_place_are_treated_as_they_should(tight):
    first = newcomer(tight)
    codes = rows(tight, "SELECT arm_key, code FROM code WHERE rater = 1")
    rate_all(tight, first)
    session.withdraw(tight, first)
    session.withdraw(tight, first)  # a second click
    assert sum(cells(tight, "1").values()) == 0
    second = newcomer(tight)
    assert second.label == "R02"  # R01 is gone for good
    assert rows(tight, "SELECT arm_key, code FROM code WHERE rater = 2") == codes  # but the turn of codes stays whole
    for rater in (second, newcomer(tight), newcomer(tight)):
        rate_all(tight, rater)
    assert set(cells(tight).values()) == {2}
    for act in (session.current, session.return_link):
        assert refused(act, tight, first) == "gone"
    assert refused(session.report_problem, tight, first, None, "hello") == "gone"
