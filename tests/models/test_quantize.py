"""Weights of few bits: rounding, learnt points, packed files and the products of whole numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from harness.config import Quantize
from harness.errors import ConfigError, SourceError
from harness.models.int8 import Int8Linear, int8
from harness.models.packed_weights import load_packed, pack_codes, packed_bits, packed_file, save_packed, unpack_codes
from harness.models.quantize import HIGH, LOW, POINTS, encode, project, quantized_weights, seal, with_points
from harness.train.quantized import points_slope
from tests.tiny import tiny_model

BITS = st.sampled_from([2, 4, 8])
SCHEMES: dict[str, dict[str, Any]] = {"uniform": {"scheme": "uniform"}, "bucketed": {"bucket": 16}}


def table(bits: int, scheme: str = "bucketed", **more: Any) -> Quantize:
    return Quantize(bits=bits, **SCHEMES[scheme], **more)  # type: ignore[arg-type]


def plain(weights: list[float], bits: int, bucket: int) -> list[float]:
    """Polino et al., section 2, by hand: scale to [0, 1], round to k / (2^b - 1), scale back."""
    found = []
    for start in range(0, len(weights), bucket):
        part = weights[start : start + bucket]
        low, span = min(part), max(part) - min(part)
        levels = 2**bits - 1
        found += [low + span * round((value - low) / span * levels) / levels if span else low for value in part]
    return found


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_rounding_is_the_published_formula(bits: int, scheme: str) -> None:
    weight = torch.randn(7, 13, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    wanted = plain(weight.flatten().tolist(), bits, 16 if scheme == "bucketed" else weight.numel())
    found = project(weight, table(bits, scheme))
    torch.testing.assert_close(found.flatten(), torch.tensor(wanted, dtype=torch.float64))
    assert found.unique().numel() <= 2**bits * (6 if scheme == "bucketed" else 1)


@given(BITS, st.sampled_from(list(SCHEMES)), st.integers(1, 300), st.integers(0, 2**32))
def test_what_is_rounded_stays_as_it_is(bits: int, scheme: str, count: int, seed: int) -> None:
    weight = torch.randn(1, count, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 9 - 4)
    once = project(weight, table(bits, scheme))
    assert torch.equal(project(once, table(bits, scheme)), once)
    assert (once - weight).abs().max() <= (weight.max() - weight.min()) / (2**bits - 1) / 2 * 1.0001
    assert once.min() == weight.min()
    assert once.max() == weight.max()


def test_a_bucket_of_equal_weights_comes_back() -> None:
    assert torch.equal(project(torch.full((4, 16), 0.3), table(2)), torch.full((4, 16), 0.3))


@pytest.mark.parametrize("bits", [2, 4])
def test_bucketed_is_nearer_than_uniform(bits: int) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    far, near = (((project(weight, table(bits, scheme)) - weight) ** 2).mean() for scheme in SCHEMES)
    assert near < 0.7 * far


@given(BITS, st.integers(0, 100), st.randoms(use_true_random=False))
def test_codes_survive_packing(bits: int, count: int, random: Any) -> None:
    codes = torch.tensor([random.randrange(2**bits) for _ in range(count)], dtype=torch.long)
    packed = pack_codes(codes, bits)
    assert packed.numel() == -(-count * bits // 8)
    assert torch.equal(unpack_codes(packed, bits, count), codes)


def test_the_first_code_is_in_the_lowest_bits() -> None:
    assert pack_codes(torch.tensor([1, 2, 3, 0, 2]), 2).tolist() == [0b00_11_10_01, 0b10]


def learnt_points(weight: torch.Tensor, points: torch.Tensor, wanted: Quantize) -> dict[str, torch.Tensor]:
    coded = encode(weight, wanted)
    return {POINTS: points, LOW: coded.low_B, HIGH: coded.high_B}


def test_learnt_points_have_the_published_gradient() -> None:
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 20, generator=random, dtype=torch.float64)
    points = torch.tensor([0.1, 0.9, 0.4, 0.62], dtype=torch.float64, requires_grad=True)  # in no order
    slope = torch.randn(4, 20, generator=random, dtype=torch.float64)
    wanted = table(2, method="points")
    found = points_slope(weight, learnt_points(weight, points, wanted), wanted, slope)
    by_hand = [0.0] * 4
    flat, slopes, places = weight.flatten().tolist(), slope.flatten().tolist(), points.detach().tolist()
    for start in range(0, len(flat), 16):
        part = flat[start : start + 16]
        low, span = min(part), max(part) - min(part)
        for value, its in zip(part, slopes[start : start + 16], strict=True):
            nearest = min(range(4), key=lambda index: abs(places[index] - (value - low) / span))
            by_hand[nearest] += its * span
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64))

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, points: torch.Tensor) -> torch.Tensor:
            from harness.models.quantize import decode

            ctx.save_for_backward(points)
            return decode(encode(weight, wanted, learnt_points(weight, points, wanted)))

        @staticmethod
        def backward(ctx: Any, *slopes: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            (points,) = ctx.saved_tensors
            return points_slope(weight, learnt_points(weight, points, wanted), wanted, slopes[0])

    assert torch.autograd.gradcheck(Rounded.apply, (points,))


@settings(max_examples=12, deadline=None)
@given(BITS, st.sampled_from(list(SCHEMES)), st.booleans(), st.booleans(), st.integers(0, 99))
def test_a_packed_file_gives_back_the_model_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, bits: int, scheme: str, learnt: bool, embeddings: bool, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    wanted = table(bits, scheme, embeddings=embeddings, method="points" if learnt else None)
    model = tiny_model(layers=1, seed=seed).model
    if learnt:
        model = with_points(model, wanted)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith(POINTS):
                    value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)) * 0.05)
    coded = seal(model, wanted)
    facts = save_packed(model, coded, wanted, folder)
    model.save_pretrained(folder)
    plain, packed = load_file(folder / "model.safetensors"), load_packed(packed_file(folder))
    assert plain.keys() == packed.keys()
    assert all(torch.equal(plain[name], packed[name]) for name in plain)
    assert facts["bytes"] == packed_file(folder).stat().st_size
    assert packed_bits(folder) == bits
    for name, value in plain.items():
        if name in quantized_weights(model, wanted):
            row = value.flatten()[: 16 if scheme == "bucketed" else value.numel()]
            assert row.unique().numel() <= 2**bits


def test_sealing_leaves_an_ordinary_model() -> None:
    wanted = table(4, method="points")
    before = tiny_model(layers=1).model
    model = with_points(tiny_model(layers=1).model, wanted)
    trained = {name for name, value in model.named_parameters() if name.endswith(POINTS) and value.requires_grad}
    assert len(trained) == len(quantized_weights(model, wanted))
    assert not [name for name, value in model.named_parameters() if "norm" in name and value.requires_grad]
    seal(model, wanted)
    assert model.state_dict().keys() == before.state_dict().keys()
    assert dict(model.named_buffers()).keys() == dict(before.named_buffers()).keys()
    assert all(value.requires_grad for value in model.parameters())


def test_embeddings_may_stay_as_they_are() -> None:
    model = tiny_model(layers=1).model
    everything, layers = (quantized_weights(model, table(4, embeddings=flag)) for flag in (True, False))
    assert everything.keys() - layers.keys() == {"model.embed_tokens.weight"}
    with pytest.raises(ConfigError, match="no matrix to quantize"):
        quantized_weights(torch.nn.LayerNorm(3), table(4))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model, wanted = tiny_model(layers=1).model, table(2)
    save_packed(model, seal(model, wanted), wanted, tmp_path)
    path = packed_file(tmp_path)
    whole = path.read_bytes()
    assert packed_bits(tmp_path / "elsewhere") is None
    path.write_bytes(whole[:-9])
    with pytest.raises(SourceError, match="cannot read packed weights"):
        load_packed(path)
    path.write_bytes(whole.replace(b"viva-packed-1", b"viva-packed-9"))
    with pytest.raises(SourceError, match="viva-packed-9"):
        load_packed(path)
    shapes = json.dumps({"weight": [4, 4]})
    held = {"weight.codes": torch.zeros(2, dtype=torch.uint8), "weight.low": torch.zeros(1)}
    facts = {"format": "viva-packed-1", "quantize": wanted.model_dump_json(), "shapes": shapes}
    save_file(held | {"weight.high": torch.zeros(1)}, path, metadata=facts)
    with pytest.raises(SourceError, match="8 codes and 1 buckets"):
        load_packed(path)


def test_products_of_whole_numbers_are_near_those_of_float32() -> None:
    random = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(96, 48)
    given_ = torch.randn(2, 5, 96, generator=random)
    with torch.no_grad():
        wanted, found = linear(given_), Int8Linear(linear)(given_)
    assert found.shape == wanted.shape
    assert (found - wanted).norm() / wanted.norm() < 0.02
    alone = Int8Linear(linear)(given_[1, 3])  # a row's product does not depend on the rows beside it
    assert torch.equal(alone, found[1, 3])


def test_only_large_matrices_are_swapped_and_a_tied_embedding_stays() -> None:
    loaded = tiny_model(layers=1)
    vocabulary = loaded.model.lm_head.weight.numel()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = loaded.model(ids).logits
        assert int8(loaded.model, smallest=vocabulary + 1) == []
        assert int8(loaded.model, smallest=vocabulary) == ["lm_head"]
        after = loaded.model(ids).logits
    assert loaded.model.get_input_embeddings().weight.dtype == torch.float32
    assert 0 < (after - before).norm() / before.norm() < 0.02
