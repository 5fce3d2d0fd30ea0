"""What a study has to be before it goes into study.db: whole, without doubles, of a size that works."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import RatingError
from harness.records import KnownAnswer, Scenario
from studyapp.design import most_repeats, rated_pages, sizes

MODES = ("live", "fixed", "side-by-side")
CROSSINGS = ("within", "between")
SETTINGS = {
    *("language", "open_join", "max_raters", "lease_minutes", "check_every", "repeats", "questions"),
    *("completion_code", "completion_url", "self_words"),
    *("name", "consent", "ratings_per_cell", "scenarios_per_rater", "side"),
}


def check_study(
    mode: str,
    modes: Mapping[str, str],
    crossing: str,
    said: Mapping[str, Any],
    scenarios: Sequence[Scenario],
    arm_keys: Sequence[str],
    chats: Sequence[tuple[str, str, Any]],
    extras: Sequence[KnownAnswer],
) -> None:
    """Raise RatingError for a study that raters could not rate."""
    for value in (mode, *modes.values()):
        if value not in MODES:
            raise RatingError(f"unknown rating mode {value!r}", hint=f"use one of {', '.join(MODES)}")
    if crossing not in CROSSINGS:
        raise RatingError(f"unknown crossing {crossing!r}", hint=f"use one of {', '.join(CROSSINGS)}")
    if unknown := sorted(set(said) - SETTINGS):
        raise RatingError(f"unknown setting {unknown[0]!r}", hint=f"known are {', '.join(sorted(SETTINGS))}")
    for key in ("ratings_per_cell", "scenarios_per_rater", "max_raters", "check_every"):
        if said.get(key) is not None and said[key] < 1:
            raise RatingError(f"{key} is {said[key]}", hint="it must be 1 or more")
    _distinct("scenario id", [scenario.id for scenario in scenarios], needed=True)
    _distinct("arm key", list(arm_keys), needed=True)
    _distinct("known answer", [extra.id for extra in extras], needed=False)
    _check_sizes(modes, crossing, said, len(arm_keys))
    _check_answers([scenario.id for scenario in scenarios if modes[scenario.id] != "live"], arm_keys, chats)


def _distinct(what: str, values: Sequence[str], *, needed: bool) -> None:
    if needed and not values:
        raise RatingError(f"the study has no {what}", hint="a rating study needs at least one scenario and one arm")
    if twice := next((value for value in values if values.count(value) > 1), None):
        raise RatingError(f"the {what} {twice!r} comes twice", hint="each must be unique")


def _check_sizes(modes: Mapping[str, str], crossing: str, said: Mapping[str, Any], arms: int) -> None:
    if "side-by-side" in modes.values():
        if arms < 2:
            raise RatingError("side by side needs two arms or more, and the study has one", hint='use mode = "fixed"')
        if crossing == "within":
            try:
                sizes(arms, said["side"])
            except ValueError as error:
                raise RatingError(
                    f"side = {said['side']}: {error}", hint='use another side, or crossing = "between"'
                ) from None
    repeats = said.get("repeats", 0)
    if repeats:
        if set(modes.values()) == {"live"}:
            raise RatingError("repeats does nothing where all chats are live: another chat is another item")
        pages = rated_pages(modes, arms, crossing, said["side"], said["scenarios_per_rater"])
        if repeats > most_repeats(pages):
            raise RatingError(
                f"repeats = {repeats}, but of {pages} items at most {most_repeats(pages)} can come again far from "
                "their first showing",
                hint="repeat fewer, or give raters more scenarios",
            )


def _check_answers(
    prepared: Sequence[str], arm_keys: Sequence[str], chats: Sequence[tuple[str, str, Sequence[Any]]]
) -> None:
    given = [(arm, scenario) for arm, scenario, _ in chats]
    wanted = {(arm, scenario) for arm in arm_keys for scenario in prepared}
    if len(given) != len(set(given)) or set(given) != wanted:
        missing, extra = len(wanted - set(given)), len(given) - len(wanted & set(given))
        raise RatingError(
            f"the answers do not fit the study: {missing} of {len(wanted)} are missing, {extra} are too many",
            hint="every arm answers every scenario that is not live exactly once; run viva answer again",
        )
    if empty := next((scenario for _, scenario, messages in chats if not messages), None):
        raise RatingError(f"an answer to scenario {empty!r} has no message", hint="run viva answer again")
