"""A rehearsal of a small study: simulated raters through the real pages, and a report that says so everywhere."""

import csv
import json
import re
import sqlite3
from pathlib import Path

import httpx
import numpy as np
import pytest

from harness.cli import main
from harness.errors import ConfigError, RunError
from harness.rating import prepare
from harness.rehearsal import raters as simulated
from harness.rehearsal.session import Stage
from harness.rehearse import Wish, _all, _page, raters_needed, rehearse
from harness.stages import open_run
from reports.planning import DEFAULTS
from reports.rehearsal import BANNER, mark_markdown, mark_page
from studyapp import store
from tests.studyapp.served import serving, typing
from tests.studyapp.small_study import KEYS
from tests.studyapp.small_study import make as make_small
from tests.studyapp.small_study import scenarios as small_scenarios

ARMS = ("teacher", "distilled", "scratch")
SCENARIOS = 6

STUDY = """schema = 1
name = "small"
seed = 3

[teacher]
name = "teacher"
source = "nowhere"

[[student]]
name = "distilled"
source = "nowhere/distilled"

[[student]]
name = "scratch"
source = "nowhere/scratch"

[rate]
mode = "{mode}"
scenarios = "{folder}/scenarios.jsonl"
scenarios_per_rater = 4
ratings_per_cell = 2
training = "{folder}/training.jsonl"
checks = "{folder}/checks.jsonl"
check_every = 4
repeats = {repeats}
{more}
"""


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def study(folder: Path, mode: str = "fixed", more: str = "", repeats: int = 2) -> Path:
    """A run directory whose answers are finished, as viva answer leaves it; nobody has rated."""
    folder.mkdir(exist_ok=True)
    names = [f"s{number}" for number in range(SCENARIOS)]
    base = {"goal": "You want a thing.", "opening": "Please give me a thing.", "turns": 2, "reached": "It is named."}
    lines(folder / "scenarios.jsonl", [{"id": name, "category": "ab"[at % 2], **base} for at, name in enumerate(names)])
    said = [{"role": "user", "content": "Please."}, {"role": "assistant", "content": "No."}]
    known = {"goal": "g", "opening": "Please.", "reached": "r", "messages": said, "feedback": "Most give 1 or 2."}
    for name in ("training", "checks"):
        right = {"satisfaction": [1, 2], "goal_achievement": [1, 2]}
        lines(folder / f"{name}.jsonl", [{"id": name, **known, **right}])
    root = folder / "runs" / "small"
    answers = root / "answers"
    answers.mkdir(parents=True)
    (root / "study.toml").write_text(STUDY.format(mode=mode, folder=folder, more=more, repeats=repeats))
    rows = []
    for arm in ARMS:
        for name in names:
            messages = [
                {"role": "user", "content": base["opening"]},
                {"role": "assistant", "content": f"{arm[:2]} {name}" * 9},
            ]
            rows.append({"arm": arm, "scenario": name, "messages": messages, "tokens": 9, "finish": "stop", "seed": 1})
    lines(answers / "answers.jsonl", rows)
    (answers / "manifest.json").write_text(json.dumps({"stage": "answer", "status": "finished", "outputs": {}}))
    return root


def rows_of(root: Path, sql: str) -> list[tuple]:
    with sqlite3.connect(root / "study.db") as db:
        return db.execute(sql).fetchall()


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    root = study(tmp_path_factory.mktemp("fixed"))
    assert (
        main(
            ["rehearse", str(root), "--raters", "4", "--seed", "5", "--fraction", "0.5", "--fraction", "distilled=0.9"]
        )
        == 0
    )
    return root


@pytest.fixture(scope="module")
def rehearsal(fixed):
    return fixed.with_name("small-rehearsal")


