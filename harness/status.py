"""`viva status`: what a run directory holds, in a few lines."""

from collections.abc import Sequence
from pathlib import Path

from harness.rundir import read_manifest
from harness.stages import Run


def describe(run: Run) -> str:
    """One line per stage and arm, then how far the ratings are. Reads manifests and study.db, changes nothing."""
    lines = [f"study {run.study.name} in {run.dir.root}"]
    for student in run.study.student:
        if student.source is None:
            lines.append(_line(f"train {student.name}", run.dir.arm(student.name)))
    lines += [_line(f"bench {arm}", run.dir.bench(arm)) for arm in run.study.arms]
    lines += [_line("answer", run.dir.answers), _line("report", run.dir.report)]
    lines += ratings(run.dir.db) if run.dir.db.exists() else ["ratings: none yet"]
    return "\n".join(lines)


def ratings(path: Path) -> list[str]:
    """What the owner's pages show of a study, which tells arms apart only once it is closed.

    Raises RatingError for a database without study or of an older version.
    """
    from studyapp import store_owner

    progress = store_owner.progress(path)
    study = progress.overview
    lines = [
        f"ratings: {study.ratings} by {_count(study.raters, 'rater')}, {study.finished} finished; "
        f"{study.full_cells} of {study.cells} cells have {study.ratings_per_cell} or more; "
        f"each arm has {study.fewest} to {study.most} ({study.state})"
    ]
    more = [
        f"{study.claimed} of {_count(study.invites, 'invitation')} used" if study.invites else "",
        f"{_count(study.others, 'judge')} or simulated" if study.others else "",
        f"{study.withdrawn} withdrew" if study.withdrawn else "",
        f"closed {study.closed_at}" if study.closed_at else "",
        f"unblinded {study.unblinded_at}" if study.unblinded_at else "",
    ]
    if any(more):
        lines.append("; ".join(text for text in more if text))
    if progress.arms:
        means = [
            (f"arm {arm.number}", arm.ratings, _mean(arm.satisfaction), _mean(arm.goal_achievement))
            for arm in progress.arms
        ]
        lines += _table(("arms", "ratings", "satisfaction", "goal"), means)
    if progress.codes:
        lines += _table(
            ("codes", "rated", "to rate"), [(code.code, code.rated, code.waiting) for code in progress.codes]
        )
    lines += _table(
        ("scenarios", "ratings", "full cells"),
        [(part.id, part.ratings, f"{part.full_cells} of {part.cells}") for part in progress.scenarios],
    )
    if progress.people:
        rows = [
            (
                person.label if person.kind == "person" else f"{person.label} {person.kind}",
                f"{person.done} of {person.total}",
                "" if person.seconds is None else f"{person.seconds:.0f}",
                person.comments,
                person.problems,
                person.last_seen[:16].replace("T", " "),
                "; ".join(f"{flag.name}: {flag.text}" for flag in person.flags),
            )
            for person in progress.people
        ]
        lines += _table(("raters", "done", "s/page", "comments", "problems", "last seen (UTC)", "flags"), rows)
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Aligned columns, two spaces in."""
    cells = [[str(value) for value in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    return [
        ("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))).rstrip() for row in cells
    ]


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _line(title: str, folder: Path) -> str:
    manifest = read_manifest(folder / "manifest.json")
    if manifest is None:
        begun = any((folder / "checkpoints").glob("step-*")) if (folder / "checkpoints").is_dir() else False
        return f"{title}: {'begun, not finished' if begun else 'not begun'}"
    if manifest.get("status") == "finished":
        imported = f", imported from {name}" if (name := (manifest.get("config") or {}).get("imported")) else ""
        return f"{title}: finished {manifest['finished']}{imported}"
    return f"{title}: {manifest.get('status')} {manifest.get('finished', '')}: {manifest.get('error', '')}"
