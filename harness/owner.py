"""What the owner of a study does from a terminal: invite, pause, close, extend, export, unblind.

This side of the study may open blinding.json, and does so in `unblind` and in an export with names only. The page's
process never does.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ConfigError, RatingError, RunError
from harness.progress import say
from harness.stages import Run

ACTOR = "cli"


def study_db(run: Run) -> Path:
    """The study's database, made from the answers where there is none yet and brought to the newest schema."""
    from studyapp import db

    if run.dir.db.exists():
        db.prepare(run.dir.db)
    else:
        from harness.rating import prepare

        prepare(run)
    return run.dir.db


def invite(run: Run, count: int, note: str, url: str) -> list[str]:
    """Links that let one person in each; only hashes of them are kept, so nothing can print them again."""
    from studyapp import store_owner_acts

    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no address of a page", hint="write it like https://study.example.org/")
    tokens = store_owner_acts.invite(study_db(run), count, ACTOR, note)
    return [f"{url.rstrip('/')}/join/{token}" for token in tokens]


def change(run: Run, action: str, raters: int, ratings: int) -> str:
    """Pause, open, close or extend the study; what holds now."""
    from studyapp import store_owner, store_owner_acts

    path = study_db(run)
    if action == "extend":
        facts = store_owner_acts.extend(path, ACTOR, raters=raters, ratings=ratings)
        limit = f", {facts.max_raters} raters at most" if facts.max_raters else ""
        return f"{facts.ratings_per_cell} ratings of each cell{limit}"
    if raters or ratings:
        raise ConfigError(f"--raters and --ratings do nothing with {action}", hint="they belong to extend")
    changed = store_owner_acts.set_state(path, action, ACTOR)  # type: ignore[arg-type]
    return f"the study is {store_owner.overview(path).state}" + ("" if changed else " already")


def export(run: Run, out: Path, form: str | None, table: str, *, arms: bool) -> int:
    """Write a table of the study to a file; returns the number of its rows.

    Raises ConfigError where no format is known, RatingError for names of arms before unblinding.
    """
    from studyapp import export as exports
    from studyapp import store_owner, store_owner_acts

    form = form or {end: name for name, end in exports.FORMATS.items() if end != ".json"}.get(out.suffix)
    if form is None:
        raise ConfigError(
            f"{out} does not say which format it shall have", hint=f"add --format {' or '.join(exports.FORMATS)}"
        )
    if form in ("argilla", "label-studio") and table not in ("ratings", "chats"):
        raise ConfigError(f"{form} takes rated chats, not the table {table}", hint="leave --table out")
    path = study_db(run)
    names = None
    if arms:
        if not store_owner.overview(path).unblinded_at:
            raise RatingError("the arms' names are not known yet", hint=f"run: viva unblind {run.dir.root}")
        names = arm_names(run.dir.blinding)
    file = exports.render(path, form, table, names)
    part = out.with_name(f".{out.name}.part")
    try:
        part.write_bytes(file.content)
        os.replace(part, out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}", hint="name another file with --out") from None
    store_owner_acts.record(path, ACTOR, "export", f"{table} as {form}" + (", with names" if arms else ""))
    return file.rows


def unblind(run: Run, *, yes: bool) -> list[str]:
    """Name the arms, once and for all; one line for each. Asks before it does.

    Raises RatingError while the study is not closed.
    """
    from studyapp import store_owner, store_owner_acts

    path = study_db(run)
    names = arm_names(run.dir.blinding)
    before = store_owner.overview(path)
    if before.unblinded_at:
        say(f"the study was unblinded at {before.unblinded_at} already")
    elif before.state == "closed" and not yes:  # an open one is refused below, without a question
        _confirm()
    store_owner_acts.unblind(path, ACTOR)
    arms = store_owner.progress(path).arms
    keys = sorted(arm_keys(path))
    return [f"arm {arm.number}: {names[key]}, {arm.ratings} ratings" for arm, key in zip(arms, keys, strict=True)]


def arm_keys(path: Path) -> list[str]:
    """The arm keys of a study's database."""
    from studyapp.store_owner import reading

    with reading(path) as db:
        return [key for (key,) in db.conn.execute("SELECT key FROM arm ORDER BY key")]


def arm_names(path: Path) -> dict[str, str]:
    """Key -> arm of every arm in blinding.json. Raises RunError where it cannot be read."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["arms"]
        return {str(key): str(name) for key, name in names.items()}
    except FileNotFoundError:
        raise RunError(
            f"there is no {path}", hint="restore it from a copy: without it no rating can be attributed"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} cannot be read: {error}", hint="restore it from a copy: without it no rating can be attributed"
        ) from None


def seal_password(run: Run, file: Path | None) -> None:
    """Give the owner's pages their password: the file's first line, or a random one that is printed this once."""
    from studyapp import owner_lock

    if file is None:
        password = owner_lock.new_password()
        say(f"owner's pages: /owner, password {password}")
    else:
        password = _first_line(file)
        say(f"owner's pages: /owner, password from {file}")
    owner_lock.seal(run.dir.db, password)


def _first_line(file: Path) -> str:
    try:
        lines: Sequence[str] = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"cannot read the owner's password from {file}: {reason}", hint="write it into that file, on one line"
        ) from None
    if file.stat().st_mode & 0o077:
        say(f"note: others on this machine can read {file}; chmod 600 keeps it yours")
    return lines[0].strip() if lines else ""


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise ConfigError("unblinding cannot be undone and wants a confirmation", hint="add --yes")
    say("Unblinding names the arms for good: the study stays closed, and the log keeps the time.")
    if input("Type unblind to go on: ").strip() != "unblind":
        raise RatingError("not unblinded", hint="type the word unblind, or add --yes")