class TestARehearsal:
    def test_leaves_the_study_alone(self, fixed, rehearsal):
        assert sorted(path.name for path in fixed.iterdir() if path.name[0] != ".") == ["answers", "study.toml"]
        assert (rehearsal / "rehearsal.json").exists()

    def test_has_simulated_raters_only_and_of_every_character(self, rehearsal):
        assert set(rows_of(rehearsal, "SELECT kind, consented_at FROM rater")) == {("simulated", None)}
        assert len(rows_of(rehearsal, "SELECT * FROM rater")) == 4
        raters = rows_of(rehearsal, "SELECT sum(done_at IS NOT NULL), count(*) FROM assignment GROUP BY rater")
        assert sum(done < all_ for done, all_ in raters) == 1, "one leaves early"
        assert sum(done == all_ for done, all_ in raters) == 3

    def test_shows_flags_checks_repeats_and_guesses(self, rehearsal):
        marks = rows_of(
            rehearsal, "SELECT rater, count(DISTINCT satisfaction * 10 + goal_achievement) FROM tidy_ratings GROUP BY 1"
        )
        assert min(count for _, count in marks) == 1, "one straight-lines"
        passed = rows_of(rehearsal, "SELECT rater, min(passed) FROM tidy_checks GROUP BY 1")
        assert {0, 1} == {value for _, value in passed}, "some miss the known answers, some do not"
        assert rows_of(rehearsal, "SELECT count(*) FROM tidy_repeats")[0][0] >= 4
        assert rows_of(rehearsal, "SELECT count(*) FROM tidy_guesses")[0][0] == 9, "three pairs by each who finished"

    def test_pages_took_the_time_of_reading(self, rehearsal):
        by_rater = {}
        for rater, seconds in rows_of(rehearsal, "SELECT rater, seconds FROM tidy_ratings"):
            by_rater.setdefault(rater, []).append(seconds)
        medians = sorted(float(np.median(one)) for one in by_rater.values())
        assert medians[0] < 2.5, "the careless one"
        assert medians[-1] > 5

    def test_the_better_arm_is_rated_better(self, rehearsal):
        names = json.loads((rehearsal / "blinding.json").read_text())["arms"]
        means = dict(rows_of(rehearsal, "SELECT arm_key, avg(satisfaction) FROM tidy_ratings GROUP BY 1"))
        mean = {names[key]: value for key, value in means.items()}
        assert mean["scratch"] < mean["distilled"]
        assert mean["scratch"] < mean["teacher"]

    def test_the_page_is_marked_everywhere(self, rehearsal):
        html = (rehearsal / "report" / "report.html").read_text()
        assert f'<p class="rehearsal" role="note">{BANNER}</p>' in html
        assert "<title>Viva report: small, rehearsed with simulated raters</title>" in html
        assert re.search(r"<h1>Rehearsal with simulated raters: ", html)
        assert "Ratings by people" not in html
        assert "Ratings by simulated raters" in html
        captions = re.findall(r"<figcaption><strong>(.*?)\.</strong>", html)
        assert len(captions) >= 3
        assert all("(simulated raters)" in caption for caption in captions)
        before = html.split("<h2>Provenance</h2>")[0]
        tables = re.findall(r"<table[^>]*>(<caption[^>]*>Simulated raters</caption>)?", before)
        assert len(tables) >= 5
        assert all(tables)

    def test_what_was_put_in_stands_beside_what_came_out(self, rehearsal):
        html = (rehearsal / "report" / "report.html").read_text()
        assert "distilled 90.0" in html.replace("\u202f", " ").replace("\u00a0", " ")

    def test_files_for_programs_keep_the_kind(self, rehearsal):
        report = json.loads((rehearsal / "report" / "report.json").read_text())
        assert list(report["kinds"]) == ["simulated"]
        assert report["n"]["ratings"] == 0, "of people"
        assert report["kinds"]["simulated"]["n"]["raters"] == 4
        with (rehearsal / "report" / "ratings.csv").open(newline="") as file:
            assert {row["kind"] for row in csv.DictReader(file)} == {"simulated"}
        assert BANNER in (rehearsal / "report" / "report.md").read_text()
        assert BANNER in (rehearsal / "report" / "table.tex").read_text()

    def test_viva_report_keeps_the_marks_and_the_bytes(self, rehearsal):
        files = [rehearsal / "report" / name for name in ("report.html", "report.md", "report.json", "table.tex")]
        before = [path.read_bytes() for path in files]
        assert main(["report", str(rehearsal)]) == 0
        assert [path.read_bytes() for path in files] == before

    def test_the_same_seed_gives_the_same_ratings(self, rehearsal):
        sql = (
            "SELECT rater, position, arm_key, scenario, satisfaction, goal_achievement FROM tidy_ratings ORDER BY 1, 2"
        )
        before = rows_of(rehearsal, sql)
        twin = open_run(rehearsal.with_name("small"))
        (rehearsal.with_name("small") / "blinding.json").write_text((rehearsal / "blinding.json").read_text())
        rehearse(twin, Wish(4, 5, ("0.5", "distilled=0.9")), rehearsal)
        assert rows_of(rehearsal, sql) == before


