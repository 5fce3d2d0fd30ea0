"""Students cut from a teacher, and sources turned into model directories."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM

from harness.config import Shape
from harness.errors import ConfigError, SourceError
from harness.models.importance import block_influence, most_influential
from harness.models.load import LoadedModel, load_config_only, load_model, quiet_libraries
from harness.models.pruning import make_student
from harness.models.sources import model_digest, resolve_model
from harness.models.students import decoder_layers, from_layers, layers_by_rule, scratch, student_config
from harness.progress import quiet
from tests.models.families import FAMILIES, family_model, logits
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer


def test_keeping_every_layer_gives_the_teacher() -> None:
    teacher = tiny_model()
    torch.testing.assert_close(logits(from_layers(teacher, [0, 1, 2, 3]).model), logits(teacher.model))


def test_a_student_has_the_layers_asked_for_and_weights_of_its_own() -> None:
    teacher = tiny_model()
    student = from_layers(teacher, [1, 3])
    for ours, theirs in zip(
        decoder_layers(student.model), [decoder_layers(teacher.model)[i] for i in (1, 3)], strict=True
    ):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.data_ptr() != b.data_ptr()
    assert student.model.config.num_hidden_layers == 2
    assert [layer.self_attn.layer_idx for layer in decoder_layers(student.model)] == [0, 1]  # the cache needs them


def test_scratch_is_the_seed_alone() -> None:
    teacher = tiny_model()
    torch.manual_seed(0)
    one = scratch(teacher, 2, 5)
    torch.manual_seed(1)
    two, other = scratch(teacher, 2, 5), scratch(teacher, 2, 6)
    assert torch.equal(logits(one.model), logits(two.model))
    assert not torch.equal(logits(one.model), logits(other.model))


def test_scratch_needs_the_shape_of_the_teacher_only(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    student = scratch(load_config_only(folder), Shape(layers=2, mlp=20), 5)
    assert torch.equal(logits(student.model), logits(scratch(load_model(folder), Shape(layers=2, mlp=20), 5).model))
    assert student.model.dtype == torch.float32


@pytest.mark.parametrize("name", FAMILIES)
def test_scratch_has_every_width_that_is_named(name: str, tmp_path: Path) -> None:
    student = scratch(family_model(name), Shape(layers=2, hidden=24, heads=2, kv_heads=1, mlp=20), 0)
    layer = decoder_layers(student.model)[1]
    assert layer.self_attn.q_proj.weight.shape == (16, 24)  # a head stays as wide as the teacher's
    assert layer.self_attn.v_proj.weight.shape == (8, 24)
    assert layer.mlp.up_proj.weight.shape == (20, 24)
    student.model.save_pretrained(tmp_path)
    with quiet_libraries():
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(logits(again), logits(student.model), rtol=1e-5, atol=1e-5)
    cache = again(input_ids=torch.arange(2, 12)[None], use_cache=True).past_key_values
    assert [layer.keys.shape for layer in cache.layers] == [(1, 1, 10, 8)] * 2


def test_a_configuration_is_cut_consistently() -> None:
    teacher = family_model("qwen2", layers=4, use_sliding_window=True, sliding_window=16, max_window_layers=2)
    config = student_config(teacher, Shape(layers=3, heads=2))
    assert (config.num_hidden_layers, config.max_window_layers) == (3, 2)
    assert config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)  # the teacher's two to one
    assert (config.hidden_size, config.intermediate_size, config.head_dim) == (32, 48, 8)
    assert student_config(teacher, Shape(layers=1)).max_window_layers == 1
    assert student_config(teacher, Shape(layers=2), keep=[0, 3]).layer_types == ["full_attention", "sliding_attention"]
    assert teacher.model.config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"layers": 4}, "4 layers is larger than its teacher of 3"),
        ({"hidden": 40}, "hidden = 40 is larger than its teacher with 32"),
        ({"heads": 6}, "heads = 6 is larger than its teacher with 4"),
        ({"kv_heads": 3}, "kv_heads = 3 is larger than its teacher with 2"),
        ({"mlp": 49}, "mlp = 49 is larger than its teacher with 48"),
        ({"heads": 3}, "heads = 3 do not divide into groups of 2"),
        ({"heads": 3, "kv_heads": 2}, "heads = 3 is no multiple of kv_heads = 2"),
        ({"hidden": 30}, "LlamaConfig refuses the student's shape: The hidden size .30. is not a multiple"),
    ],
)
@pytest.mark.parametrize("start", ["scratch", "importance"])
def test_a_shape_that_cannot_be(shape: dict[str, int], message: str, start: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make_student(family_model("llama"), Shape(**shape), start, [list(range(9))], 0, quiet)
    assert error.value.hint


def test_widths_that_an_architecture_does_not_name_so() -> None:
    config = OPTConfig(
        vocab_size=258, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4
    )
    teacher = LoadedModel(OPTForCausalLM(config).eval(), tiny_tokenizer())
    with pytest.raises(ConfigError, match=r"shape\.mlp = 8, and OPTConfig has no intermediate_size to replace"):
        student_config(teacher, Shape(mlp=8))
    with pytest.raises(ConfigError, match="OPTConfig has no num_key_value_heads to make narrower"):
        make_student(teacher, Shape(heads=2), "importance", [list(range(9))], 0, quiet)


def test_students_are_made_in_one_place_and_say_how() -> None:
    teacher = family_model("llama")
    rows = [list(range(2, 30))]
    student, how = make_student(teacher, Shape(layers=2), "teacher-layers", [], 0, quiet)
    assert (how["start"], how["layers"], how["layers_kept"]) == ("teacher-layers", 2, [0, 2])
    assert torch.equal(logits(student.model), logits(from_layers(teacher, [0, 2]).model))
    _, how = make_student(teacher, Shape(keep=(1,)), "teacher-layers", [], 0, quiet)
    assert (how["layers"], how["layers_kept"]) == (1, [1])
    student, how = make_student(teacher, Shape(heads=2), "scratch", [], 5, quiet)
    assert torch.equal(logits(student.model), logits(scratch(teacher, Shape(heads=2), 5).model))
    assert (how["heads"], how["kv_heads"], how["hidden"], how["mlp"], how["layers"]) == (2, 1, 32, 48, 3)
    assert how["parameters"] == sum(parameter.numel() for parameter in student.model.parameters())
    _, how = make_student(teacher, Shape(layers=2, mlp=8), "importance", rows, 0, quiet)
    assert how["block_influence"] == block_influence(teacher, rows)
    assert how["importance"].keys() == {"aggregation", "mlp"}


def test_a_layer_that_does_nothing_has_no_influence() -> None:
    teacher = tiny_model()
    with torch.no_grad():
        for name, parameter in decoder_layers(teacher.model)[2].named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    influence = block_influence(teacher, [list(range(2, 40)), list(range(40, 60))])
    assert influence[2] == pytest.approx(0, abs=1e-6)
    assert min(influence[index] for index in (0, 1, 3)) > 0.001
    assert most_influential(influence, 3) == [0, 1, 3]
    cut = from_layers(teacher, [0, 1, 3])
    torch.testing.assert_close(logits(cut.model), logits(teacher.model), rtol=1e-4, atol=1e-4)


def test_influence_is_one_minus_the_cosine_of_what_goes_in_and_out() -> None:
    teacher = tiny_model(layers=1)
    row = list(range(2, 20))
    with torch.inference_mode():
        before = teacher.model.get_input_embeddings()(torch.tensor([row]))
        norm = teacher.model.get_decoder().norm
        seen: list[torch.Tensor] = []
        handle = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        teacher.model(input_ids=torch.tensor([row]))
        handle.remove()
    expected = 1 - torch.nn.functional.cosine_similarity(before, seen[0], dim=-1).mean()
    assert block_influence(teacher, [row])[0] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("layers", "keep", "expected"),
    [
        (4, "even", [0, 2, 5, 7]),
        (1, "even", [0]),
        (8, "even", list(range(8))),
        (3, "first", [0, 1, 2]),
        (3, "last", [5, 6, 7]),
        (2, (1, 6), [1, 6]),
    ],
)
def test_layers_by_rule_or_by_list(layers: int, keep: str | tuple[int, ...], expected: list[int]) -> None:
    assert layers_by_rule(8, layers, keep) == expected


def test_a_listed_layer_that_the_teacher_lacks() -> None:
    with pytest.raises(ConfigError, match="names layer 8, the teacher has 0 to 7"):
        layers_by_rule(8, 2, (0, 8))


def test_a_student_larger_than_its_teacher_is_refused() -> None:
    with pytest.raises(ConfigError, match="9 layers is larger than its teacher of 4"):
        scratch(tiny_model(), 9, 0)


def test_a_folder_is_a_source_and_its_digest_follows_the_weights(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    assert resolve_model("model", tmp_path) == folder
    before = model_digest(folder)
    assert before == model_digest(folder)
    save_tiny(folder, seed=3)
    assert model_digest(folder) != before


@pytest.mark.parametrize("source", ["./nothing", "/nowhere/at/all", "word", "a/b/c"])
def test_a_missing_source_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceError, match="no model at"):
        resolve_model(source, tmp_path)


def test_a_hub_id_without_a_network_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the hub did not give it"):
        resolve_model("nobody/nothing", tmp_path)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no config\.json"):
        load_model(tmp_path)


def test_a_torn_model_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(SourceError, match="cannot load"):
        load_model(folder)


def test_a_gguf_file_that_is_not_one(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(SourceError):
        resolve_model("model.gguf", tmp_path)
    assert not list((cache / "models").glob("*"))
