"""The cache's files: what goes in comes out, and what is damaged does not."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import Cache
from harness.errors import TrainingError
from harness.train.batches import Document
from harness.train.cache import ShardWriter, bytes_per_token, cache_key, encode, open_cache, tokenizer_digest
from harness.train.draws import pack_draws, unpack_draws
from harness.train.signals import Coarse, coarsen, join, top_k
from tests.tiny import tiny_tokenizer

KEY = "ab" * 32


def logp(seed: int, positions: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    logits_NV = 4 * torch.randn(positions, vocabulary, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return logits_NV.log_softmax(-1)


def uniform(seed: int, positions: int, draws: int) -> torch.Tensor:
    return torch.rand(positions, draws, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def document(number: int, learnt: int) -> Document:
    """A document of `learnt` scored positions; no two numbers share a key."""
    return Document((number, 1, *range(learnt)), (False, False, *[True] * learnt))


def keep(folder: Path, signals: dict[Document, Coarse], cache: Cache, vocabulary: int, **options: int) -> ShardWriter:
    writer = ShardWriter(folder, KEY, **options)
    for doc, signal in signals.items():
        writer.add([(doc, encode(signal, cache, vocabulary))])
    writer.flush()
    return writer


def shards(folder: Path) -> list[Path]:
    return sorted((folder / KEY[:16]).glob("*.safetensors"))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    k=st.integers(1, 12) | st.just("vocabulary"),
    bits=st.sampled_from([16, 32]),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    vocabulary=st.sampled_from([12, 70_000]),
    shard_bytes=st.sampled_from([1, 200, 1 << 20]),
)
def test_top_k_comes_back_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    k: int | str,
    bits: int,
    lengths: list[int],
    vocabulary: int,
    shard_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    k = 9 if k == "vocabulary" and vocabulary > 12 else k
    cache = Cache(k=k, bits=bits)
    documents = [document(number, length) for number, length in enumerate(lengths)]
    signals = {d: coarsen(logp(seed + n, len(d.scored), vocabulary), cache, 1.0) for n, d in enumerate(documents)}
    keep(folder, {d: s for d, s in signals.items() if d.scored}, cache, vocabulary, shard_bytes=shard_bytes)

    store = open_cache(folder, KEY)
    assert store.missing(documents) == []
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    got = store.read([documents[place] for place in order])
    parts = [signals[documents[place]] for place in order if documents[place].scored]
    want = join(parts)
    # float32's log_softmax over 70,000 tokens itself misses a sum of 1 by 1e-5; reading makes that good.
    tolerance = {"rtol": 1e-3 if bits == 16 else 1e-6, "atol": 2e-3 if bits == 16 else 3e-5}
    assert len(got) == sum(lengths)
    if parts:
        assert torch.equal(got.index_NK, want.index_NK)
        torch.testing.assert_close(got.logp_NK, want.logp_NK, **tolerance)
        assert (got.tail_N is None) == (want.tail_N is None) == (k in ("vocabulary", 12) and vocabulary == 12)
        mass_N = got.logp_NK.exp().sum(-1)
        if got.tail_N is not None and want.tail_N is not None:
            torch.testing.assert_close(got.tail_N, want.tail_N, **tolerance)
            mass_N = mass_N + got.tail_N.exp()
        torch.testing.assert_close(mass_N, torch.ones(len(got)), rtol=0, atol=1e-5)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    draws=st.integers(1, 255),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    vocabulary=st.sampled_from([2, 12, 70_000]),
)
def test_draws_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, seed: int, draws: int, lengths: list[int], vocabulary: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = Cache(kind="sampled", draws=draws)
    documents = [document(number, length) for number, length in enumerate(lengths)]
    signals = {
        d: coarsen(logp(seed + n, len(d.scored), vocabulary), cache, 1.0, uniform(seed + n, len(d.scored), draws))
        for n, d in enumerate(documents)
        if d.scored
    }
    keep(folder, signals, cache, vocabulary)
    got = open_cache(folder, KEY).read(documents)
    assert len(got) == sum(lengths)
    if signals:
        want = join(list(signals.values()))
        assert torch.equal(got.index_NK, want.index_NK)
        torch.testing.assert_close(got.logp_NK, want.logp_NK, rtol=1e-5, atol=1e-5)
        assert got.unbiased
        assert got.tail_N is None
        count_NK = (got.logp_NK.exp() * draws).round()
        assert (count_NK.sum(-1) == draws).all()


@given(seed=st.integers(0, 2**31), positions=st.integers(1, 300), wide=st.sampled_from([10, 300, 2**18]))
def test_packed_draws_unpack(seed: int, positions: int, wide: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    index_NK = torch.randint(wide, (positions, 9), generator=generator).sort(-1).values
    fresh_NK = torch.nn.functional.pad(index_NK.diff(dim=-1) > 0, (1, 0), value=True)
    count_NK = torch.randint(1, 256, (positions, 9), generator=generator) * fresh_NK
    got_index_NK, got_count_NK = unpack_draws(pack_draws(index_NK.numpy(), count_NK.numpy()), positions)
    for row in range(positions):
        pairs = [(int(i), int(c)) for i, c in zip(index_NK[row], count_NK[row], strict=True) if c]
        got = [(int(i), int(c)) for i, c in zip(got_index_NK[row], got_count_NK[row], strict=True) if c]
        assert got == pairs


def test_the_key_changes_with_all_that_decides_what_is_kept() -> None:
    plain = cache_key("teacher", "tokenizer", 1.0, Cache())
    assert plain == cache_key("teacher", "tokenizer", 1, Cache(k=64, bits=16))
    assert cache_key("t", "t", 1.0, Cache(kind="sampled")) == cache_key("t", "t", 1.0, Cache(kind="sampled", draws=50))
    others = [
        cache_key("another", "tokenizer", 1.0, Cache()),
        cache_key("teacher", "another", 1.0, Cache()),
        cache_key("teacher", "tokenizer", 2.0, Cache()),
        cache_key("teacher", "tokenizer", 1.0, Cache(k=65)),
        cache_key("teacher", "tokenizer", 1.0, Cache(k="vocabulary")),
        cache_key("teacher", "tokenizer", 1.0, Cache(bits=32)),
        cache_key("teacher", "tokenizer", 1.0, Cache(kind="sampled")),
        cache_key("teacher", "tokenizer", 1.0, Cache(kind="sampled", draws=51)),
    ]
    assert len({plain, *others}) == 1 + len(others)


def test_tokenizers_are_told_apart_by_their_tokens() -> None:
    assert tokenizer_digest(tiny_tokenizer()) == tokenizer_digest(tiny_tokenizer())
    assert tokenizer_digest(tiny_tokenizer()) != tokenizer_digest(tiny_tokenizer(extra=1))


@pytest.mark.parametrize("vocabulary", [300, 70_000])
@pytest.mark.parametrize("cache", [Cache(k=8), Cache(k=64, bits=32), Cache(k="vocabulary")])
def test_the_size_foretold_is_the_size_kept(cache: Cache, vocabulary: int) -> None:
    stored = encode(coarsen(logp(1, 5, vocabulary), cache, 1.0), cache, vocabulary)
    assert sum(array.nbytes for array in stored.values()) == 5 * bytes_per_token(cache, vocabulary)


def test_a_document_of_another_target_is_another_document(tmp_path: Path) -> None:
    one = Document((1, 2, 3), (False, True, True))
    other = Document((1, 2, 3), (False, False, True))
    keep(tmp_path, {one: top_k(logp(1, 2, 9), 4)}, Cache(k=4), 9)
    store = open_cache(tmp_path, KEY)
    assert store.missing([one, one, other, other]) == [other]
    with pytest.raises(TrainingError, match="lacks a document of 3 tokens"):
        store.read([one, other])
    assert open_cache(tmp_path, "cd" * 32).missing([one]) == [one]


def two_shards(tmp_path: Path) -> tuple[Document, Document]:
    docs = document(1, 3), document(2, 4)
    keep(tmp_path, {d: top_k(logp(1, len(d.scored), 9), 4) for d in docs}, Cache(k=4), 9, shard_bytes=1)
    assert len(shards(tmp_path)) == 2
    return docs


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "sidecar"])
def test_a_damaged_shard_is_noticed_said_and_dropped(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = two_shards(tmp_path)
    victim = shards(tmp_path)[0]
    data = bytearray(victim.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        victim.write_bytes(data)
    elif damage == "cut":
        victim.write_bytes(data[:-10])
    elif damage == "gone":
        victim.unlink()
    else:
        sidecar = victim.with_suffix(".json")
        facts = json.loads(sidecar.read_text())
        facts["documents"][0][1] += 1
        sidecar.write_text(json.dumps(facts))
    store = open_cache(tmp_path, KEY)
    missing = store.missing(docs)
    assert len(missing) == 1
    said = capsys.readouterr().err
    assert f"dropping shard {victim.stem}" in said
    assert len(shards(tmp_path)) == 1
    assert not victim.with_suffix(".json").exists()
    (kept,) = set(docs) - set(missing)
    assert len(store.read([kept])) == len(kept.scored)


def test_training_never_reads_a_damaged_shard(tmp_path: Path) -> None:
    docs = two_shards(tmp_path)
    store = open_cache(tmp_path, KEY)
    for path in shards(tmp_path):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(TrainingError, match="lacks a document") as caught:
        store.read(docs)
    assert "filled before training" in str(caught.value)


def test_what_a_killed_process_left_is_swept_away_and_what_another_writes_is_not(tmp_path: Path) -> None:
    two_shards(tmp_path)
    folder = tmp_path / KEY[:16]
    old, young = folder / ".r000-1.safetensors.1.part", folder / ".r000-2.safetensors.2.part"
    orphan = folder / "r000-3.safetensors"
    for path in (old, young, orphan):
        path.write_bytes(b"half")
    past = time.time() - 3600
    for path in (old, orphan, *shards(tmp_path)):
        os.utime(path, (past, past))
    ShardWriter(tmp_path, KEY)
    assert not old.exists()
    assert not orphan.exists()
    assert young.exists()
    assert len(shards(tmp_path)) == 2


def test_the_disk_is_counted_with_the_sidecars(tmp_path: Path) -> None:
    docs = document(1, 3), document(2, 4)
    writer = keep(tmp_path, {d: top_k(logp(1, len(d.scored), 9), 4) for d in docs}, Cache(k=4), 9)
    total = sum(path.stat().st_size for path in (tmp_path / KEY[:16]).iterdir())
    assert writer.written == total
    facts = open_cache(tmp_path, KEY).facts([docs[0], docs[0], document(3, 5)])
    assert facts == {"documents": 1, "tokens": 3, "shards": 1, "bytes": total, "bytes_per_token": total / 7}
