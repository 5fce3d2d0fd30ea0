"""Costs are the model's own: its parameters, its files, its process."""

import mmap

import pytest

from harness.bench.costs import count_parameters, measure
from harness.errors import RunError


def test_costs_of_a_small_model(model, model_dir):
    # Held while the child runs: a child that counted its parent's memory would show these pages.
    ballast = mmap.mmap(-1, 1 << 30)
    for start in range(0, len(ballast), mmap.PAGESIZE):
        ballast[start] = 1
    found = measure(model_dir, prompt=8, output=4, repeats=3)
    ballast.close()
    assert found["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert found["parameters"] - found["parameters_without_embeddings"] == 400 * 48
    assert found["bytes_on_disk"] == (model_dir / "model.safetensors").stat().st_size
    for name in ("time_to_first_token_seconds", "tokens_per_second"):
        numbers = found[name]
        assert 0 < numbers["low"] <= numbers["median"] <= numbers["high"]
        assert numbers["n"] == 3
    assert 0 < found["memory_before_model_bytes"] < found["peak_memory_bytes"] < 1 << 30
    conditions = found["conditions"]
    assert (conditions["dtype"], conditions["prompt_tokens"], conditions["output_tokens"]) == ("float32", 8, 4)
    assert conditions["threads"] >= 1


def test_a_failing_measurement_says_why(tmp_path):
    with pytest.raises(RunError, match=r"failed: .*is not a model directory"):
        measure(tmp_path)


def test_untied_embeddings_are_both_left_out():
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
