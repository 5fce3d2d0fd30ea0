"""`viva status`: what a run directory holds, in a few lines."""

from pathlib import Path

from harness.rundir import read_manifest
from harness.stages import Run


def describe(run: Run) -> str:
    """One line per stage and arm, then the ratings. Reads manifests and study.db, changes nothing."""
    lines = [f"study {run.study.name} in {run.dir.root}"]
    for student in run.study.student:
        if student.train:
            lines.append(_line(f"train {student.name}", run.dir.arm(student.name)))
    lines += [_line(f"bench {arm}", run.dir.bench(arm)) for arm in run.study.arms]
    lines += [_line("answer", run.dir.answers), _line("report", run.dir.report)]
    if run.dir.db.exists():
        from studyapp import store

        counts = store.counts(run.dir.db)
        lines.append(
            f"ratings: {counts.ratings} by {counts.raters} raters; {counts.full_cells} of {counts.cells} cells have "
            f"{counts.ratings_per_cell} or more ({counts.state})"
        )
    else:
        lines.append("ratings: none yet")
    return "\n".join(lines)


def _line(title: str, folder: Path) -> str:
    manifest = read_manifest(folder / "manifest.json")
    if manifest is None:
        begun = any((folder / "checkpoints").glob("step-*")) if (folder / "checkpoints").is_dir() else False
        return f"{title}: {'begun, not finished' if begun else 'not begun'}"
    if manifest.get("status") == "finished":
        return f"{title}: finished {manifest['finished']}"
    return f"{title}: {manifest.get('status')} {manifest.get('finished', '')}: {manifest.get('error', '')}"
