"""Students cut out of the teacher by importance: dead parts cost nothing, live ones go in their order."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Olmo2Config, Olmo2ForCausalLM, StableLmConfig, StableLmForCausalLM

from harness.config import Shape
from harness.errors import ConfigError
from harness.models.importance import measure
from harness.models.load import LoadedModel
from harness.models.pruning import pick_heads, prune
from harness.models.students import decoder_layers
from harness.progress import quiet
from tests.models.families import FAMILIES, family_model, logits
from tests.tiny import tiny_tokenizer

ROWS = [[5 * place % 250 for place in range(2, 42)], list(range(40, 52))]


def pruned(teacher: LoadedModel, **shape: Any) -> tuple[LoadedModel, dict[str, Any]]:
    return prune(teacher, Shape(**shape), ROWS, quiet)


def same(student: LoadedModel, teacher: LoadedModel) -> None:
    """As close as norms can be that transformers computes in float32 whatever the weights are."""
    ours, theirs = logits(student.model), logits(teacher.model)
    assert float((ours - theirs).abs().max()) < 2e-6 * float(theirs.abs().max())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_pruned_is_the_teacher_exactly(name: str, tied: bool) -> None:
    teacher = family_model(name, tied=tied)
    student, how = pruned(teacher, layers=3, hidden=32, heads=4, kv_heads=2, mlp=48)
    assert torch.equal(logits(student.model), logits(teacher.model))
    assert how["layers_kept"] == [0, 1, 2]
    assert how["importance"].keys() == {"aggregation"}  # no table of a width that is whole


def kill_channels(model: Any, dead: list[int]) -> None:
    for layer in decoder_layers(model):
        for part in (layer.mlp.gate_proj, layer.mlp.up_proj):
            part.weight[dead] = 0
            if part.bias is not None:
                part.bias[dead] = 0


def kill_group(model: Any, group: int) -> None:
    for layer in decoder_layers(model):
        layer.self_attn.v_proj.weight[8 * group : 8 * group + 8] = 0
        if layer.self_attn.v_proj.bias is not None:
            layer.self_attn.v_proj.bias[8 * group : 8 * group + 8] = 0


def kill_hidden(model: Any, dead: list[int]) -> None:
    """Nothing writes to these hidden dimensions: what norms put out there is 0 too."""
    model.get_input_embeddings().weight[:, dead] = 0
    for layer in decoder_layers(model):
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            part.weight[dead] = 0
            if part.bias is not None:
                part.bias[dead] = 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_dead_parts_are_found_and_cost_nothing(name: str, tied: bool, tmp_path: Path) -> None:
    teacher = family_model(name, tied=tied)
    channels, hidden = [0, 7, *range(20, 34)], [1, 8, 9, 10, 17, 30, 31, 5]
    with torch.no_grad():
        kill_channels(teacher.model, channels)
        kill_group(teacher.model, 0)
        kill_hidden(teacher.model, hidden)
    student, how = pruned(teacher, hidden=24, heads=2, mlp=32)
    same(student, teacher)
    for table in how["importance"]["mlp"]:
        assert [index for index, value in enumerate(table) if value == 0] == sorted(channels)
    for table in how["importance"]["heads"]:
        assert [value == 0 for value in table] == [True, True, False, False]
    assert [index for index, value in enumerate(how["importance"]["hidden"]) if value == 0] == sorted(hidden)

    config = student.model.config
    assert (config.hidden_size, config.num_attention_heads, config.num_key_value_heads) == (24, 2, 1)
    assert (config.intermediate_size, config.head_dim) == (32, 8)
    student.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(logits(again), logits(student.model), rtol=1e-5, atol=1e-5)
    cache = again(input_ids=torch.arange(2, 12)[None], use_cache=True).past_key_values
    assert cache.layers[0].keys.shape == (1, 1, 10, 8)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_layers_and_widths_are_cut_together(name: str) -> None:
    teacher = family_model(name)
    with torch.no_grad():
        layer = decoder_layers(teacher.model)[1]
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            part.weight.zero_()  # a layer that does nothing
        kill_channels(teacher.model, list(range(16)))
    student, how = pruned(teacher, layers=2, mlp=32)
    assert how["layers_kept"] == [0, 2]
    assert how["block_influence"][1] == pytest.approx(0, abs=1e-12)
    same(student, teacher)
    assert len(how["importance"]["mlp"]) == 3  # of every layer of the teacher
    if name == "gemma2":
        kinds = teacher.model.config.layer_types
        assert student.model.config.layer_types == [kinds[0], kinds[2]]


def test_importance_is_its_formula() -> None:
    """Mean over positions, L2 over rows, of what the plain formulas give on recorded activations."""
    teacher = family_model("llama", layers=1)
    layer = decoder_layers(teacher.model)[0]
    seen: dict[str, list[torch.Tensor]] = {"heads": [], "mlp": [], "one": [], "two": [], "last": []}
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, x: seen["heads"].append(x[0][0])),
        layer.mlp.down_proj.register_forward_pre_hook(lambda m, x: seen["mlp"].append(x[0][0])),
        layer.input_layernorm.register_forward_hook(lambda m, x, y: seen["one"].append(y[0])),
        layer.post_attention_layernorm.register_forward_hook(lambda m, x, y: seen["two"].append(y[0])),
        teacher.model.get_decoder().norm.register_forward_hook(lambda m, x, y: seen["last"].append(y[0])),
    ]
    with torch.inference_mode():
        for row in ROWS:
            teacher.model(input_ids=torch.tensor([row]))
    for handle in handles:
        handle.remove()

    def over_rows(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([value.mean(0) for value in values]).norm(dim=0)

    def head_norms(outputs_TD: torch.Tensor) -> torch.Tensor:
        return torch.stack([outputs_TD[:, start : start + 8].norm(dim=1) for start in range(0, 32, 8)], dim=1)

    measured = measure(teacher, ROWS)
    torch.testing.assert_close(measured.heads[0], over_rows([head_norms(value) for value in seen["heads"]]))
    torch.testing.assert_close(measured.mlp[0], over_rows([value.abs() for value in seen["mlp"]]))
    hidden = sum(over_rows([value.abs() for value in seen[name]]) for name in ("one", "two", "last"))
    torch.testing.assert_close(sum(measured.hidden.values()), hidden)
    _, how = pruned(teacher, hidden=28)
    assert how["importance"]["hidden"] == pytest.approx(hidden.tolist(), rel=1e-5)


def test_channels_and_heads_go_in_the_order_of_their_size() -> None:
    teacher = family_model("llama", layers=1, num_key_value_heads=4)
    layer = decoder_layers(teacher.model)[0]
    with torch.no_grad():
        layer.mlp.up_proj.weight.mul_(torch.linspace(0, 100, 48, dtype=torch.float64)[:, None] ** 2)
        for place, size in enumerate((3.0, 1e-3, 50.0, 1e-2)):
            layer.self_attn.v_proj.weight[8 * place : 8 * place + 8].mul_(size)
    student, how = pruned(teacher, heads=2, mlp=12)
    cut = decoder_layers(student.model)[0]
    best = sorted(range(48), key=lambda index: -how["importance"]["mlp"][0][index])[:12]
    assert min(best) > 24  # the scale outweighs what is random
    assert torch.equal(cut.mlp.up_proj.weight, layer.mlp.up_proj.weight[sorted(best)])
    assert torch.equal(cut.mlp.down_proj.weight, layer.mlp.down_proj.weight[:, sorted(best)])
    kept = [*range(8), *range(16, 24)]
    assert torch.equal(cut.self_attn.k_proj.weight, layer.self_attn.k_proj.weight[kept])
    assert torch.equal(cut.self_attn.o_proj.weight, layer.self_attn.o_proj.weight[:, kept])


def test_groups_go_whole_and_then_the_best_heads_in_them() -> None:
    importance = [1.0, 2.0, 9.0, 0.0, 4.0, 4.0, 0.0, 8.0, 0.0]  # three groups of three: 12, 8, 8
    assert pick_heads(importance, 3, 6, 2) == ([0, 1], [0, 1, 2, 3, 4, 5])
    assert pick_heads(importance, 3, 2, 2) == ([0, 1], [2, 4])
    assert pick_heads(importance, 3, 2, 1) == ([0], [1, 2])


def test_norms_keep_their_scale_when_live_dimensions_go() -> None:
    """The share of energy that goes with the pruned dimensions is folded in: norms put out what they did."""
    teacher = family_model("llama", layers=1)
    student, how = pruned(teacher, hidden=24)
    kept = sorted(sorted(range(32), key=lambda index: (-how["importance"]["hidden"][index], index))[:24])
    ids = torch.tensor([ROWS[0]])
    with torch.inference_mode():
        before = decoder_layers(teacher.model)[0].input_layernorm(teacher.model.get_input_embeddings()(ids))[..., kept]
        after = decoder_layers(student.model)[0].input_layernorm(student.model.get_input_embeddings()(ids))
    assert float(after.norm() / before.norm()) == pytest.approx(1, abs=0.02)
    plain = (24 / 32) ** 0.5  # about what it would be without the factor, for dimensions of equal energy
    assert abs(plain - 1) > 0.1


def test_heads_that_cannot_be_cut() -> None:
    with pytest.raises(ConfigError, match="put 4 query heads on a kv head, and the teacher has 2"):
        pruned(family_model("llama"), heads=4, kv_heads=1)


@pytest.mark.parametrize(
    ("config", "model_class", "found"),
    [
        (Olmo2Config, Olmo2ForCausalLM, "self_attn.q_norm.weight"),  # one norm over all heads
        (StableLmConfig, StableLmForCausalLM, "layernorm.bias"),
    ],
)
def test_an_architecture_that_is_not_known(config: Any, model_class: Any, found: str) -> None:
    tokenizer = tiny_tokenizer()
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings |= {"num_key_value_heads": 4, "pad_token_id": None, "vocab_size": len(tokenizer)}
    model = model_class(config(**settings, bos_token_id=0, eos_token_id=1)).eval()
    with pytest.raises(ConfigError, match=found) as error:
        pruned(LoadedModel(model, tokenizer), mlp=32)
    assert error.value.hint is not None
    assert 'start = "scratch"' in error.value.hint
    student, _ = pruned(LoadedModel(model, tokenizer), layers=1)  # layers alone go for any
    assert len(decoder_layers(student.model)) == 1


def test_without_text_nothing_can_be_measured() -> None:
    with pytest.raises(ConfigError, match="no text to measure importance on"):
        prune(family_model("llama"), Shape(mlp=32), [[]], quiet)
