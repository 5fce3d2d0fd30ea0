"""The families of models: what the one training loop, the bench and the measure of costs ask of each.

A family is a record of functions. Plan, loop, checkpoints, run directory, bench files, costs and report are the same
for all; a family brings what its models read (documents in rows), one row's forward and backward pass, and its figures
on held-out rows. Nothing heavy is imported before `family_of`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from harness.errors import ConfigError

CAUSAL_LM = "causal-lm"
FAMILIES = {
    CAUSAL_LM: "harness.models.causal_lm",
    "encoder": "harness.models.encoder.family",
    "ranker": "harness.models.ranker.family",
}
"""Modules whose FAMILY is the record, by the name in the study file."""


@dataclass(frozen=True)
class Family:
    """One family of models.

    `terms`: names of the objective's terms that mean something to it; `cached`: whether `train.cache` can serve it.

    What a training is made of (harness/train/stage.py calls these once):
    `load(directory)`: a LoadedModel.
    `prepare(job, progress)`: (untrained student, teacher or None, Material, how it was made); both LoadedModel.
    `objective(job, student, teacher, how, steps, material, precision, progress)`: the Objective, and facts for the
    manifest.
    `end(tokenizer)`: the token that ends a turn, for a family that writes.
    `save(student, target, card)`: an ordinary model directory.

    What the loop asks at each step (harness/train/loop.py):
    `held_out(documents, train, objective)`: the rows on which the student is watched.
    `heads(student, teacher, objective)`: anything the passes below want to have found out once.
    `draw(rows, step, student, objective, seed=, end=)`: the rows as this step sees them (masks, answers written anew);
    it depends on seed, step and row alone, not on who computes it.
    `counts(row, terms)`: how many predictions of a row each active term speaks of.
    `backward(student, teacher, row, objective, totals, heads, device)`: one forward and backward pass; each term's
    part of the step's loss, unweighted.
    `evaluate(student, teacher, rows, objective, heads)`: figures on held-out rows.
    `merit(figures)`: the one that `keep = "best"` and `patience` look at; lower is better.

    What is measured of a finished model:
    `bench(run, arm, stage, progress, shared)`: score an arm, return the files.
    `cost_facts(model, directory, loading, meter)` and `cost_measured(model, prompt, output, batch, meter)`: what it is,
    and one timed use of it (harness/bench/cost_worker.py has those of a model that writes).
    """

    name: str
    terms: frozenset[str]
    load: Callable[..., Any]
    prepare: Callable[..., Any]
    objective: Callable[..., Any]
    held_out: Callable[..., Any]
    heads: Callable[..., Any]
    draw: Callable[..., Any]
    counts: Callable[..., Any]
    backward: Callable[..., Any]
    evaluate: Callable[..., Any]
    merit: Callable[..., float]
    save: Callable[..., None]
    bench: Callable[..., Any]
    cost_facts: Callable[..., dict[str, Any]]
    cost_measured: Callable[..., dict[str, Any]]
    end: Callable[[Any], int] = lambda tokenizer: -1
    cached: bool = False


def family_of(name: str) -> Family:
    """The record of a family. Raises ConfigError for a name that there is none of."""
    if name not in FAMILIES:
        raise ConfigError(f"there is no family {name!r}", hint=f"take one of {', '.join(FAMILIES)}")
    found: Family = import_module(FAMILIES[name]).FAMILY
    return found


def check_terms(family: Family, weights: dict[str, float], arm: str) -> None:
    """Raise ConfigError for a term that means nothing to models of this family."""
    odd = sorted(weights.keys() - family.terms)
    if odd:
        raise ConfigError(
            f"{arm}: the term {odd[0]} means nothing to family = {family.name!r}",
            hint=f"it has {', '.join(sorted(family.terms))}",
        )


def chats(name: str) -> bool:
    """Whether models of a family write, so that they can answer and be rated."""
    return name == CAUSAL_LM
