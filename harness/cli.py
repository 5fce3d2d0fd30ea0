"""The command `viva`: parse, call, print, exit code. Heavy imports happen inside the commands."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from harness import cli_bench, cli_owner, cli_plan, cli_rehearse, cli_report
from harness.cli_judge import add_judge_parser
from harness.errors import VivaError

if TYPE_CHECKING:
    from harness.stages import Run

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 for an error, 2 for a wrong command or study file, 130 after Ctrl-C."""
    _environment()
    args = build_parser().parse_args(argv)
    try:
        return int(args.command(args) or 0)
    except VivaError as error:
        print(f"viva: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only disturb the way out
        print("\nviva: stopped; the same command continues from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _environment() -> None:
    """Quiet, offline-friendly defaults that must be set before the libraries are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; the docs are tested against it."""
    parser = argparse.ArgumentParser(
        prog="viva", description="Examine a distilled student model against its teacher.", allow_abbrev=False
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str, *, study: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=function)
        if study:
            sub.add_argument("study", type=Path, metavar="STUDY", help="study file, or a run directory")
            sub.add_argument("--run", type=Path, metavar="DIR", help="run directory (default: runs/NAME)")
        return sub

    demo = command("demo", demo_command, "run the shipped demo study, then open its rating page", study=False)
    demo.add_argument("--run", type=Path, metavar="DIR", help="run directory (default: runs/demo)")
    demo.add_argument("--no-serve", action="store_true", help="stop after the report; no rating page")
    _server_options(demo)

    init = command("init", init_command, "write a commented study file to start from", study=False)
    init.add_argument("path", type=Path, nargs="?", default=Path("study.toml"), help="default: study.toml")

    command("run", run_command, "train, bench, answer, judge and report; finished stages are skipped")
    train = command("train", train_command, "train the study's students")
    train.add_argument("--only", action="append", default=[], metavar="ARM", help="only this student (repeatable)")
    train.add_argument("--plan", action="store_true", help="print what the trainings will cost, and train nothing")
    train.add_argument("--json", action="store_true", help="with --plan: print it as JSON")

    _corpus_options(command("corpus", corpus_command, "let the teacher answer prompts: a corpus to train on"))

    export = command("export", export_command, "write an arm's model as GGUF, ONNX, 8 or 4 bits")
    export.add_argument("--arm", required=True, metavar="ARM", help="the arm whose model is written")
    export.add_argument("--format", required=True, choices=["gguf", "onnx", "int8", "int4"], help="see docs/export.md")
    export.add_argument("--out", type=Path, required=True, metavar="PATH", help="file (.gguf) or folder to write")
    export.add_argument("--dtype", choices=["f16", "f32", "bf16", "q8_0"], help="gguf: kind of the matrices (f16)")

    cli_bench.add_command(command)
    answer = command("answer", answer_command, "let every arm answer every scenario, or import chats")
    answer.add_argument("--import", dest="chats", type=Path, metavar="FILE", help="JSONL of chats to rate instead")
    rate = command("rate", rate_command, "open the blind rating page")
    _server_options(rate)
    cli_owner.add_commands(command)
    add_judge_parser(command)
    cli_plan.add_plan(command)
    cli_rehearse.add_rehearse(command)
    cli_report.add_report(command)
    command("status", status_command, "say which stages are finished and how many ratings there are")
    doctor = command("doctor", doctor_command, "say what works on this machine, or check a run directory", study=False)
    doctor.add_argument("path", type=Path, nargs="?", metavar="RUN", help="check this run directory's study instead")
    return parser


def _corpus_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", default="data:prompts/everyday.jsonl", metavar="FILE", help="JSONL of prompts")
    parser.add_argument("--systems", metavar="FILE", help="JSONL of system messages: one is drawn for each chat")
    parser.add_argument("--held-out", action="store_true", help="only the prompts that no training sees")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="corpus to write or to continue")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="answers per prompt (default: 1)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    parser.add_argument("--temperature", type=float, default=0.6, metavar="T", help="sampling (default: 0.6)")
    parser.add_argument("--top-p", type=float, default=0.9, metavar="P", help="nucleus sampling (default: 0.9)")
    parser.add_argument("--batch", type=int, default=48, metavar="N", help="chats written at once (default: 48)")


def _server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=7860, help="port of the rating page (default: 7860; 0: any free)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--owner-password-file", type=Path, metavar="FILE", help="password of /owner (default: a new one, printed)"
    )


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> None:
        from importlib.metadata import version

        print(f"viva {version('viva-voce')}")
        parser.exit()


def demo_command(args: argparse.Namespace) -> None:
    from harness.resources import data_path
    from harness.stages import open_run

    run = open_run(data_path("studies/demo.toml"), args.run)
    rate = f"viva demo --run {args.run}" if args.run else "viva demo"
    html = _all_stages(run, rate)
    if args.no_serve:
        print(f"report: {html}\nrating page: run {rate} without --no-serve")
        return
    _serve(run, args, rate)


