"""The command `viva rehearse`: the whole study, before anybody is recruited."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

EXIT_INTERRUPTED = 130


def add_rehearse(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `command` makes the parser of one (name, function, help)."""
    rehearse = command("rehearse", rehearse_command, "run the rating study with simulated raters, and report on it")
    rehearse.add_argument("--out", type=Path, metavar="DIR", help="where it goes (default: RUN-rehearsal)")
    rehearse.add_argument("--raters", type=int, metavar="N", help="simulated raters (default: as the cells need)")
    rehearse.add_argument("--seed", type=int, default=0, metavar="S", help="of the simulated raters (default: 0)")
    rehearse.add_argument(
        "--fraction",
        action="append",
        default=[],
        metavar="[ARM=]F",
        help="true fraction of the teacher's mean that students keep (repeatable; default: 0.97, controls 0.6)",
    )


def rehearse_command(args: argparse.Namespace) -> int:
    from harness.errors import ConfigError
    from harness.rehearse import Wish, rehearse
    from harness.stages import open_run

    if args.seed < 0:
        raise ConfigError(f"--seed is {args.seed}", hint="it is 0 or more")
    run = open_run(args.study, args.run)
    try:
        done = rehearse(run, Wish(args.raters, args.seed, tuple(args.fraction)), args.out)
    except KeyboardInterrupt:
        print("\nviva: the rehearsal was stopped; the same command begins it anew", file=sys.stderr)
        return EXIT_INTERRUPTED
    raters = ", ".join(f"{count} {character}" for character, count in done.characters.items())
    students = ", ".join(f"{arm} {100 * fraction:g} %" for arm, fraction in done.fractions.items())
    print(
        f"simulated raters: {raters}\nsimulated truth: {students} of the teacher's mean\n"
        f"report of the rehearsal: {done.report}"
    )
    return 0
