"""The command `viva bench`: its parser, and what it does with a study or with one model."""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `viva bench`; `command` makes the parser of one (name, function, help)."""
    bench = command("bench", bench_command, "score every arm on suites, perplexity and costs", study=False)
    bench.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="study file, or a run directory")
    bench.add_argument("--run", type=Path, metavar="DIR", help="where results go (default: runs/NAME)")
    bench.add_argument("--only", action="append", default=[], metavar="ARM", help="only this arm (repeatable)")
    bench.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="print what B's scores differ from A's, paired by item; names of arms, or folders of results",
    )
    _model_options(bench.add_argument_group("a model outside a study, into runs/bench/NAME"))


def _model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", metavar="SOURCE", help="score this model: folder, GGUF file, pypi:... or hub id")
    group.add_argument("--suite", action="append", default=[], metavar="NAME", help="suite by name or path (words)")
    group.add_argument("--texts", action="append", default=[], type=Path, metavar="FILE", help="perplexity of texts")
    group.add_argument("--limit", type=int, metavar="N", help="items per suite")
    group.add_argument("--few-shot", type=int, metavar="N", help="solved examples before each item")
    group.add_argument("--data", type=Path, metavar="PATH", help="the suites' data: a file or folder, not the hub")
    group.add_argument("--chat-template", action="store_true", help="put items into the model's chat template")
    group.add_argument("--backend", default="viva", metavar="NAME", help="viva, hf, vllm or local-completions")
    group.add_argument("--backend-arg", action="append", default=[], metavar="KEY=VALUE", help="a setting of it")
    group.add_argument("--trust-code", action="store_true", help="run Python code that local tasks bring")
    group.add_argument("--costs", action="store_true", help="measure time, memory and energy too")


def bench_command(args: argparse.Namespace) -> None:
    from harness.errors import ConfigError

    if (args.model is None) == (args.study is None):
        raise ConfigError("viva bench takes a study, or a model with --model", hint="name one of both")
    if args.model is not None:
        if args.compare or args.only:
            raise ConfigError("--only and --compare belong to a study", hint="leave them out beside --model")
        _bench_model(args)
        return
    names = ("suite", "texts", "limit", "few_shot", "data", "chat_template", "backend_arg", "trust_code", "costs")
    idle = [name for name in names if getattr(args, name)] + ["backend"] * (args.backend != "viva")
    if idle:
        option = idle[0].replace("_", "-")
        raise ConfigError(f"--{option} belongs to --model", hint="a study has its own settings in [bench]")
    from harness.stages import bench_stage, open_run

    if args.compare and args.only:
        raise ConfigError("--only does nothing beside --compare", hint="leave one of them out")
    run = open_run(args.study, args.run)
    if args.compare:
        from reports.terminal import compare

        print(compare(run.dir.root, *args.compare))
        return
    with run.dir.lock():
        bench_stage(run, args.only)


def _bench_model(args: argparse.Namespace) -> None:
    from harness.bench.single import bench_model, chosen_bench

    bench = chosen_bench(
        args.suite,
        args.texts,
        few_shot=args.few_shot,
        chat_template=args.chat_template,
        limit=args.limit,
        data=args.data,
        backend=args.backend,
        backend_args=args.backend_arg,
        trust_code=args.trust_code,
    )
    print(bench_model(args.model, bench, args.run, costs=args.costs))
