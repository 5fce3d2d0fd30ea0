"""The command `viva plan`: how many raters and scenarios, before anybody is recruited."""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_plan(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `command` makes the parser of one (name, function, help)."""
    plan = command("plan", plan_command, "say how many raters and scenarios a rating study needs", study=False)
    plan.add_argument("--pilot", type=Path, metavar="PATH", help="earlier ratings: run directory, study file or CSV")
    plan.add_argument("--teacher", metavar="NAME", help="the teacher's arm in a pilot's CSV file")
    plan.add_argument("--student", metavar="NAME", help="the pilot's arm to compare (default: its first student)")
    plan.add_argument("--fraction", type=float, metavar="F", help="true fraction to expect (0.97, or the pilot's)")
    plan.add_argument("--margin", type=float, metavar="Q", help="fraction to prove (0.90, or the pilot study's)")
    plan.add_argument("--power", type=float, default=0.80, metavar="P", help="chance to prove it (default: 0.80)")
    plan.add_argument("--arms", type=int, default=2, metavar="N", help="arms that raters meet (default: 2)")
    plan.add_argument("--scenarios", type=int, metavar="N", help="only this many scenarios (default: 10 to 120)")
    plan.add_argument("--per-rater", type=int, default=20, metavar="N", help="scenarios for each rater (default: 20)")
    plan.add_argument("--simulate", type=int, default=400, metavar="N", help="simulated studies to check by (400)")
    plan.add_argument("--seed", type=int, default=0, metavar="N", help="of the simulation (default: 0)")
    plan.add_argument("--json", action="store_true", help="print everything as JSON")


def plan_command(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from harness.errors import ConfigError
    from harness.records import dump_json
    from reports.planning import DEFAULTS, Pilot, Wish, make_plan, plan_text, read_pilot

    if args.pilot is None and (args.teacher or args.student):
        raise ConfigError("--teacher and --student belong to --pilot", hint="name a pilot, or leave them out")
    if args.simulate < 0:
        raise ConfigError(f"--simulate is {args.simulate}", hint="0 leaves the simulation out")
    margin = args.margin
    if args.pilot is None:
        pilot = Pilot(replace(DEFAULTS, true_ratio=args.fraction) if args.fraction is not None else DEFAULTS)
    else:
        path, known = _pilot(args.pilot)
        margin = known if margin is None else margin
        pilot = read_pilot(path, args.teacher, args.student, args.fraction)
    wish = Wish(
        margin=0.90 if margin is None else margin,
        power=args.power,
        arms=args.arms,
        per_rater=args.per_rater,
        scenarios=args.scenarios,
        replications=args.simulate,
        seed=args.seed,
    )
    plan = make_plan(pilot, wish)
    print(dump_json(plan).rstrip() if args.json else plan_text(plan))


def _pilot(path: Path) -> tuple[Path, float | None]:
    """The run directory or CSV file of a pilot, and the margin of its study."""
    from harness.errors import ConfigError
    from harness.stages import open_run

    if path.suffix == ".toml" or (path.is_dir() and (path / "study.toml").exists()):
        run = open_run(path, None)
        return run.dir.root, run.study.report.margin
    if not path.exists():
        raise ConfigError(f"no such file or folder: {path}", hint="name a run directory, a study file or a CSV file")
    return path, None
