"""Few-bit weights on disk: codes packed into bytes, ends and points, and all other tensors as they are, in one file.

The file lies in `packed/` of a model directory, where what reads the directory does not take it for weights twice; it
holds all that the directory's own weights hold and gives them back bit by bit (docs/quantize.md).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import Quantize
from harness.errors import SourceError
from harness.models.quantize import Coded, decode, even_points

if TYPE_CHECKING:
    import torch

FORMAT = "viva-packed-1"


def packed_file(directory: Path) -> Path:
    """Where a model directory keeps its packed weights; the file need not be there."""
    return directory / "packed" / "weights.safetensors"


def pack_codes(codes_N: "torch.Tensor", bits: int) -> "torch.Tensor":
    """Codes of 1, 2, 4 or 8 bits as bytes, the first code in the lowest bits of the first byte."""
    import torch

    each = 8 // bits
    filled = torch.cat([codes_N, codes_N.new_zeros(-len(codes_N) % each)]).to(torch.int32).view(-1, each)
    shifts = torch.arange(each, device=codes_N.device, dtype=torch.int32) * bits
    return (filled << shifts).sum(1).to(torch.uint8)


def unpack_codes(bytes_M: "torch.Tensor", bits: int, count: int) -> "torch.Tensor":
    """The first `count` codes [count] of packed bytes."""
    import torch

    shifts = torch.arange(8 // bits, device=bytes_M.device, dtype=torch.int32) * bits
    return ((bytes_M.to(torch.int32)[:, None] >> shifts) & (2**bits - 1)).flatten()[:count].long()


def save_packed(model: Any, coded: Mapping[str, Coded], table: Quantize, directory: Path) -> dict[str, Any]:
    """Write the packed weights of a sealed model (`seal`) into its directory; returns what the manifest should know.

    `bits_per_weight` is over all that the file holds, headers, ends, points and unrounded tensors included.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    known: set[int] = set()
    for name, value in {**dict(model.named_parameters()), **model.state_dict(keep_vars=True)}.items():
        if id(value) in known:
            continue  # tied to one that is there
        known.add(id(value))
        if name not in coded:
            tensors[name] = value.detach().cpu().contiguous()
            continue
        one = coded[name]
        tensors[f"{name}.codes"] = pack_codes(one.codes_N, table.bits).cpu()
        tensors[f"{name}.low"], tensors[f"{name}.high"] = one.low_B.cpu(), one.high_B.cpu()
        if table.method == "points":
            tensors[f"{name}.points"] = one.points_P.cpu().contiguous()
    path = packed_file(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {name: list(one.shape) for name, one in coded.items()}
    facts = {"format": FORMAT, "quantize": table.model_dump_json(), "shapes": json.dumps(shapes)}
    save_file(tensors, path, metadata=facts)
    weights = sum(value.numel() for value in {id(value): value for value in model.parameters()}.values())
    size = path.stat().st_size
    return {
        **table.model_dump(exclude_none=True),
        "matrices": len(coded),
        "bytes": size,
        "float32_bytes": 4 * weights,
        "bits_per_weight": round(8 * size / weights, 3),
    }


def load_packed(path: Path) -> dict[str, "torch.Tensor"]:
    """All tensors of a packed file by name, those of few bits decoded, as the model directory has them.

    Raises SourceError for a file that is damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            if facts.get("format") != FORMAT:
                raise ValueError(f"its format is {facts.get('format')!r}, not {FORMAT!r}")
            table, shapes = Quantize.model_validate_json(facts["quantize"]), json.loads(facts["shapes"])
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        found = {}
        for name, shape in shapes.items():
            found[name] = decode(_coded(held, name, tuple(shape), table))
        return found | held
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise SourceError(f"cannot read packed weights from {path}: {error}", hint="train the arm again") from error


def packed_bits(directory: Path) -> int | None:
    """How many bits the packed weights of a model directory have; None for a directory without."""
    from safetensors import safe_open

    path = packed_file(directory)
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        return Quantize.model_validate_json((file.metadata() or {})["quantize"]).bits


def _coded(held: dict[str, "torch.Tensor"], name: str, shape: tuple[int, ...], table: Quantize) -> Coded:
    """One tensor's codes, taken out of what the file holds."""
    count = 1
    for size in shape:
        count *= size
    codes_N = unpack_codes(held.pop(f"{name}.codes"), table.bits, count)
    low_B, high_B = held.pop(f"{name}.low"), held.pop(f"{name}.high")
    bucket = table.bucket_of(count)
    if len(codes_N) != count or len(low_B) != -(-count // bucket):
        raise ValueError(f"{name} has {len(codes_N)} codes and {len(low_B)} buckets for a shape of {shape}")
    points_P = held.pop(f"{name}.points", even_points(table.bits, low_B))
    return Coded(codes_N, low_B, high_B, points_P, bucket, shape)
