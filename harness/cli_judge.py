"""`viva judge`: options and command; see docs/judge.md."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from harness.errors import ConfigError


def add_judge_parser(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `viva judge` to the command line; `command` is what makes a subcommand there."""
    parser = command("judge", judge_command, "let models rate the answers, or read published reviews", study=False)
    parser.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="study file, or a run directory")
    parser.add_argument("--run", type=Path, metavar="DIR", help="run directory (default: runs/NAME)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this judge (repeatable)")
    parser.add_argument("--plan", action="store_true", help="print what it will ask and cost, and ask nothing")
    parser.add_argument("--yes", action="store_true", help="start above the limits of [judge], too")
    parser.add_argument("--again", action="store_true", help="ask once more where no reply could be read")
    parser.add_argument("--json", action="store_true", help="with --plan or --reviews: print JSON")
    reviews = parser.add_argument_group("reviews that others published, in place of a study")
    reviews.add_argument("--reviews", type=Path, metavar="PATH", help="file or folder of reviews in FastChat's formats")
    reviews.add_argument("--teacher", metavar="NAME", help="compare with this model (default: the one shown first)")


def judge_command(args: argparse.Namespace) -> None:
    """Run `viva judge`."""
    if (args.study is None) == (args.reviews is None):
        raise ConfigError("viva judge takes a study, or reviews with --reviews", hint="name one of both")
    if args.reviews is not None:
        idle = [name for name in ("run", "only", "plan", "yes", "again") if getattr(args, name)]
        if idle:
            raise ConfigError(f"--{idle[0]} belongs to a study", hint="leave it out beside --reviews")
        _reviews(args)
        return
    if args.teacher is not None:
        raise ConfigError("--teacher belongs to --reviews", hint="a study names its teacher itself")
    if args.json and not args.plan:
        raise ConfigError("--json does nothing without --plan", hint="add --plan")
    _study(args)


def _study(args: argparse.Namespace) -> None:
    from harness.judging import plan
    from harness.judging.stage import check_limits, judge_all, prepare
    from harness.progress import say
    from harness.stages import open_run

    run = open_run(args.study, args.run)
    with run.dir.lock("judge"):
        judging = prepare(run, args.only)
        costs = judging.costs(args.again)
        text = plan.plan_text(costs, judging.table)
        if args.plan:
            print(json.dumps(plan.plan_json(costs, judging.table), indent=2) if args.json else text)
            return
        say(text)
        check_limits(judging, costs, args.yes)
        print(judge_all(run, judging, yes=args.yes, again=args.again))
    print(f"report: viva report {run.dir.root}")


def _reviews(args: argparse.Namespace) -> None:
    from harness.records import dump_json
    from reports.review_tables import text
    from reports.reviews import analyse_reviews, read_reviews

    found = analyse_reviews(read_reviews(args.reviews), teacher=args.teacher)
    print(dump_json(found).rstrip() if args.json else text(found))