def run_command(args: argparse.Namespace) -> None:
    from harness.models.families import chats

    run = _joined(args)
    rate = f"viva rate {run.dir.root}"
    page = f"\nrating page: {rate}" if chats(run.study.family) else ""
    print(f"report: {_all_stages(run, rate)}{page}")


def _all_stages(run: "Run", rate_command: str) -> Path:
    from harness import stages
    from harness.judging.stage import judge_here
    from harness.prepared_chats import answer

    with _held(run):
        stages.train_stage(run)
        stages.bench_stage(run)
        answer(run)
        judge_here(run)
        return stages.report_stage(run, rate_command)


def train_command(args: argparse.Namespace) -> None:
    from harness.errors import ConfigError
    from harness.stages import open_run, train_stage

    if args.json and not args.plan:
        raise ConfigError("--json does nothing without --plan", hint="add --plan")
    run = open_run(args.study, args.run) if args.plan else _joined(args)
    if args.plan:
        from harness.train.plan_study import plan_run

        plan = plan_run(run, args.only)
        print(plan.json().rstrip() if args.json else plan.table())
        return
    with _held(run):
        train_stage(run, args.only)


def _joined(args: argparse.Namespace) -> "Run":
    """The run of a command that several processes may work at, joined if accelerate launch started them."""
    from harness.stages import open_run
    from harness.train import parallel

    parallel.start()
    return parallel.in_turn(lambda: open_run(args.study, args.run))


def _held(run: "Run") -> AbstractContextManager[None]:
    """The lock of the run directory, which the first of several processes takes for all."""
    from harness.progress import leads

    return run.dir.lock() if leads() else nullcontext()


def export_command(args: argparse.Namespace) -> None:
    from harness.errors import ConfigError
    from harness.models.export import check_export, export
    from harness.models.families import chats
    from harness.progress import bar
    from harness.stages import open_run

    check_export(args.out, args.format, args.dtype)
    run = open_run(args.study, args.run)
    if not chats(run.study.family):
        raise ConfigError(
            f"export knows models that write, and this study's are of family = {run.study.family!r}",
            hint=f"{run.dir.root}/arms holds ordinary Hugging Face directories",
        )
    with bar("export") as progress:
        written = export(run.model_dir(args.arm), args.out, args.format, progress, args.dtype)
    print(f"{args.arm}: {written}")


def answer_command(args: argparse.Namespace) -> None:
    from harness.prepared_chats import answer, import_answers
    from harness.stages import open_run

    run = open_run(args.study, args.run)
    with run.dir.lock():
        if args.chats is None:
            answer(run)
            return
        notes = import_answers(run, args.chats)
    print("\n".join([f"answers: {run.dir.answers}", *(f"note: {note}" for note in notes)]))


def rate_command(args: argparse.Namespace) -> None:
    from harness.stages import open_run

    run = open_run(args.study, args.run)
    _serve(run, args, f"viva rate {run.dir.root}")


def _serve(run: "Run", args: argparse.Namespace, rate: str) -> None:
    """Serve the rating page until Ctrl-C, then bring the report up to date."""
    from harness import stages
    from harness.owner import seal_password
    from harness.rating import prepare, serve

    with run.dir.lock("rate"):
        prepare(run)
        seal_password(run, args.owner_password_file)
        serve(run, args.host, args.port)
    with run.dir.lock():
        html = stages.report_stage(run, rate)
    print(f"report: {html}\nrating page again: {rate}")


def status_command(args: argparse.Namespace) -> None:
    from harness.stages import open_run
    from harness.status import describe

    print(describe(open_run(args.study, args.run)))


def corpus_command(args: argparse.Namespace) -> None:
    from harness.corpus import corpus_stage
    from harness.stages import open_run

    corpus_stage(open_run(args.study, args.run), args)


def init_command(args: argparse.Namespace) -> None:
    from harness.errors import ConfigError
    from harness.records import write_atomic
    from harness.resources import data_path

    if args.path.exists():
        raise ConfigError(f"{args.path} exists already", hint="name another file, or remove it")
    name = "".join(letter if letter.isalnum() or letter in "_.-" else "-" for letter in args.path.stem) or "study"
    text = data_path("studies/demo.toml").read_text(encoding="utf-8")
    args.path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.path, text.replace('name    = "demo"', f'name    = "{name}"', 1))
    print(f"wrote {args.path}; change what you like, then: viva run {args.path}")


def doctor_command(args: argparse.Namespace) -> int:
    from harness.doctor import examine
    from harness.doctor_run import examine_run
    from harness.rundir import RunDir

    return examine() if args.path is None else examine_run(RunDir(args.path))


if __name__ == "__main__":
    sys.exit(main())
