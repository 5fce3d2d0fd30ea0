"""Low-rank adapters: an adapted model is a model, and a merged one is an ordinary model with its logits."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from harness.config import Lora
from harness.errors import ConfigError
from harness.models.attention import packed
from harness.models.load import quiet_libraries
from harness.models.lora import adapt, merge, target_names
from harness.models.students import decoder_layers
from tests.models.families import FAMILIES, family_model, logits

pytest.importorskip("peft")


def trained(model: Any) -> None:
    """Adapters as training leaves them: no half of them is 0."""
    with torch.no_grad():
        for index, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.1)


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_is_an_ordinary_model_with_the_adapted_logits(name: str, tmp_path: Path) -> None:
    model = family_model(name).model
    kind, names, before = type(model), set(model.state_dict()), logits(model)
    adapted = adapt(model, Lora(rank=2))
    assert type(adapted) is kind
    assert torch.equal(logits(adapted), before)  # nothing has been learnt yet
    trained(adapted)
    wanted = logits(adapted)
    assert not torch.allclose(wanted, before, atol=1e-3)
    plain = merge(adapted)
    torch.testing.assert_close(logits(plain), wanted, rtol=1e-5, atol=1e-5)
    assert type(plain) is kind
    assert set(plain.state_dict()) == names
    assert all(parameter.requires_grad for parameter in plain.parameters())
    with quiet_libraries():
        plain.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert not list(tmp_path.glob("adapter*"))
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-4)


def test_a_merged_weight_is_its_formula() -> None:
    model = family_model("llama").model
    weight = decoder_layers(model)[0].self_attn.q_proj.weight.detach().clone()
    adapted = adapt(model, Lora(rank=3, alpha=12.0))
    trained(adapted)
    layer = decoder_layers(adapted)[0].self_attn.q_proj
    a_rD, b_Hr = (getattr(layer, f"lora_{half}")["default"].weight.detach().clone() for half in "AB")
    assert a_rD.shape == (3, 32)
    merged = decoder_layers(merge(adapted))[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, weight + 12.0 / 3 * b_Hr @ a_rD)


def test_all_linear_layers_but_the_head_learn_and_nothing_else() -> None:
    adapted = adapt(family_model("llama", tied=False).model, Lora(rank=2))
    learnt = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in learnt)
    assert len(learnt) == 3 * 7 * 2
    assert not any("lm_head" in name for name in learnt)
    trained(adapted)
    logits_TV = adapted(input_ids=torch.arange(2, 20)[None]).logits[0]
    logits_TV.log_softmax(-1)[:, 5].sum().backward()
    assert {name for name, parameter in adapted.named_parameters() if parameter.grad is not None} == learnt


def test_targets_are_named_as_in_the_model() -> None:
    model = family_model("llama", tied=False).model
    assert target_names(model, Lora(targets=("q_proj",))) == [f"model.layers.{i}.self_attn.q_proj" for i in range(3)]
    assert target_names(model, Lora(targets=("layers.1.mlp.up_proj", "lm_head"))) == [
        "model.layers.1.mlp.up_proj",
        "lm_head",
    ]
    adapted = adapt(model, Lora(targets=("layers.1.mlp.up_proj", "lm_head")))
    assert sum(parameter.requires_grad for parameter in adapted.parameters()) == 4
    trained(adapted)
    wanted = logits(adapted)
    torch.testing.assert_close(logits(merge(adapted)), wanted, rtol=1e-5, atol=1e-5)


def test_a_target_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="names 'query', and LlamaForCausalLM has no such linear layer") as error:
        adapt(family_model("llama").model, Lora(targets=("q_proj", "query")))
    assert error.value.hint is not None
    assert "k_proj" in error.value.hint


def test_a_head_that_shares_its_weights_is_no_target() -> None:
    with pytest.raises(ConfigError, match="'lm_head', whose weights are the embedding's too"):
        adapt(family_model("llama").model, Lora(targets=("lm_head",)))


def test_without_peft_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="needs the library peft") as error:
        adapt(family_model("llama").model, Lora())
    assert error.value.hint == "pip install peft"


def test_adapters_are_the_seed_alone() -> None:
    def first(seed: int) -> torch.Tensor:
        layer = decoder_layers(adapt(family_model("llama").model, Lora(), seed))[0]
        return layer.mlp.up_proj.lora_A["default"].weight

    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = first(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first(5), one)
    assert not torch.equal(first(6), one)


def test_dropout_works_while_training_only() -> None:
    adapted = adapt(family_model("llama").model, Lora(dropout=0.5))
    trained(adapted)
    assert not adapted.training  # as it came
    assert torch.equal(logits(adapted), logits(adapted))
    adapted.train()
    torch.manual_seed(0)
    assert not torch.equal(logits(adapted), logits(adapted))


def test_packed_rows_and_the_decoder_reach_the_adapters() -> None:
    adapted = adapt(family_model("qwen3").model, Lora(rank=2))
    trained(adapted)
    first, second = torch.arange(2, 20), torch.arange(30, 41)
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))])
    with torch.inference_mode(), packed(adapted, [len(first), len(second)]):
        row = torch.cat([first, second])[None]
        both = adapted.get_decoder()(input_ids=row, position_ids=positions[None], use_cache=False).last_hidden_state[0]
        both = adapted.get_output_embeddings()(both)
    for ids, found in ((first, both[: len(first)]), (second, both[len(first) :])):
        with torch.inference_mode():
            torch.testing.assert_close(found, adapted(input_ids=ids[None]).logits[0], rtol=1e-5, atol=1e-5)


def test_gradient_checkpointing_reaches_the_adapters() -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        adapted = adapt(family_model("llama").model, Lora(rank=2))
        trained(adapted)
        if checkpointing:
            adapted.activation_checkpointing_enable()
        adapted.train()
        adapted(input_ids=torch.arange(2, 20)[None], use_cache=False).logits[0, :, 5].sum().backward()
        return [parameter.grad for parameter in adapted.parameters() if parameter.requires_grad]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_layers_of_gpt2_are_linear_too() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1))
    adapted = adapt(model.eval(), Lora(rank=2))
    assert sum(parameter.requires_grad for parameter in adapted.parameters()) == 2 * 4 * 2
    trained(adapted)
    wanted = logits(adapted)
    torch.testing.assert_close(logits(merge(adapted)), wanted, rtol=1e-4, atol=1e-4)
