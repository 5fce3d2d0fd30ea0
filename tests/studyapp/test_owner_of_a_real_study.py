"""The owner's side of a study that raters go through by the session's own calls: both sides fit together."""

import json
import random
import sqlite3

import pytest
from small_study import KEYS, known, make, scenarios

from harness.doctor_run import check_run
from harness.errors import RatingError
from harness.rundir import RunDir
from studyapp import export, owner_lock, session, store_owner, store_owner_acts
from studyapp.session import Marks

NAMES = {key: f"arm-{number}" for number, key in enumerate(KEYS)}


@pytest.fixture
def run(tmp_path):
    items = scenarios(4, turns=2, modes=("fixed", "live", "side-by-side"))
    make(
        tmp_path / "study.db", items=items, scenarios_per_rater=4, side=3, repeats=1, check_every=3, questions=True,
        training=[known(1)], checks=[known(2), known(3)], max_raters=4, completion_code="DONE",
    )  # fmt: skip
    (tmp_path / "blinding.json").write_text(json.dumps({"created": "now", "arms": NAMES}))
    (tmp_path / "blinding.json").chmod(0o600)
    owner_lock.seal(tmp_path / "study.db", "a long password")
    return RunDir(tmp_path)


def go(db, token, rng, pages=100):
    """One rater, some pages far; whoever comes to the end answers the questions."""
    rater = session.who(db, token)
    view = session.current(db, rater)
    for _ in range(pages):
        if view.state == "questions":
            view = session.answer_questions(db, rater, [rng.choice([None, *pair]) for pair in view.pairs])
        if view.state != "item":
            return rater, view
        item = view.item
        if item.writing:
            turn = session.say(db, rater, item.position, item.opening)
            session.heard(
                db, rater, turn, "Words.", finish="stop", underruns=rng.randint(0, 1), late_s=0.1, failed=False
            )
            view = session.end_chat(db, rater, item.position)
            item = view.item
        marks = [Marks(rng.randint(1, 5), rng.randint(1, 5), rng.choice(["", "hm"])) for _ in item.panels]
        choice = {"preference": rng.choice([None, item.panels[0].code])} if len(item.panels) > 1 else {}
        view = session.rate(db, rater, item.position, marks, version=item.version, **choice)
        if item.training and view.item and view.item.position == item.position:
            view = session.after(db, rater, item.position)
    return rater, view


def faults(run):
    return {name: text for name, good, text in check_run(run) if good is False}


def query(db, sql):
    connection = sqlite3.connect(db)
    rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


def test_a_study_from_the_first_invitation_to_the_export(run):
    db, rng = run.db, random.Random(5)
    assert not faults(run)
    invited = store_owner_acts.invite(db, 2, "cli")
    tokens = [session.join(db, invite=token) for token in invited]
    tokens += [session.join(db) for _ in range(3)]
    done = [go(db, token, rng, pages) for token, pages in zip(tokens, (100, 100, 100, 5, 0), strict=True)]
    assert [view.state for _, view in done[:3]] == ["end"] * 3
    with pytest.raises(RatingError):  # somebody has seen its pages
        session.join(db, invite=invited[0])
    session.report_problem(db, done[3][0], None, "too long")

    progress = store_owner.progress(db)
    assert (progress.overview.raters, progress.overview.claimed, progress.overview.invites) == (5, 2, 2)
    assert progress.overview.finished == 3
    rated = query(db, "SELECT count(*) FROM tidy_ratings")[0][0]
    assert progress.overview.ratings == sum(part.ratings for part in progress.scenarios) == rated
    assert sum(code.rated for code in progress.codes) == rated
    assert sum(person.done for person in progress.people) == query(db, "SELECT count(*) FROM rating")[0][0]
    assert [note.text for note in store_owner.notes(db).problems] == ["too long"]
    assert not faults(run)

    session.withdraw(db, done[1][0])
    assert store_owner.overview(db).withdrawn == 1
    assert not faults(run)

    store_owner_acts.set_state(db, "pause", "owner")
    with pytest.raises(RatingError):
        session.join(db)
    assert session.current(db, done[3][0]).state == "paused"
    store_owner_acts.set_state(db, "open", "owner")
    view = session.current(db, done[3][0])
    assert view.state == "item"

    store_owner_acts.set_state(db, "close", "owner")
    assert session.current(db, done[3][0]).state == "closed"
    assert sum(arm.ratings for arm in store_owner.progress(db).arms) == store_owner.overview(db).ratings
    store_owner_acts.unblind(db, "cli")
    assert not faults(run)

    for name in export.TABLES:
        _, rows = export.table(db, name, NAMES)
        assert len(rows) == len(query(db, export.TABLES[name]))
        assert not any(key in str(row) for row in rows for key in KEYS)
    records = json.loads(export.render(db, "argilla").content)
    assert (
        sum(len(record["metadata"]["codes"]) for record in records)
        == query(db, "SELECT count(*) FROM tidy_ratings")[0][0]
    )


def test_a_limit_that_was_extended_lets_more_in_and_outlasts_a_restart(run):
    db = run.db
    for _ in range(4):
        session.join(db)
    with pytest.raises(RatingError):
        session.join(db)
    store_owner_acts.extend(db, "owner", raters=1)
    items = scenarios(4, turns=2, modes=("fixed", "live", "side-by-side"))
    make(
        db, items=items, scenarios_per_rater=4, side=3, repeats=1, check_every=3, questions=True,
        training=[known(1)], checks=[known(2), known(3)], max_raters=4, completion_code="DONE",
    )  # fmt: skip
    assert store_owner.overview(db).max_raters == 5
    assert session.who(db, session.join(db)) is not None
    with pytest.raises(RatingError):
        session.join(db)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_raters_do_the_doctor_finds_nothing(tmp_path, seed):
    rng = random.Random(seed)
    mode = ("fixed", "live", "side-by-side", "fixed")[seed]
    db = tmp_path / "study.db"
    make(
        db,
        mode=mode,
        repeats=int(seed == 2),
        checks=[known(1)],
        check_every=2,
        crossing="between" if seed == 3 else "within",
    )
    tokens = []
    for _ in range(12):
        if not tokens or rng.random() < 0.4:
            tokens.append(session.join(db))
        token = rng.choice(tokens)
        rater = session.who(db, token)
        if rater and len(tokens) > 3:
            session.withdraw(db, rater)
            tokens.remove(token)
        elif rater:
            go(db, token, rng, rng.randint(1, 6))
        if rng.random() < 0.3:  # leases run out
            connection = sqlite3.connect(db)
            connection.execute("UPDATE assignment SET leased_until = '2020' WHERE leased_until IS NOT NULL")
            connection.commit()
            connection.close()
    (tmp_path / "blinding.json").write_text(json.dumps({"created": "now", "arms": NAMES}))
    (tmp_path / "blinding.json").chmod(0o600)
    assert query(db, "SELECT count(*) FROM rating")[0][0] > 5
    assert not faults(RunDir(tmp_path))