def test_side_by_side_has_preferences(tmp_path):
    root = study(tmp_path, "side-by-side", "side = 3\nopen = false\n", repeats=1)
    done = rehearse(open_run(root), Wish(raters=4, seed=1))
    assert done.root == root.with_name("small-rehearsal")
    assert sum(done.characters.values()) == 4
    found = rows_of(done.root, "SELECT kind, preferred FROM tidy_preferences")
    assert len(found) > 6
    assert {kind for kind, _ in found} == {"simulated"}
    assert "Preferred side by side" in done.report.with_suffix(".md").read_text()
    assert rows_of(done.root, "SELECT state FROM study") == [("closed",)]


def test_live_chats_are_held_and_rated(tmp_path):
    """Through the real page and model server; only the words of the arms are scripted."""
    db = tmp_path / "study.db"
    make_small(db, mode="live", items=small_scenarios(2, turns=3), scenarios_per_rater=2, questions=True)
    world = simulated.make_world(DEFAULTS, {"a": 1.0, "b": 0.9, "c": 0.5}, ["s1", "s2"], 1)
    behind = Stage(db, ("a", "b", "c"), world, dict(zip(KEYS, "abc", strict=True)))
    raters = simulated.make_raters(2, world, 1)
    pages = []
    with typing(db) as models, _page(db, models) as url:
        _all(url, store.study(db), ["/join"] * 2, behind, raters, 2, lambda done, total, note: pages.append(done))
    assert pages[-1] == 12, "two raters, two scenarios, three arms"
    assert rows_of(tmp_path, "SELECT DISTINCT kind, mode FROM tidy_ratings") == [("simulated", "live")]
    assert rows_of(tmp_path, "SELECT count(*) FROM tidy_ratings") == [(12,)]
    said = rows_of(tmp_path, "SELECT DISTINCT content FROM turn WHERE role = 'user' AND number = 1 ORDER BY 1")
    assert said == [("Please give me thing 1.",), ("Please give me thing 2.",)]
    assert rows_of(tmp_path, "SELECT count(*) FROM turn WHERE role = 'user' AND number = 2")[0][0] > 0
    assert rows_of(tmp_path, "SELECT count(*) FROM turn WHERE role = 'assistant' AND finish IS NULL") == [(0,)]
    assert rows_of(tmp_path, "SELECT count(*) FROM chat WHERE ended_by IS NULL") == [(0,)]


def test_only_who_starts_the_page_can_make_raters_simulated(tmp_path):
    root = study(tmp_path)

    run = open_run(root)
    prepare(run)
    with serving(run.dir.db) as server, httpx.Client(base_url=server.url) as http:
        data = {"consent": "yes", "kind": "simulated"}
        origin = {"origin": server.url.rstrip("/"), "kind": "simulated"}
        assert http.post("/join?kind=simulated", data=data, headers=origin).status_code == 303
    assert rows_of(root, "SELECT kind FROM rater") == [("person",)]
    with _page(run.dir.db, None) as url, httpx.Client(base_url=url) as http:
        assert http.post("/join", data={"consent": "yes"}, headers={"origin": url.rstrip("/")}).status_code == 303
    assert rows_of(root, "SELECT kind FROM rater ORDER BY id") == [("person",), ("simulated",)]


def test_raters_by_default_fill_the_cells_in_spite_of_those_who_leave(tmp_path):
    run = open_run(study(tmp_path, more='crossing = "between"'))
    count = raters_needed(run)
    assert count == 10, "36 ratings, 4 of each rater, and a tenth more"
    world = simulated.make_world(DEFAULTS, {"teacher": 1.0}, ["s0"], 0)
    assert sum(one.stays for one in simulated.make_raters(count, world, 0)) >= 9


