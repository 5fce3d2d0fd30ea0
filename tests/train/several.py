"""What the processes of test_parallel.py run: trainings of a tiny student, whose results are left in files.

Run as `accelerate launch ... -m tests.train.several FOLDER CASE...`; `run_case` alone is the run of one process.
"""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config import Lora, Train
from harness.models.load import quiet_libraries
from harness.models.lora import adapt, merge
from harness.models.students import from_layers
from harness.terms import Attention, Ce, Hidden, Kd, OnPolicy, Terms, Uld
from harness.train import parallel
from harness.train.batches import pack, to_document
from harness.train.cross import pair_document, shared_tokens
from harness.train.layers import LayerTerms
from harness.train.loop import Place, train
from harness.train.objective import Objective
from tests.tiny import tiny_chats, tiny_model

KD_CE = Terms(kd=Kd(), ce=Ce(weight=0.5))
STEPS = 6
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "uneven": {"rows": 3},  # of two processes, one goes without a row
    "few": {"rows": 1},
    "bfloat16": {"precision": "bfloat16"},
    "recomputed": {"recompute": True},
    "best": {"keep": "best"},
    "layers": {"terms": Terms(kd=Kd(), hidden=Hidden(), attention=Attention())},
    "attention alone": {"terms": Terms(attention=Attention(kind="relations"))},
    "lora": {"lora": Lora(rank=2)},
    "uld": {"terms": Terms(uld=Uld())},
    "on policy": {"terms": Terms(ce=Ce(), on_policy=OnPolicy(max_tokens=5, fraction=0.5)), "rows": 3},
}


class StoppedError(Exception):
    """A training that was killed."""


def run_case(
    name: str, folder: Path, *, stop_after: int | None = None, at_step: Callable[[int], None] = lambda done: None
) -> None:
    """Train the case's student and leave metrics.jsonl and weights.safetensors in `folder`.

    With `stop_after` it is left with a checkpoint after that step, as a killed run is, and continues when called
    again. `at_step` is called after each step with its number.
    """
    case = {
        "terms": KD_CE,
        "rows": 4,
        "precision": "float32",
        "recompute": False,
        "keep": "last",
        "lora": None,
    } | CASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])
    for parameter in teacher.model.parameters():
        parameter.requires_grad_(False)
    documents = [to_document(teacher.tokenizer, chat, None) for chat in tiny_chats()]
    shared = None
    if case["terms"].uld:
        documents = [pair_document(chat, student.tokenizer, teacher.tokenizer, None, True) for chat in tiny_chats()]
        shared = shared_tokens(student.tokenizer, teacher.tokenizer)
    if case["lora"]:
        adapt(student.model, case["lora"])
    rows = pack(documents, 200)
    count = case["rows"]
    steps = [(rows * STEPS)[index * count : (index + 1) * count] for index in range(STEPS)]
    config = Train(
        corpus="-", tokens=1, terms=case["terms"], lr=3e-3, row_tokens=200, accumulate=count, evaluate_every=3,
        evaluate_chats=4, checkpoint_every=2, keep=case["keep"],
    )  # fmt: skip
    layers = None
    if case["terms"].hidden or case["terms"].attention:
        layers = LayerTerms(student.model, teacher.model, case["terms"], None, 3)
    if case["recompute"]:
        student.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def progress(done: int, total: int, note: str) -> None:
        at_step(done)
        if done == stop_after:
            raise StoppedError

    try:
        train(
            student.model,
            teacher.model,
            steps,
            documents[:4],
            config,
            Objective(case["terms"], len(teacher.tokenizer), 64, case["precision"], layers, shared=shared),
            Place(folder, name),
            seed=5,
            end_of_turn=teacher.tokenizer.eos_token_id,
            progress=progress,
        )
    except StoppedError:
        return
    parallel.unsplit(student.model)
    if parallel.main():
        if case["lora"]:
            merge(student.model)
        with quiet_libraries():
            student.model.save_pretrained(folder / "model")


def fail_in_the_second(done: int) -> None:
    """What happens to one process only."""
    if done == 2 and parallel.rank() == 1:
        raise RuntimeError("the second process fell over")


def main(folder: Path, cases: list[str]) -> None:
    """Each case is the name of one, alone or with what is to happen to it: 'plain:3', 'plain:again', 'plain:fails'."""
    parallel.start()
    for case in cases:
        name, _, how = case.partition(":")
        if how == "fails":
            run_case(name, folder / name, at_step=fail_in_the_second)
        elif how == "again":
            run_case(name, folder / f"{name} stopped")
        elif how:
            run_case(name, folder / f"{name} left", stop_after=int(how))
        else:
            run_case(name, folder / name)
    parallel.stop()
    (folder / "alone").write_text(f"{parallel.world()} {'RANK' in os.environ}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(Path(sys.argv[1]), sys.argv[2:])
