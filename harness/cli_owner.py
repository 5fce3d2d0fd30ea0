"""The commands of a study's owner: their parsers, and what they print."""

import argparse
from collections.abc import Callable
from pathlib import Path

URL = "http://127.0.0.1:7860/"
"""Where `viva rate` opens the rating page by default."""

FORMATS = ("csv", "jsonl", "parquet", "argilla", "label-studio")
TABLES = ("ratings", "history", "repeats", "checks", "preferences", "guesses", "live", "raters", "chats")


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the owner's commands; `command` makes the parser of one (name, function, help)."""
    invite = command("invite", invite_command, "print links that let one rater in each")
    invite.add_argument("count", type=int, metavar="N", help="how many links")
    invite.add_argument("--note", default="", metavar="TEXT", help="for yourself, shown beside the invitations")
    invite.add_argument("--url", default=URL, metavar="URL", help=f"address of the rating page (default: {URL})")

    study = command("study", study_command, "pause, open, close or extend a running rating study")
    study.add_argument("action", choices=["pause", "open", "close", "extend"], help="extend needs one of the options")
    study.add_argument("--raters", type=int, default=0, metavar="N", help="extend: so many more may join uninvited")
    study.add_argument("--ratings", type=int, default=0, metavar="N", help="extend: so many more ratings of each cell")

    ratings = command("ratings", ratings_command, "write the study's ratings, and all that goes with them, to a file")
    ratings.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    ratings.add_argument("--format", choices=FORMATS, help="default: by the file's ending")
    ratings.add_argument("--table", choices=TABLES, default="ratings", help="what to write (default: ratings)")
    ratings.add_argument("--arms", action="store_true", help="name the arms beside the codes; after viva unblind")

    unblind = command(
        "unblind", unblind_command, "name the arms of a closed study, for good; the study's log says when"
    )
    unblind.add_argument("--yes", action="store_true", help="do not ask")


def invite_command(args: argparse.Namespace) -> None:
    from harness.owner import invite
    from harness.progress import say
    from harness.stages import open_run

    links = invite(open_run(args.study, args.run), args.count, args.note, args.url)
    say("each link lets one person in, once; it is printed now and never again")
    print("\n".join(links))


def study_command(args: argparse.Namespace) -> None:
    from harness.owner import change
    from harness.stages import open_run

    print(change(open_run(args.study, args.run), args.action, args.raters, args.ratings))


def ratings_command(args: argparse.Namespace) -> None:
    from harness.owner import export
    from harness.stages import open_run

    rows = export(open_run(args.study, args.run), args.out, args.format, args.table, arms=args.arms)
    print(f"{rows} {'row' if rows == 1 else 'rows'} of {args.table}: {args.out}")


def unblind_command(args: argparse.Namespace) -> None:
    from harness.owner import unblind
    from harness.stages import open_run

    print("\n".join(unblind(open_run(args.study, args.run), yes=args.yes)))
