"""report.json: every number of a study in full precision, the same for the same input."""

from typing import Any

from reports import wording
from reports.analysis import analyse
from reports.compare import at_chance, scores_json
from reports.costs import costs_json, same_energy
from reports.load import Source
from reports.paired import over_pairs
from reports.seeds import over_seeds

SCHEMA = 1


def build(source: Source) -> dict[str, Any]:
    """The whole of report.json as plain JSON values; docs/report.md names its fields."""
    kinds = {}
    for kind, tidy in source.ratings.items():
        kinds[kind] = analyse(tidy, margin=source.margin, seed=source.seed, controls=source.controls)
        if kind != "person":
            kinds[kind]["warnings"].insert(0, {"code": "not_people", "kind": kind})
    people = kinds.pop("person", None)
    pairs = over_pairs(source)
    order = [*source.arms, *(arm for arm in (people or {}).get("arms", {}) if arm not in source.arms)]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "study": {
            "name": source.name,
            "teacher": source.teacher,
            "arms": order,
            "controls": source.controls,
            "margin": source.margin,
            "mode": source.mode,
            "seed": source.seed,
            "purpose": source.purpose,
            "licence": source.licence,
            "state": source.state,
        },
        "arms": {},
        "n": (people or {}).get("n", {"ratings": 0, "raters": 0, "scenarios": 0}),
        "dates": source.dates,
        "reliability": (people or {}).get("reliability", {}),
        "bradley_terry": (people or {}).get("bradley_terry", {}),
        "raters": (people or {}).get("raters"),
        "order": (people or {}).get("order", []),
        "by_scenario": (people or {}).get("by_scenario", {}),
        "blinding": {},
        "seeds": over_seeds(source),
        "paired": pairs,
        "kinds": kinds,
        "looks": _looks(source, people),
        "warnings": [
            *(people or {"warnings": [{"code": "no_ratings"}]})["warnings"],
            *_study_warnings(source, people, pairs),
        ],
        "provenance": _provenance(source),
    }
    for arm in order:
        block = dict((people or {}).get("arms", {}).get(arm, {}))
        block["role"] = "teacher" if arm == source.teacher else "control" if arm in source.controls else "student"
        block["overlap"] = source.overlaps.get(arm) or None
        block["scores"], block["costs"] = scores_json(source, arm), costs_json(source, arm)
        report["arms"][arm] = block
    for said in (report["warnings"], *(kind["warnings"] for kind in kinds.values())):
        for warning in said:
            warning["text"] = wording.warning_text(warning)
            warning["level"] = "note" if warning["code"] in wording.NOTES else "warning"
    report["headline"] = wording.headline(source, people)
    report["methods"] = wording.methods(source, people)
    report["limitations"] = wording.limitations(source, people)
    return report


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


def _provenance(source: Source) -> list[dict[str, Any]]:
    """One line a finished stage: when, by which code, on what machine."""
    lines = []
    for arm, stages in source.manifests.items():
        for stage, manifest in stages.items():
            git = manifest.get("git") or {}
            lines.append(
                {
                    "stage": manifest.get("stage", f"{stage}/{arm}"),
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
