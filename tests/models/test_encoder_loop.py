"""Encoders in the one training loop: resumed bit by bit, and a control that differs in the teacher alone."""

import json
from pathlib import Path
from typing import Any

import torch

from harness.config import Shape, Train
from harness.models.encoder.family import FAMILY
from harness.models.encoder.masking import Masking, documents_of
from harness.models.encoder.students import make_student
from harness.models.load import LoadedModel
from harness.progress import quiet
from harness.terms import Ce, Hidden, Kd, Terms
from harness.texts import Text
from harness.train.batches import plan_steps
from harness.train.layers import LayerTerms
from harness.train.loop import Place, train
from harness.train.objective import Objective
from tests.models.encoders import counting, tiny_bert

TRIPLE = Terms(kd=Kd(weight=5.0, temperature=2.0), ce=Ce(weight=2.0), hidden=Hidden(distance="cosine"))


class KilledError(Exception):
    pass


def student() -> LoadedModel:
    return make_student(tiny_bert(dropout=0.1), Shape(layers=2), "teacher-layers", 0)[0]


def run(loaded: LoadedModel, folder: Path, terms: Terms, die_after: int | None = None) -> dict[str, torch.Tensor]:
    """Train for six steps, or until killed; returns the weights."""
    folder.mkdir(exist_ok=True)
    teacher = tiny_bert()
    config = Train(
        corpus="-", tokens=700, lr=3e-3, terms=terms, row_tokens=64, accumulate=2, evaluate_every=3, checkpoint_every=2
    )
    texts = [Text(id=str(number), text=text) for number, text in enumerate(counting(60))]
    documents = documents_of(teacher.tokenizer, texts, 64)
    plan = plan_steps(documents[8:], tokens=700, row_tokens=64, accumulate=2, seed=1)
    layers = LayerTerms(loaded.model, teacher.model, terms, None, 0) if "hidden" in terms.weights else None
    objective = Objective(terms, len(teacher.tokenizer), 4, layers=layers, masking=Masking.of(teacher.tokenizer))

    def progress(done: int, total: int, note: str) -> None:
        if done == die_after:
            raise KilledError

    train(
        loaded.model, teacher.model, plan, documents[:8], config, objective, Place(folder, "k"), seed=5,
        end_of_turn=-1, progress=progress if die_after else quiet, family=FAMILY,
    )  # fmt: skip
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def lines(folder: Path) -> list[dict[str, Any]]:
    clocks = ("tokens_per_s", "seconds", "left_s", "memory_mb")
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in clocks} for line in found]


def test_a_killed_training_with_dropout_and_masks_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = run(student(), tmp_path / "whole", TRIPLE)
    try:
        run(student(), tmp_path / "killed", TRIPLE, die_after=5)
    except KilledError:
        pass
    else:
        raise AssertionError("it should have been killed")
    resumed = run(student(), tmp_path / "killed", TRIPLE)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert {"kd", "ce", "hidden"} <= lines(tmp_path / "whole")[-1].keys()


def test_without_the_teachers_terms_a_student_is_its_control_bit_for_bit(tmp_path: Path) -> None:
    ours = run(student(), tmp_path / "student", Terms(kd=Kd(weight=0), ce=Ce()))
    control = run(student(), tmp_path / "control", Terms(ce=Ce()))
    assert all(torch.equal(ours[name], control[name]) for name in ours)
