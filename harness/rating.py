"""The rate stage seen from the harness: put prepared answers under arm keys, then start the page.

This is where the names stop: what goes into study.db and into the page's process is keys, codes and texts.
"""

from harness.blinding import arm_keys
from harness.errors import RunError
from harness.progress import say
from harness.records import Answer, read_jsonl
from harness.rundir import read_manifest
from harness.stages import Run


def prepare(run: Run) -> None:
    """Bring study.db up to date with the answers. Raises RunError while there are none.

    Raises RatingError where ratings exist for answers that have changed since.
    """
    from studyapp import store

    manifest = read_manifest(run.dir.answers / "manifest.json")
    if not manifest or manifest.get("status") != "finished":
        raise RunError("there are no finished answers to rate yet", hint=f"run: viva run {run.dir.study}")
    answers = read_jsonl(run.dir.answers / "answers.jsonl", Answer)
    keys = arm_keys(run.dir.blinding, run.study.arms)
    store.create(
        run.dir.db,
        name=run.study.name,
        mode=run.study.rate.mode,
        seed=run.study.seed,
        ratings_per_cell=run.study.rate.ratings_per_cell,
        scenarios_per_rater=min(run.study.rate.scenarios_per_rater, len(run.scenarios)),
        consent=run.study.rate.consent,
        scenarios=run.scenarios,
        arm_keys=sorted(keys.values()),  # in the order of random keys: the order of arms would tell
        answers=sorted((keys[answer.arm], answer.scenario, answer.messages) for answer in answers),
    )


def serve(run: Run, host: str, port: int) -> None:
    """Serve the rating page until Ctrl-C."""
    say("opening the rating page (a few seconds)")
    from studyapp.server import serve as serve_page

    def ready(url: str) -> None:
        say(f"\nrating page: {url}\nreport:      {run.dir.report / 'report.html'}\nCtrl-C closes the page.")

    serve_page(run.dir.db, host=host, port=port, on_ready=ready)
