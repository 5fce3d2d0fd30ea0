"""Costs are the model's own: its parameters, files and process; arms take turns, and one that dies stops nobody."""

import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from conftest import make_model

from harness.bench.cost_memory import SHARE, groups, loaded_bytes
from harness.bench.cost_worker import count_parameters, flops_per_token
from harness.bench.costs import Settings, bench_costs, measure, measure_together, spread
from harness.bench.wire import Wire
from harness.errors import RunError

SMALL = Settings(prompts=(8, 253), batches=(1, 2), output=4, rounds=3, threads=1)


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("one-layer")
    make_model(3, layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def together(model_dir: Path, one_layer: Path):
    """A teacher and a student measured in turns, and what was said meanwhile."""
    # Held while the children run: a child that counted its parent's memory would show these pages.
    ballast = mmap.mmap(-1, 1 << 30)
    for start in range(0, len(ballast), mmap.PAGESIZE):
        ballast[start] = 1
    notes: list[tuple[int, int, str]] = []
    found = measure_together(
        {"big": model_dir, "small": one_layer}, SMALL, lambda done, total, note: notes.append((done, total, note))
    )
    ballast.close()
    return found, notes


def test_what_the_model_is(together, model, model_dir: Path) -> None:
    big = together[0]["big"]
    assert big["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert big["parameters"] - big["parameters_without_embeddings"] == 400 * 48
    assert big["bytes_on_disk"] == (model_dir / "model.safetensors").stat().st_size
    assert 4 * big["parameters"] <= big["bytes_in_memory"] < 4 * big["parameters"] + 1000
    assert 0 < big["memory_before_model_bytes"] < big["peak_memory_bytes"] < 1 << 30
    assert big["window"] == 256


def test_every_cell_has_its_spread(together) -> None:
    for costs in together[0].values():
        cells = {(cell["prompt"], cell["batch"]): cell for cell in costs["cells"]}
        assert set(cells) == {(8, 1), (8, 2), (253, 1), (253, 2)}
        for batch in (1, 2):
            assert "256 tokens" in cells[253, batch].pop("left_out")
            one = cells[8, batch]
            for name in ("time_to_first_token_seconds", "tokens_per_second", "joules_per_1000_tokens"):
                n = one[name]
                assert n["low"] <= n["lower_quartile"] <= n["median"] <= n["upper_quartile"] <= n["high"]
                assert n["n"] == 3
                assert n["low"] > 0
        assert costs["tokens_per_second"] == cells[8, 1]["tokens_per_second"]
        conditions = costs["conditions"]
        assert (conditions["dtype"], conditions["threads"], conditions["prompt_tokens"]) == ("float32", 1, 8)


def test_arms_take_turns(together) -> None:
    found, notes = together
    timed = [note.split(",")[0] for _, _, note in notes if "round" in note and "prompt 8, batch 1" in note]
    assert timed == ["big", "small", "small", "big", "big", "small"]
    dones = [done for done, _, _ in notes]
    assert dones == sorted(dones)
    assert notes[-1][0] == notes[-1][1]
    small = found["small"]
    assert small["teacher_rounds"] == found["big"]["rounds"]
    assert [one["round"] for one in small["rounds"]] == [0, 1, 2] * 2
    assert "teacher_rounds" not in found["big"]
    assert small["conditions"]["measured_with"] == ["big"]


def test_energy_says_what_it_is(together) -> None:
    big = together[0]["big"]
    assert big["energy_source"]["kind"] in ("measured", "estimated")
    if big["energy_source"]["how"].startswith("assumed"):
        for one in big["rounds"]:
            assert one["joules"] >= 5.0 * one["first_seconds"]


def test_an_arm_that_cannot_be_measured_is_measured_alone_next_time(
    tmp_path: Path, model_dir: Path, one_layer: Path
) -> None:
    settings = Settings(prompts=(8,), batches=(1,), output=3, rounds=2, threads=1)
    models = {"teacher": model_dir, "student": one_layer, "broken": tmp_path / "gone"}
    (tmp_path / "gone").mkdir()
    folders = {arm: tmp_path / "bench" / arm for arm in models}
    digests = {arm: arm for arm in models}

    def bench(**others: str) -> list[str]:
        notes: list[str] = []
        bench_costs(folders, models, digests | others, settings, lambda done, total, note: notes.append(note))
        return notes

    with pytest.raises(RunError, match=r"broken: .*is not a model directory") as caught:
        bench()
    assert "measure only these" in str(caught.value.hint)
    costs = {arm: json.loads((folder / "costs.json").read_text()) for arm, folder in folders.items()}
    assert "not a model directory" in costs["broken"]["error"]
    assert costs["student"]["tokens_per_second"]["n"] == 2
    assert costs["student"]["hardware"]["cores"] >= 1
    before = {arm: (folders[arm] / "costs.json").read_bytes() for arm in ("teacher", "student")}
    shutil.copytree(one_layer, tmp_path / "gone", dirs_exist_ok=True)
    notes = bench()
    assert any(note.startswith("teacher") for note in notes)
    assert not any("student" in note for note in notes)
    assert {arm: (folders[arm] / "costs.json").read_bytes() for arm in before} == before
    mended = json.loads((folders["broken"] / "costs.json").read_text())
    assert len(mended["teacher_rounds"]) == 2
    assert bench() == []


def test_an_arm_whose_process_dies_does_not_stop_the_other(model_dir: Path, one_layer: Path) -> None:
    def kill(done: int, total: int, note: str) -> None:
        if note == "victim, prompt 8, batch 1, round 2":
            for child in psutil.Process().children():
                if str(one_layer) in child.cmdline():
                    os.kill(child.pid, 9)

    settings = Settings(prompts=(8,), batches=(1,), output=3, rounds=3, threads=1)
    found = measure_together({"teacher": model_dir, "victim": one_layer}, settings, kill)
    assert "killed by signal 9" in found["victim"]["error"]
    assert found["victim"]["parameters"] > 0
    assert "tokens_per_second" not in found["victim"]
    assert found["teacher"]["tokens_per_second"]["n"] == 3
    assert not psutil.Process().children()


def test_a_failing_measurement_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"failed: .*is not a model directory"):
        measure(tmp_path)


def wire(code: str, words: object, timeout: float = 20) -> Wire:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words
    )
    return Wire(process, words, timeout)


