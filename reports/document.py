"""report.json: every number of a study in full precision, the same for the same input."""

from datetime import datetime
from typing import Any

from reports import wording, wording_methods, wording_warnings
from reports.analysis import analyse
from reports.analysis_extras import (
    blinding_json,
    checks_json,
    inconsistent,
    live_json,
    missing_json,
    preference_json,
    repeats_json,
    unfinished,
)
from reports.calibration import calibration_json
from reports.compare import scores_json
from reports.costs import costs_json, same_energy
from reports.database import Extras
from reports.judges import over_judges
from reports.kept import at_chance
from reports.load import Source
from reports.paired import over_pairs
from reports.seeds import over_seeds
from reports.wording_kept import methods_sentence

SCHEMA = 2
OF_PEOPLE = {
    **{"reliability": {}, "bradley_terry": {}, "raters": None, "order": {}, "by_scenario": {}, "blinding": {}},
    **{"repeats": {}, "checks": None, "preference": None, "missing": {}, "live": {}, "mode": None, "modes": {}},
    "n": {"ratings": 0, "raters": 0, "scenarios": 0},
}
"""Blocks about people's ratings as they are without any."""


def build(source: Source) -> dict[str, Any]:
    """The whole of report.json as plain JSON values; docs/report.md names its fields."""
    kinds = {kind: of_kind(source, kind) for kind in source.ratings}
    for kind, block in kinds.items():
        if kind != "person":
            block["warnings"].insert(0, {"code": "not_people", "kind": kind})
    people = kinds.pop("person", None)
    pairs = over_pairs(source)
    order = [*source.arms, *(arm for arm in (people or {}).get("arms", {}) if arm not in source.arms)]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "study": _study(source, order),
        "arms": {},
        "dates": source.dates,
        **{key: (people or {}).get(key, empty) for key, empty in OF_PEOPLE.items()},
        "answers": _answers(source),
        "calibration": calibration_json(source),
        "seeds": over_seeds(source),
        "paired": pairs,
        "kinds": kinds,
        "judges": over_judges(source),
        "looks": _looks(source, people),
        "warnings": [
            *(people or {"warnings": [{"code": "no_ratings"}] if source.chats else []})["warnings"],
            *_of_the_study(source, people),
            *_study_warnings(source, people, pairs),
        ],
        "provenance": _provenance(source),
    }
    if people is not None:
        people["warnings"] = report["warnings"]
    for arm in order:
        block = dict((people or {}).get("arms", {}).get(arm, {}))
        block["role"] = "teacher" if arm == source.teacher else "control" if arm in source.controls else "student"
        block["overlap"] = source.overlaps.get(arm) or None
        block["scores"], block["costs"] = scores_json(source, arm), costs_json(source, arm)
        report["arms"][arm] = block
    blocks = [report, *report["modes"].values(), *kinds.values()]
    blocks += [mode for kind in kinds.values() for mode in kind["modes"].values()]
    for said in (block["warnings"] for block in blocks):
        for warning in said:
            warning["text"] = wording_warnings.warning_text(warning)
            warning["level"] = "note" if warning["code"] in wording_warnings.NOTES else "warning"
    report["headline"] = wording.headline(source, people, report)
    report["methods"] = f"{wording_methods.methods(source, people)} {methods_sentence(source, report)}".strip()
    report["limitations"] = wording_methods.limitations(source, people)
    return report


def of_kind(source: Source, kind: str) -> dict[str, Any]:
    """All about the ratings of one kind of rater; modes apart, the study's own mode first, others under `modes`."""
    tidy, extras = source.ratings[kind], source.extras.get(kind, Extras())
    mode = _main_mode(source, kind)
    found = _of_mode(source, kind, mode)
    found["modes"] = {other: _of_mode(source, kind, other) for other in tidy.modes if other != mode}
    size = {arm: costs.get("parameters") for arm, costs in source.costs.items()}
    found["blinding"], said = blinding_json(extras, source.arms, size)
    found["warnings"] += said
    found["checks"] = checks_json(extras)
    found["preference"] = preference_json(extras, source.arms, source.seed)
    if found["modes"]:
        found["warnings"].append({"code": "several_modes", "modes": list(tidy.modes), "shown": mode})
    return found


