"""The rate stage seen from the harness: put prepared answers under arm keys, then start the page.

This is where the names stop: what goes into study.db and into the page's process is keys, codes and texts.
"""

import contextlib
from pathlib import Path

from harness.blinding import arm_keys
from harness.errors import ConfigError, RunError
from harness.models.families import chats
from harness.progress import bar, say
from harness.rate_table import CHECK_EVERY, idle_keys, self_words
from harness.records import Answer, KnownAnswer, read_jsonl
from harness.resources import resolve_file
from harness.rundir import digest, hardware, read_manifest
from harness.serving.page import serve_page
from harness.serving.process import Handle, calibrate, serving
from harness.serving.study_db import known_pace
from harness.stages import Run


def prepare(run: Run) -> None:
    """Bring study.db up to date with the study file and, for scenarios that are not live, with the answers.

    Raises RunError while there are no answers, ConfigError for keys that would do nothing, RatingError where ratings
    exist for scenarios or answers that have changed since.
    """
    from studyapp import store
    from studyapp.texts import languages

    if not chats(run.study.family):
        raise ConfigError(
            f"models of family = {run.study.family!r} do not chat, so there is nothing to rate", hint="see the report"
        )
    rate = run.study.rate
    modes = {scenario.id: scenario.mode or rate.mode for scenario in run.scenarios}
    for idle in idle_keys(rate, modes.values()):
        key, _, mode = idle.partition(": ")
        raise ConfigError(
            f"{key} under [rate] does nothing: no scenario is {mode}", hint=f"drop it, or set a {mode} mode"
        )
    if rate.language not in languages():
        raise ConfigError(f"no texts in the language {rate.language!r}", hint=f"there are {', '.join(languages())}")
    keys = arm_keys(run.dir.blinding, run.study.arms)
    answers = _answers(run, {scenario.id for scenario in run.prepared})
    store.create(
        run.dir.db,
        name=run.study.name,
        mode=rate.mode,
        seed=run.study.seed,
        ratings_per_cell=rate.ratings_per_cell,
        scenarios_per_rater=min(rate.scenarios_per_rater, len(run.scenarios)),
        consent=rate.consent,
        scenarios=run.scenarios,
        arm_keys=sorted(keys.values()),  # in the order of random keys: the order of arms would tell
        answers=sorted((keys[answer.arm], answer.scenario, answer.messages) for answer in answers),
        crossing=rate.crossing,
        side=rate.side,
        training=_known(rate.training),
        checks=_known(rate.checks),
        margin=run.study.report.margin,
        language=rate.language,
        open_join=rate.open,
        max_raters=rate.max_raters,
        lease_minutes=rate.lease_minutes,
        check_every=rate.check_every or CHECK_EVERY,
        repeats=rate.repeats,
        questions=len(run.study.arms) > 1 if rate.questions is None else rate.questions,
        self_words=_self_words(run),
        completion_code=rate.completion_code,
        completion_url=rate.completion_url,
    )
    margin, at = store.margin(run.dir.db)
    if margin != run.study.report.margin:
        say(f"the margin stays {margin:g}, as fixed at {at} before the first rating, not {run.study.report.margin:g}")


def _answers(run: Run, wanted: set[str]) -> list[Answer]:
    """The prepared answers to the scenarios that raters do not chat about live."""
    if not wanted:
        return []
    manifest = read_manifest(run.dir.answers / "manifest.json")
    if not manifest or manifest.get("status") != "finished":
        raise RunError("there are no finished answers to rate yet", hint=f"run: viva run {run.dir.study}")
    answers = read_jsonl(run.dir.answers / "answers.jsonl", Answer)
    return [answer for answer in answers if answer.scenario in wanted]


def _known(name: str | None) -> list[KnownAnswer]:
    if name is None:
        return []
    found = read_jsonl(resolve_file(name, Path.cwd()), KnownAnswer)
    if not found:
        raise ConfigError(f"{name} holds no item", hint="write one, or drop the key")
    return found


def _self_words(run: Run) -> tuple[str, ...]:
    said = run.study.rate.self_identification
    given = [run.study.teacher.source, *(student.source for student in run.study.student)]
    sources = [source for source in given if source]
    return self_words([*run.study.arms, *sources]) if said is None else said


def serve(run: Run, host: str, port: int, root_path: str = "") -> None:
    """Serve the rating page until Ctrl-C, in a process of its own; with live chats, the model server beside it.

    Raises RunError when one of them cannot start, RatingError when the slowest arm is too slow for live chats.
    """
    from studyapp import store
    from studyapp.listening import listen

    def ready(url: str) -> None:
        say(f"\nrating page: {url}\nreport:      {run.dir.report / 'report.html'}\nCtrl-C closes the page.")

    with contextlib.ExitStack() as stack:
        models = None
        if store.study(run.dir.db).live:
            listen(host, port).close()  # a port in use is told before the models are loaded
            with bar("models") as progress:
                models = stack.enter_context(serving(run.dir.root, run.study.rate.at_once, progress))
            _set_pace(run, models)
        say("opening the rating page (a few seconds)")
        serve_page(run.dir.db, host=host, port=port, root_path=root_path, models=models, on_ready=ready)


def _set_pace(run: Run, models: Handle) -> None:
    """Measure the arms and store the pace of live chats, unless it is known for these arms on this machine."""
    from studyapp import store

    rate, elsewhere = run.study.rate, {one.arm for one in run.study.rate.serve}
    asked = rate.model_dump(mode="json", include={"at_once", "cps", "delay", "serve"})
    weights = sorted(run.model_digest(arm) for arm in run.study.arms if arm not in elsewhere)
    key = digest([asked, weights, run.study.answer.model_dump(mode="json"), run.study.system, hardware()])
    pace = known_pace(run.dir.db)
    if pace is None or pace.get("key") != key:
        with bar("pace") as progress:
            pace = calibrate(models, progress)
        store.set_pace(run.dir.db, {**pace, "key": key})
    say(
        f"live chats: {pace['cps']:g} characters a second after {pace['delay']:g} s, for every arm (the slowest "
        f"writes {pace['g']:.0f} with {pace['at_once']} chats at once, and begins within {pace['F']:.1f} s)"
    )
