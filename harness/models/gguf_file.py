"""A model directory as one GGUF file, as llama.cpp and its relatives read it: shape, tokenizer and weights.

Written here for the Llama, Mistral and Qwen 2 and 3 architectures with byte-level BPE tokenizers. What llama.cpp would
read as another model (scaled positions of an unknown kind, sliding windows, another way of splitting text) is refused:
its own converter knows more of them.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError
from harness.models.load import LoadedModel
from harness.models.students import head_width
from harness.progress import Report

if TYPE_CHECKING:
    import numpy as np

ARCHITECTURES = {  # what transformers calls it, and llama.cpp
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
CONVERTER = "convert_hf_to_gguf.py"
WAY_OUT = f"put llama.cpp's {CONVERTER} on PATH, it is called for what Viva does not know; or export to onnx"
DTYPES = ("f32", "f16", "bf16", "q8_0")
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {  # how a tokenizer splits text before its merges: llama.cpp knows each way by a name
    WORDS + r"\p{N}" + REST: "qwen2",
    WORDS + r"\p{N}{1,3}" + REST: "llama-bpe",
}


def write_gguf(loaded: LoadedModel, out: Path, dtype: str, name: str, progress: Report) -> None:
    """Write `out`, whole or not at all. Matrices get `dtype` (of DTYPES), all else float32.

    Raises ConfigError for what this writer does not know, see `why_not`.
    """
    import gguf

    problem = why_not(loaded)
    if problem:
        raise ConfigError(f"cannot write {problem} as GGUF", hint=WAY_OUT)
    arch = ARCHITECTURES[type(loaded.model).__name__]
    part = out.with_name(f".{out.name}.part")
    writer = gguf.GGUFWriter(part, arch)
    try:
        writer.add_name(name)
        _add_shape(writer, loaded.model.config, dtype)
        _add_tokenizer(writer, loaded)
        tensors = list(_tensors(loaded.model, arch))
        for done, (tensor_name, array) in enumerate(tensors):
            progress(done, len(tensors), f"converting {tensor_name}")
            _add_tensor(writer, tensor_name, array, dtype)
        progress(len(tensors), len(tensors), "writing")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def why_not(loaded: LoadedModel) -> str | None:
    """The part of a model that this writer cannot put into a GGUF file, in words; None if it can write all of it."""
    config, kind = loaded.model.config, type(loaded.model).__name__
    if kind not in ARCHITECTURES:
        return f"the architecture {kind}"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        return f"{kind} with a sliding window of {window} tokens"
    rope = config.rope_parameters["rope_type"]
    if rope not in ("default", "llama3"):
        return f"{kind} with positions of the kind {rope!r}"
    if config.hidden_act != "silu":
        return f"{kind} with the activation {config.hidden_act!r}"
    tokenizer = getattr(loaded.tokenizer, "backend_tokenizer", None)
    if tokenizer is None:
        return f"the tokenizer {type(loaded.tokenizer).__name__}"
    spec = json.loads(tokenizer.to_str())
    normalizer = (spec["normalizer"] or {}).get("type")
    if spec["model"]["type"] != "BPE" or split_name(spec) is None or normalizer not in (None, "NFC"):
        split = (spec["pre_tokenizer"] or {}).get("type")
        return f"a tokenizer of the kind {spec['model']['type']}, normalised by {normalizer} and split by {split}"
    return None if spec["model"]["merges"] else "a tokenizer without merges"


def split_name(spec: dict[str, Any]) -> str | None:
    """llama.cpp's name for the way in which a tokenizer (its tokenizer.json) splits text; None if it has none."""
    split = spec["pre_tokenizer"] or {}
    steps = split["pretokenizers"] if split.get("type") == "Sequence" else [split]
    if steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    merges_ignored = bool(spec["model"].get("ignore_merges"))
    before, words = steps[:-1], steps[-1].get("use_regex", True)
    name = None
    if not before and words:
        name = "gpt-2"
    elif len(before) == 1 and before[0]["type"] == "Digits" and before[0]["individual_digits"] and words:
        name = "smollm"
    elif len(before) == 1 and before[0]["type"] == "Split" and not words and before[0]["behavior"] == "Isolated":
        name = SPLITS.get(before[0]["pattern"].get("Regex", ""))
    return name if merges_ignored == (name == "llama-bpe") else None


def _add_shape(writer: Any, config: Any, dtype: str) -> None:
    import gguf

    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_width(config))
    writer.add_value_length(head_width(config))
    writer.add_rope_dimension_count(head_width(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(gguf.LlamaFileType[kinds[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: Any, loaded: LoadedModel) -> None:
    import gguf

    tokenizer = loaded.tokenizer
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    added = {entry["id"]: entry for entry in spec["added_tokens"]}
    tokens, kinds = [], []
    for index in range(loaded.model.config.vocab_size):  # the matrix may be larger than the vocabulary
        tokens.append(names.get(index, f"[PAD{index}]"))
        if index not in names:
            kinds.append(gguf.TokenType.UNUSED)
        elif index in added:
            kinds.append(gguf.TokenType.CONTROL if added[index]["special"] else gguf.TokenType.USER_DEFINED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(spec))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["model"]["merges"]]
    writer.add_token_merges(merges)
    for role in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{role}_token_id")
        if index is not None:
            getattr(writer, f"add_{role}_token_id")(index)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(model: Any, arch: str) -> Iterator[tuple[str, "np.ndarray"]]:
    """Names as GGUF has them and float32 arrays."""
    import gguf

    config = model.config
    kind = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}[arch]
    known = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ConfigError(f"GGUF's {arch} has no place for the weights {name}", hint=WAY_OUT)
        array = tensor.detach().float().cpu().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if arch == "llama" and f".{part}." in name:
                array = _interleaved(array, heads)
        yield target, array
    if config.rope_parameters["rope_type"] == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config)


def _interleaved(array: "np.ndarray", heads: int) -> "np.ndarray":
    """llama.cpp's Llama rotates neighbouring pairs, transformers the halves of a head: the rows change places."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _llama3_factors(config: Any) -> "np.ndarray":
    """By how much Llama 3.1 slows each rotation: long waves by `factor`, short ones not, between them in between."""
    import numpy as np

    rope, width = config.rope_parameters, head_width(config)
    wave = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, width, 2) / width)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((rope["original_max_position_embeddings"] / wave - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / rope["factor"] + smooth), dtype=np.float32)


def _add_tensor(writer: Any, name: str, array: "np.ndarray", dtype: str) -> None:
    import gguf
    import numpy as np

    if array.ndim < 2 or dtype == "f32":
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    elif dtype == "f16" or (dtype == "q8_0" and array.shape[-1] % 32):  # blocks of 32 do not fit: half precision
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float16))
    else:
        kind = gguf.GGMLQuantizationType[dtype.upper()]
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
