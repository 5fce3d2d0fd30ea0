"""Costs of students of few bits: the packed file is their size, and those of 8 bits multiply whole numbers."""

from pathlib import Path

import pytest
import torch
from conftest import make_model

from harness.bench.cost_worker import bytes_in_memory, bytes_on_disk, run_in_int8
from harness.bench.costs import Settings, measure
from harness.config import Quantize
from harness.models import int8
from harness.models.packed_weights import packed_file, save_packed
from harness.models.quantize import seal


@pytest.fixture
def eight(tmp_path: Path, tokenizer) -> Path:
    model, table = make_model(3), Quantize(bits=8)
    coded = seal(model, table)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    save_packed(model, coded, table, tmp_path)
    return tmp_path


def test_the_packed_file_is_the_size(eight: Path) -> None:
    found = measure(eight, Settings(prompts=(8,), batches=(1,), output=2, rounds=1, threads=1))
    assert found["bytes_on_disk"] == packed_file(eight).stat().st_size
    assert found["bytes_on_disk"] < (eight / "model.safetensors").stat().st_size / 3
    assert found["int8"] == {"layers": [], "smallest": int8.SMALLEST}  # so small a model has no layer worth it
    assert found["tokens_per_second"]["median"] > 0


def test_large_layers_of_eight_bits_multiply_whole_numbers(eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(3)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        before, size = model(ids).logits, bytes_in_memory(model)
        assert run_in_int8(model, eight.parent) == {}
        assert torch.equal(model(ids).logits, before)
        monkeypatch.setattr(int8, "int8", lambda model, old=int8.int8: old(model, smallest=1))
        found = run_in_int8(model, eight)
        assert len(found["int8"]["layers"]) > 7
        assert found["bytes_in_memory"] < size
        after = model(ids).logits
    assert 0 < (after - before).norm() / before.norm() < 0.05


def test_fewer_bits_run_as_they_are(tmp_path: Path) -> None:
    model, table = make_model(3), Quantize(bits=4)
    save_packed(model, seal(model, table), table, tmp_path)
    assert run_in_int8(model, tmp_path) == {}
    assert bytes_on_disk(tmp_path) == packed_file(tmp_path).stat().st_size
