"""A trained student in the formats of other runtimes: GGUF for llama.cpp, ONNX, and weights of 8 or 4 bits.

Each export is written whole or not at all, and can be read again by a documented call (docs/export.md). The libraries
for ONNX and for low-bit weights are optional.
"""

import contextlib
import importlib.util
import io
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import ConfigError
from harness.models.gguf_file import CONVERTER, DTYPES, WAY_OUT, why_not, write_gguf
from harness.models.load import LoadedModel, load_model, quiet_libraries
from harness.progress import Report
from harness.resources import cache_errors, staging

if TYPE_CHECKING:
    import torch

Format = Literal["gguf", "onnx", "int8", "int4"]
FORMATS: tuple[Format, ...] = ("gguf", "onnx", "int8", "int4")
NEEDS = {"onnx": ("onnx", "onnxscript"), "int8": ("compressed_tensors",), "int4": ("compressed_tensors",)}
GROUPS = (128, 64, 32)  # weights of a row that share a scale in int4: the largest that divides every row


def export(model_dir: Path, out: Path, fmt: Format, progress: Report, dtype: str | None = None) -> Path:
    """Write the model in `model_dir` as `out`: a file that ends in .gguf, or a new folder for the other formats.

    `dtype` is for GGUF: f32, f16 (the default), bf16 or q8_0. Raises ConfigError for an output that is there already,
    a library that is not, and a model that the format or its writer has no room for.
    """
    check_export(out, fmt, dtype)
    progress(0, 0, "loading the model")
    loaded = load_model(model_dir)
    if fmt == "gguf":
        with cache_errors("writing the export", out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
            if why_not(loaded) is None:
                write_gguf(loaded, out, dtype or "f16", out.stem, progress)
            else:
                _convert_elsewhere(loaded, model_dir, out, dtype or "f16", progress)
        return out
    with staging(out, "writing the export") as part:
        if fmt == "onnx":
            _write_onnx(loaded, part, progress)
        else:
            _write_low_bit(loaded, part, 8 if fmt == "int8" else 4, progress)
        loaded.tokenizer.save_pretrained(part)
    return out


def check_export(out: Path, fmt: Format, dtype: str | None = None) -> None:
    """Raise ConfigError for what can be told before the model is loaded."""
    if out.exists():
        raise ConfigError(f"{out} exists already", hint="name another, or remove it")
    if fmt not in FORMATS:
        raise ConfigError(f"there is no format {fmt!r}", hint=f"take one of {', '.join(FORMATS)}")
    if fmt == "gguf" and out.suffix != ".gguf":
        raise ConfigError(f"{out.name} does not end in .gguf", hint=f"name it {out.name}.gguf")
    if dtype is not None and fmt != "gguf":
        raise ConfigError(f"dtype = {dtype!r} does nothing with {fmt}; it belongs to gguf", hint="leave it out")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"there is no dtype {dtype!r}", hint=f"take one of {', '.join(DTYPES)}")
    missing = [name for name in NEEDS.get(fmt, ()) if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(name.replace("_", "-") for name in NEEDS[fmt])
        raise ConfigError(
            f"an export to {fmt} needs {' and '.join(missing)}, which is not installed", hint=f"pip install {names}"
        )


def _convert_elsewhere(loaded: LoadedModel, model_dir: Path, out: Path, dtype: str, progress: Report) -> None:
    """llama.cpp's own converter, for models that Viva's writer does not know."""
    script = shutil.which(CONVERTER)
    if script is None:
        raise ConfigError(f"cannot write {why_not(loaded)} as GGUF", hint=WAY_OUT)
    progress(0, 0, f"{CONVERTER} is at work")
    part = out.with_name(f".{out.name}.part")
    # With our Python: it has the libraries that the script needs.
    command = [sys.executable, script, str(model_dir), "--outfile", str(part), "--outtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not part.is_file():
        part.unlink(missing_ok=True)
        last = (done.stderr.strip() or done.stdout.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise ConfigError(f"{script} could not convert the model: {last}", hint="run it by hand to see more")
    part.replace(out)


def _write_onnx(loaded: LoadedModel, folder: Path, progress: Report) -> None:
    """One graph: tokens, positions and the cache of what came before go in, logits and the longer cache come out."""
    import torch
    from transformers import GenerationConfig
    from transformers.exporters import OnnxConfig, OnnxExporter
    from transformers.exporters.utils import decompose_for_generation

    progress(0, 0, "tracing the model")
    ids_BT = torch.arange(12).reshape(2, 6) % loaded.model.config.vocab_size
    example = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    plain = GenerationConfig(do_sample=False, max_new_tokens=4, min_new_tokens=4)
    try:
        # Of the stages of generation, the one that takes any number of tokens after a cache of any length does it all.
        with _silence():
            parts = decompose_for_generation(loaded.model, example, generation_config=plain, multi_token_decode=True)
            model, given = parts["decode"]
            exported = OnnxExporter().export(model, given, OnnxConfig(dynamic=True))
    except Exception as error:  # the tracer raises many kinds
        raise ConfigError(
            f"transformers cannot write {type(loaded.model).__name__} as ONNX: {error}".splitlines()[0],
            hint="export to gguf or int8, or try another version of transformers",
        ) from error
    progress(0, 0, "writing")
    with _silence():
        exported.save_pretrained(folder)
    loaded.model.generation_config.save_pretrained(folder)


def _write_low_bit(loaded: LoadedModel, folder: Path, bits: int, progress: Report) -> None:
    """Linear layers but the head as whole numbers of so many bits, rounded to the nearest; all else bfloat16."""
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    model = loaded.model
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    ignored = [name for name, module in linear.items() if module is head]
    quantised = {name: module for name, module in linear.items() if module is not head}
    group = None if bits == 8 else _group_size(quantised)
    weights = QuantizationArgs(
        num_bits=bits, type="int", symmetric=True, strategy="group" if group else "channel", group_size=group
    )
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=ignored,
        format="pack-quantized",
    )
    with _silence():
        apply_quantization_config(model, config)
    for done, (name, module) in enumerate(quantised.items()):
        progress(done, len(quantised), f"rounding {name}")
        module.weight_scale.data.copy_(_scales(module.weight.detach(), bits, group))
        module.quantization_status = QuantizationStatus.FROZEN
    progress(len(quantised), len(quantised), "writing")
    with _silence():
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.to(torch.bfloat16).save_pretrained(folder)
        compressor.update_config(str(folder))


def _scales(weight_OI: "torch.Tensor", bits: int, group: int | None) -> "torch.Tensor":
    """The step between two of the 2^bits numbers, for each row [O, 1] or each group of a row [O, I / group]."""
    rows_OGi = weight_OI.unflatten(1, (-1, group or weight_OI.shape[1]))
    step_OG = rows_OGi.abs().amax(-1) / ((2**bits - 1) / 2)
    # They are saved as bfloat16: the weights are rounded to multiples of the step that will be read.
    return step_OG.clamp(min=1e-8).bfloat16().to(weight_OI.dtype)


def _group_size(linear: dict[str, Any]) -> int:
    for size in GROUPS:
        if not any(module.in_features % size for module in linear.values()):
            return size
    name, module = next((name, module) for name, module in linear.items() if module.in_features % GROUPS[-1])
    raise ConfigError(
        f"int4 takes groups of {GROUPS[-1]} weights, and {name} has rows of {module.in_features}",
        hint="export to int8, or train a student whose widths are multiples of 32",
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The libraries' bars, notices and prints off: Viva shows one progress display, its own."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