def _main_mode(source: Source, kind: str) -> str:
    """The study's mode where it was rated in, else the one with the most ratings."""
    tidy = source.ratings[kind]
    if source.mode in tidy.modes:
        return source.mode
    count = {mode: int((tidy.mode == at).sum()) for at, mode in enumerate(tidy.modes)}
    return max(count, key=lambda mode: (count[mode], mode))


def _of_mode(source: Source, kind: str, mode: str) -> dict[str, Any]:
    extras = source.extras.get(kind, Extras())
    found = analyse(
        source.ratings[kind].of_mode(mode),
        margin=source.margin,
        seed=source.seed,
        controls=source.controls,
        crossing=source.facts.crossing,
        unfinished=unfinished(extras.given),
    )
    found["mode"] = mode or source.mode
    found["repeats"] = repeats_json(extras, mode)
    found["warnings"] += inconsistent(found["repeats"])
    found["missing"], said = missing_json(extras, source.arms, mode)
    found["warnings"] += said
    found["live"] = live_json(extras, source.arms) if mode == "live" else {}
    return found


def _study(source: Source, arms: list[str]) -> dict[str, Any]:
    facts = source.facts
    return {
        "name": source.name,
        "teacher": source.teacher,
        "arms": arms,
        "controls": source.controls,
        "margin": source.margin,
        "margin_at": facts.margin_at,
        "margin_before_ratings": _margin_before(source),
        "mode": source.mode,
        "crossing": facts.crossing,
        "language": facts.language or None,
        "seed": source.seed,
        "purpose": source.purpose,
        "licence": source.licence,
        "state": source.state,
        "closed_at": facts.closed_at,
        "planned": facts.planned,
    }


def _margin_before(source: Source) -> bool | None:
    """Whether the margin was fixed before the first rating by a person; None where that is not on record."""
    first = source.dates.get("person", ("", ""))[0]
    if not source.facts.margin_at:
        return None
    return True if not first else datetime.fromisoformat(source.facts.margin_at) <= datetime.fromisoformat(first)


def _answers(source: Source) -> dict[str, dict[str, int]]:
    """Prepared answers by arm, those cut at the length limit and those without text."""
    found: dict[str, dict[str, int]] = {}
    for answer in source.answers:
        one = found.setdefault(answer.arm, {"n": 0, "cut": 0, "empty": 0})
        said = [message.content for message in answer.messages if message.role == "assistant"]
        one["n"] += 1
        one["cut"] += answer.finish == "length"
        one["empty"] += not "".join(said).strip()
    return found


