"""The command `viva report`: on one study, on several side by side, or on anybody's table of ratings."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def add_report(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `command` makes the parser of one (name, function, help)."""
    report = command("report", report_command, "write the report from what is there", study=False)
    report.add_argument(
        "studies", type=Path, nargs="*", metavar="STUDY", help="study file or run directory; several are compared"
    )
    report.add_argument("--run", type=Path, metavar="DIR", help="run directory (default: runs/NAME)")
    report.add_argument("--ratings", type=Path, metavar="FILE.csv", help="report on this table of ratings instead")
    report.add_argument("--teacher", metavar="NAME", help="with --ratings: the arm that the others are compared with")
    report.add_argument("--margin", type=float, metavar="Q", help="with --ratings: the margin (default: 0.90)")
    report.add_argument("--out", type=Path, metavar="DIR", help="folder to write (with --ratings or several studies)")


def report_command(args: argparse.Namespace) -> None:
    from harness.errors import ConfigError

    # before numpy is there: threads that wait for each other cost a report more than they save, and the last bits of
    # its sums must not depend on how many cores a machine has
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if args.ratings is not None:
        _of_ratings(args)
        return
    if args.teacher or args.margin is not None:
        raise ConfigError("--teacher and --margin belong to --ratings", hint="a study has its own in its study file")
    if not args.studies:
        raise ConfigError("viva report takes a study, or a table with --ratings", hint="name one of both")
    if len(args.studies) > 1:
        _of_several(args)
        return
    if args.out is not None:
        raise ConfigError("--out does nothing for one study", hint="its report goes into its run directory: --run")
    from harness.stages import open_run, report_stage

    run = open_run(args.studies[0], args.run)
    with run.dir.lock():
        html = report_stage(run, f"viva rate {run.dir.root}")
    print(f"report: {html}")


def _of_ratings(args: argparse.Namespace) -> None:
    from harness.errors import ConfigError

    if args.studies or args.run is not None:
        raise ConfigError("--ratings takes no study", hint="leave the study and --run out")
    if not args.teacher:
        raise ConfigError("--ratings needs the teacher's name", hint="add --teacher NAME, one of the file's arms")
    margin = 0.90 if args.margin is None else args.margin
    if not 0 < margin < 1:
        raise ConfigError(f"--margin is {margin:g}", hint="it lies between 0 and 1, such as 0.9")
    from reports.render import from_csv

    out = args.out or Path(f"{args.ratings.stem}-report")
    print(f"report: {from_csv(args.ratings, args.teacher, out, margin=margin).html}")


def _of_several(args: argparse.Namespace) -> None:
    from harness.errors import ConfigError
    from harness.stages import open_run

    if args.run is not None:
        raise ConfigError("--run is about one study", hint="name run directories in place of study files")
    roots = [open_run(study, None).dir.root for study in args.studies]
    from reports.several import write_several

    print(f"report: {write_several(roots, args.out or Path('runs') / 'compared').html}")
