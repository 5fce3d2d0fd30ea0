"""An arm without training: a finished model, its weights rounded to few bits (post-training quantisation)."""

from pathlib import Path
from typing import Any

from harness.config import Student, Study
from harness.models.families import family_of
from harness.models.load import LoadedModel
from harness.models.packed_weights import save_packed
from harness.models.quantize import seal
from harness.models.sources import model_digest
from harness.rundir import RunDir, Stage, now


def quantize_stage(student: Student, start: Path, run: RunDir) -> Stage:
    """The stage of an arm that rounds the model in `start`."""
    assert student.quantize is not None
    config = {"quantize": student.quantize.model_dump(mode="json")}
    return Stage(f"train/{student.name}", run.arm(student.name), config, {"start": model_digest(start)})


def quantize_arm(study: Study, student: Student, start: Path, stage: Stage) -> dict[str, Any]:
    """Leave arms/<arm>/model/ with rounded weights, as a trained arm has it; returns the manifest."""
    assert student.quantize is not None
    started = now()
    stage.folder.mkdir(parents=True, exist_ok=True)
    family = family_of(study.family)
    loaded: LoadedModel = family.load(start)
    coded = seal(loaded.model, student.quantize)
    model_dir = stage.folder / "model"
    table = student.quantize
    card = (
        f"# {student.name}\n\nA model of the study `{study.name}`, made with Viva: the weights of `{student.start}`, "
        f"rounded to {table.bits} bits ({table.scheme}) without training; packed: packed/weights.safetensors\n"
    )
    family.save(loaded, model_dir, card)
    how = {
        "start": student.start,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "quantized": save_packed(loaded.model, coded, table, model_dir),
    }
    return stage.finish([path for path in model_dir.rglob("*") if path.is_file()], started, student=how)