def _of_the_study(source: Source, people: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Warnings about the margin, an early stop, and looks."""
    if people is None:
        return []
    said: list[dict[str, Any]] = []
    facts, before = source.facts, _margin_before(source)
    if before is False:
        said.append({"code": "margin_late", "margin": source.margin, "at": facts.margin_at,
                     "first": source.dates["person"][0]})  # fmt: skip
    elif before is None and source.mode:
        said.append({"code": "margin_unstamped", "margin": source.margin})
    if facts.margin is not None and source.margin_in_file not in (None, facts.margin):
        said.append({"code": "margin_changed", "margin": facts.margin, "file": source.margin_in_file})
    n = source.ratings["person"].n
    if source.state == "closed" and facts.planned and n < facts.planned:
        sequences = [arm.get("satisfaction", {}).get("confidence_sequence") for arm in people["arms"].values()]
        said.append({"code": "stopped_early", "ratings": n, "planned": facts.planned, "sequence": any(sequences)})
    return said


def _looks(source: Source, people: dict[str, Any] | None) -> list[dict[str, Any]]:
    """How many ratings there were whenever a report showed results: what an early stop has to answer for."""
    looks = [dict(look) for look in source.looks]
    n = people["n"]["ratings"] if people else 0
    if n and (not looks or looks[-1]["ratings"] != n):
        looks.append({"ratings": n, "last": source.dates.get("person", ("", ""))[1]})
    return looks


def _study_warnings(source: Source, people: dict[str, Any] | None, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    trained = {arm: stages["train"] for arm, stages in source.manifests.items() if "train" in stages}
    said += [{"code": "licence", "note": note} for note in _distinct(trained, "licence_notes")]
    for arm, manifest in trained.items():
        cache = (manifest.get("training") or {}).get("cache") or {}
        if cache.get("bias"):
            said.append({"code": "coarse_cache", "arm": arm, **{key: cache.get(key) for key in ("kind", "k", "draws")},
                         **cache["bias"]})  # fmt: skip
    scores = source.scores.get(source.teacher, [])
    if suites := [f"{score['suite']} ({score['metric']})" for score in scores if at_chance(score)]:
        said.append({"code": "teacher_at_chance", "suites": suites})
    for pair in pairs:
        if rows := [row for row in pair["rows"] if row["different"]]:
            suites = list(dict.fromkeys(row["suite"] for row in rows))
            said.append({"code": "items_differ", "arm": pair["arm"], "against": pair["against"], "suites": suites})
    for arm, costs in source.costs.items():
        if costs.get("error"):
            said.append({"code": "costs_failed", "arm": arm, "reason": costs["error"]})
        elif costs and not same_energy(costs, source.costs.get(source.teacher) or costs):
            said.append({"code": "energy_mixed", "arm": arm})
    for arm, found in source.overlaps.items():
        suites = {name: one for name, one in (found.get("suites") or {}).items() if one.get("overlapping")}
        if suites:
            counts = [f"{name} {one['overlapping']:,} of {one['items']:,}" for name, one in suites.items()]
            said.append({"code": "overlap", "arm": arm, "counts": counts, "n": found["n"]})
    if people and source.state in ("open", "paused"):
        said.append({"code": "unblinded_open"})
    if people and source.looks and source.looks[0]["ratings"] < people["n"]["ratings"]:
        at = source.looks[0]["ratings"]
        said.append({"code": "looked_before", "at": at, "later": people["n"]["ratings"] - at})
    return said


def _distinct(manifests: dict[str, dict[str, Any]], key: str) -> list[str]:
    """The notes that stand under `key` in any of the manifests, each once."""
    return list(dict.fromkeys(note for manifest in manifests.values() for note in manifest.get(key) or []))


def _command(source: Source, stage: str, arm: str) -> str:
    """The command that runs a stage of the study again."""
    only = f" --only {arm}" if stage in ("train", "bench") else ""
    return f"viva {'answer' if stage == 'answers' else stage} {source.name}.toml{only}"


def _provenance(source: Source) -> list[dict[str, Any]]:
    """One line a finished stage: when, by which code, on what machine."""
    lines = []
    for arm, stages in source.manifests.items():
        for stage, manifest in stages.items():
            git = manifest.get("git") or {}
            lines.append(
                {
                    "stage": manifest.get("stage", f"{stage}/{arm}"),
                    "command": _command(source, stage, arm),
                    "status": manifest.get("status"),
                    "started": manifest.get("started"),
                    "finished": manifest.get("finished"),
                    "commit": git.get("commit"),
                    "dirty": git.get("dirty"),
                    "config_digest": manifest.get("config_digest"),
                    "student": manifest.get("student"),
                    "versions": manifest.get("versions", {}),
                    "hardware": manifest.get("hardware", {}),
                    "outputs": {name: facts.get("sha256") for name, facts in (manifest.get("outputs") or {}).items()},
                }
            )
    return lines