def test_a_process_that_says_nothing_or_dies() -> None:
    with tempfile.TemporaryFile() as words:
        silent = wire("import time; time.sleep(60)", words, timeout=0.2)
        with pytest.raises(RunError, match="no answer within"):
            silent.ask({})
        silent.close()
        assert silent.process.poll() is not None
    with tempfile.TemporaryFile() as words:
        dying = wire("import sys; input(); print('first', file=sys.stderr); sys.exit('the last words')", words)
        with pytest.raises(RunError, match=r"^the last words"):
            dying.ask({})
        dying.close()
    with tempfile.TemporaryFile() as words:
        echo = wire("while True: print(input(), flush=True)", words)
        assert [echo.ask({"n": n}) for n in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]
        echo.close()


def test_models_that_do_not_fit_together_are_measured_in_groups(model_dir: Path, one_layer: Path) -> None:
    models = {"t": model_dir, "a": one_layer, "b": one_layer, "c": one_layer}
    need = {name: loaded_bytes(path) for name, path in models.items()}
    assert need["t"] - need["a"] == 4 * (48 * 48 * 2 + 2 * 48 * 24 + 3 * 48 * 96 + 2 * 48)  # one layer, in float32
    room = (need["t"] + 2.5 * need["a"]) / SHARE
    assert groups("t", ["a", "b", "c"], models, room) == [["t", "a", "b"], ["t", "c"]]
    assert groups("t", ["a", "b", "c"], models, 0.0) == [["t", "a"], ["t", "b"], ["t", "c"]]
    assert groups("t", [], models) == [["t"]]


def test_spread_by_hand() -> None:
    found = spread([4.0, 1.0, 2.0, 3.0, 5.0])
    assert found == {"median": 3, "lower_quartile": 2, "upper_quartile": 4, "low": 1, "high": 5, "n": 5}
    assert spread([2.0])["upper_quartile"] == 2.0


def test_operations_of_a_token() -> None:
    model = make_model(1)
    layer = 48 * 48 * 2 + 2 * 48 * 24 + 3 * 48 * 96
    assert flops_per_token(model, 100) == 2 * (2 * layer + 400 * 48) + 4 * 2 * 48 * 100


def test_untied_embeddings_are_both_left_out() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    total, inner = count_parameters(LlamaForCausalLM(config))
    assert total - inner == 2 * 50 * 8