class TestWhatIsRefused:
    def test_a_folder_with_something_else(self, tmp_path):
        root = study(tmp_path)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").write_text("kept")
        with pytest.raises(RunError, match="something else"):
            rehearse(open_run(root), Wish(), tmp_path / "other")
        assert (tmp_path / "other" / "file").read_text() == "kept"

    def test_the_studys_own_folder(self, tmp_path):
        root = study(tmp_path)
        with pytest.raises(ConfigError, match="own run directory"):
            rehearse(open_run(root), Wish(), root)

    def test_a_rehearsal_of_a_rehearsal(self, tmp_path):
        root = study(tmp_path)
        (root / "rehearsal.json").write_text("{}")
        with pytest.raises(ConfigError, match="rehearsal itself"):
            rehearse(open_run(root), Wish())

    def test_no_answers_yet(self, tmp_path):
        root = study(tmp_path)
        (root / "answers" / "manifest.json").unlink()
        with pytest.raises(RunError, match="no finished answers"):
            rehearse(open_run(root), Wish(raters=4))

    @pytest.mark.parametrize("said", ["nobody=0.9", "distilled=much", "0", "2"])
    def test_fractions(self, said):
        with pytest.raises(ConfigError, match="--fraction"):
            simulated.true_fractions([said], ARMS, ["scratch"], 0.97)


class TestSimulatedRaters:
    def world(self, scenarios: int = 400):
        fractions = {"teacher": 1.0, "distilled": 0.9}
        return simulated.make_world(DEFAULTS, fractions, [f"s{one}" for one in range(scenarios)], 7)

    def test_marks_follow_the_model(self):
        """Over many raters the mean in each scenario is the model's, rounded and cut at the ends of the scale."""
        world = self.world()
        raters = [one for one in simulated.make_raters(200, world, 7) if one.character == "careful"]
        drawn = {arm: [] for arm in world.mean}
        for rater in raters:
            for scenario in list(world.scenario)[:60]:
                for arm in world.mean:
                    drawn[arm].append(simulated.marks(rater, world, scenario, arm)[0])
        rng = np.random.default_rng(1)
        rest = (0.45**2 + 0.3**2 + 0.2**2 + 0.8**2) ** 0.5
        met = list(world.scenario)[:60]
        for arm, fraction in (("teacher", 1.0), ("distilled", 0.9)):
            of_scenario = np.array([world.scenario[one] + world.within[one, arm] for one in met])
            latent = 3.9 * fraction + of_scenario[:, None] + rest * rng.standard_normal((60, 4000))
            assert np.mean(drawn[arm]) == pytest.approx(np.clip(np.rint(latent), 1, 5).mean(), abs=0.12)
        assert set(drawn["teacher"]) == {1, 2, 3, 4, 5}

    def test_one_in_ten_of_each_kind_without_care(self):
        raters = simulated.make_raters(40, self.world(4), 0)
        characters = [one.character for one in raters]
        assert [characters.count(one) for one in ("leaves early", "straight-lines", "careless")] == [4, 4, 4]
        assert all((one.stays < 1) == (one.character == "leaves early") for one in raters)
        assert {one.character for one in simulated.make_raters(3, self.world(4), 0)} == {"careful"}

    def test_the_careless_miss_known_answers_and_the_careful_do_not(self):
        for rater in simulated.make_raters(20, self.world(4), 2):
            one, other = simulated.known_marks(rater, (1, 2), (4, 5))
            if rater.character in ("careful", "leaves early"):
                assert one <= 2
                assert other >= 4
            if rater.character == "careless":
                assert one > 2
                assert other < 4

    def test_preferences_go_with_marks(self):
        (rater,) = simulated.make_raters(1, self.world(4), 2)
        assert simulated.preferred(rater, ["A", "B"], [(2, 2), (4, 5)]) == "B"
        assert {simulated.preferred(rater, ["A", "B"], [(3, 3), (3, 3)]) for _ in range(60)} == {None, "A", "B"}


class TestMarks:
    def test_tables_of_measurements_stay_unmarked(self):
        html = mark_page("<style></style><body><h2>Costs</h2><table></table><h2>Validity</h2><table class='a'></table>")
        assert html.count("Simulated raters</caption>") == 1
        assert html.index("Validity") < html.index("<caption")

    def test_markdown(self):
        text = mark_markdown("# T\n\n| a | \n\n|---|\n| 1 |\n\n## Costs\n\n| a |\n|---|\n| 1 |\n")
        assert text.startswith(f"# T\n\n> **{BANNER}**")
        assert text.count("_Simulated raters:_") == 1
