"""Filling the cache: only what is missing, in the form the student sees, whatever interrupts it."""

import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import Cache
from harness.errors import TrainingError
from harness.models.students import from_layers
from harness.terms import Kd
from harness.train.batches import Document, pack, plan_steps, to_batch, to_document
from harness.train.cache import open_cache
from harness.train.divergences import forward_kl
from harness.train.fill import Filled, coarse_bias, fill
from harness.train.signals import whole
from tests.conftest import REPOSITORY
from tests.tiny import tiny_chats, tiny_model, tiny_tokenizer

KEY = "ab" * 32
VOCABULARY = 258


def documents(count: int = 12) -> list[Document]:
    tokenizer = tiny_tokenizer()
    return [to_document(tokenizer, chat, "Count." if n % 3 else None) for n, chat in enumerate(tiny_chats(count))]


def filled(folder: Path, docs: list[Document], cache: Cache = Cache(k=8), **options: Any) -> Filled:  # noqa: B008
    given = {"temperature": 1.0, "vocabulary": VOCABULARY, "key": KEY, "seed": 3} | options
    return fill(folder, tiny_model(), docs, cache=cache, **given)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / KEY[:16]).glob("*.safetensors"))}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_cache_says_what_the_teacher_says_of_the_very_row_that_the_student_sees(
    tmp_path: Path, temperature: float
) -> None:
    teacher, docs = tiny_model(extra=3), documents()
    cache = Cache(k=8, bits=32)
    fill(tmp_path, teacher, docs, cache=cache, temperature=temperature, vocabulary=VOCABULARY, key=KEY, seed=0)
    store = open_cache(tmp_path, KEY)
    steps = plan_steps(docs, tokens=3000, row_tokens=300, accumulate=2, seed=5)  # shuffled epochs, packed otherwise
    rows = [row for step in steps for row in step]
    assert len(rows) > 5
    for row in rows:
        got = store.read(row.documents)
        with torch.no_grad():
            logits_NV = to_batch(row).logits(teacher.model).double()[:, :VOCABULARY]
        truth_NV = (logits_NV / temperature).log_softmax(-1)
        torch.testing.assert_close(got.logp_NK.double(), truth_NV.gather(1, got.index_NK), rtol=1e-4, atol=1e-4)
        assert got.tail_N is not None
        others_NV = truth_NV.scatter(1, got.index_NK, -torch.inf)
        torch.testing.assert_close(got.tail_N.double(), others_NV.logsumexp(-1), rtol=1e-4, atol=1e-4)
        assert (others_NV.max(-1).values <= got.logp_NK.min(-1).values + 1e-4).all()


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    docs = documents()
    first = filled(tmp_path, docs[:5])
    assert first.documents == 5
    assert first.tokens == sum(len(document.scored) for document in docs[:5])
    before = shards(tmp_path)
    assert filled(tmp_path, docs[:5]).documents == 0
    assert shards(tmp_path) == before
    second = filled(tmp_path, [*docs, *docs])
    assert second.documents == len(docs) - 5
    assert before.items() <= shards(tmp_path).items()
    assert filled(tmp_path, docs, key="cd" * 32).documents == len(docs)  # another teacher, say
    assert second.bytes_per_token == pytest.approx(second.bytes / second.tokens)


def test_a_document_without_learnt_tokens_needs_nothing(tmp_path: Path) -> None:
    silent = Document((5, 6, 7), (False, False, False))
    assert filled(tmp_path, [silent]).documents == 0
    filled(tmp_path, [silent, *documents(2)])
    store = open_cache(tmp_path, KEY)
    assert len(store.read([silent])) == 0
    both = store.read([silent, documents(2)[0], silent])
    torch.testing.assert_close(both.logp_NK, store.read(documents(2)[:1]).logp_NK)


def test_the_size_is_said_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = documents()
    filled(tmp_path, docs)
    said = capsys.readouterr().err
    tokens = sum(len(document.scored) for document in docs)
    assert f"34.0 bytes a token, {(tokens * 34 + len(docs) * 48) / 1000:.1f} KB for {tokens} tokens" in said


@pytest.mark.parametrize("cache", [Cache(k=8), Cache(kind="sampled", draws=50), Cache(k="vocabulary")])
def test_a_shard_that_was_lost_comes_back_byte_for_byte(tmp_path: Path, cache: Cache) -> None:
    docs = documents(40)
    filled(tmp_path, docs, cache, shard_bytes=1)
    before = shards(tmp_path)
    assert len(before) > 2
    victim = tmp_path / KEY[:16] / sorted(before)[1]
    victim.write_bytes(before[victim.name][:-1])
    again = filled(tmp_path, docs, cache, shard_bytes=1)
    assert 0 < again.documents < len(docs)
    assert shards(tmp_path) == before


def test_draws_depend_on_document_and_seed_alone(tmp_path: Path) -> None:
    docs, cache = documents(), Cache(kind="sampled", draws=20)
    for name, order, options in (("a", docs, {}), ("b", docs[::-1], {}), ("c", docs, {"seed": 4})):
        filled(tmp_path / name, order, cache, **options)
    a, b, c = (open_cache(tmp_path / name, KEY).read(docs) for name in "abc")
    assert torch.equal(a.index_NK, b.index_NK)
    assert torch.equal(a.logp_NK, b.logp_NK)
    assert a.index_NK.shape != c.index_NK.shape or not torch.equal(a.index_NK, c.index_NK)


def test_several_processes_fill_one_cache(tmp_path: Path) -> None:
    docs = documents()
    parts = [filled(tmp_path / "many", docs, rank=rank, world=3) for rank in (2, 0, 1)]
    assert [part.documents for part in parts] == [4, 4, 4]
    assert {name[:4] for name in shards(tmp_path / "many")} == {"r000", "r001", "r002"}
    filled(tmp_path / "one", docs)
    many, one = open_cache(tmp_path / "many", KEY), open_cache(tmp_path / "one", KEY)
    assert many.missing(docs) == []
    torch.testing.assert_close(many.read(docs).logp_NK, one.read(docs).logp_NK, rtol=2e-3, atol=2e-3)


def test_a_reader_takes_up_what_others_add(tmp_path: Path) -> None:
    docs = documents()
    store = open_cache(tmp_path, KEY)
    assert store.missing(docs) == docs
    filled(tmp_path, docs)
    store.refresh()
    assert store.missing(docs) == []


def test_ctrl_c_keeps_what_was_computed(tmp_path: Path) -> None:
    docs = documents(40)

    def stop(done: int, total: int, note: str) -> None:
        assert done <= total
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, docs, progress=stop)
    left = open_cache(tmp_path, KEY).missing(docs)
    assert 0 < len(left) < len(docs) / 2
    assert filled(tmp_path, docs).documents == len(left)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.train.test_fill import documents, filled

def stop(done, total, note):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

filled(Path(sys.argv[1]), documents(40), progress=stop, shard_bytes=1)
"""


def test_a_kill_keeps_the_finished_shards_and_the_rest_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    docs = documents(40)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == -signal.SIGKILL
    left = open_cache(tmp_path / "killed", KEY).missing(docs)
    assert 0 < len(left) < len(docs)
    assert filled(tmp_path / "killed", docs, shard_bytes=1).documents == len(left)
    filled(tmp_path / "whole", docs, shard_bytes=1)
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")


def test_a_disk_without_room_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 7 * 10**8, 250 * 10**6))
    with pytest.raises(
        TrainingError, match=r"needs \d+\.\d KB and 268\.4 MB to spare; .* has 250\.0 MB free"
    ) as caught:
        filled(tmp_path, documents())
    assert "smaller train.cache.k" in str(caught.value)
    assert not (tmp_path / KEY[:16]).exists()


def test_a_disk_that_refuses_leaves_the_finished_shards(tmp_path: Path) -> None:
    docs = documents(3)
    long = Document(tuple(range(100)) * 5, (True,) * 500)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limit[1]))  # 500 positions of k = 8 take 17,000 bytes
    try:
        filled(tmp_path, docs)
        with pytest.raises(TrainingError, match=r"could not write the teacher's cache .* too large") as caught:
            filled(tmp_path, [*docs, long])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "finished shards are kept" in str(caught.value)
    assert open_cache(tmp_path, KEY).missing([*docs, long]) == [long]
    assert not list((tmp_path / KEY[:16]).glob(".*"))


def student_bias(cache: Cache, **table: Any) -> dict[str, float]:
    teacher = tiny_model()
    student = from_layers(teacher, [0, 1, 3])
    return coarse_bias(teacher, student, pack(documents(24), 300), Kd(**table), cache, VOCABULARY, 0)


@pytest.mark.parametrize("table", [{}, {"divergence": "jsd", "beta": 0.3}, {"divergence": "reverse_kl"}])
def test_the_bias_is_measured_in_the_divergence_in_use(table: dict[str, Any]) -> None:
    every = student_bias(Cache(k="vocabulary", bits=32), temperature=2.0, **table)
    assert every["ratio"] == pytest.approx(1, abs=1e-4)
    assert every["error"] < 1e-3
    assert every["bytes_per_token"] == 4 * VOCABULARY
    few, many = (student_bias(Cache(k=k), temperature=2.0, **table) for k in (8, 64))
    assert few["full"] == pytest.approx(every["full"], rel=1e-6)
    assert few["coarse"] < many["coarse"] < every["full"]
    assert many["error"] < few["error"]
    assert few["cosine"] < many["cosine"] < 1
    assert few["positions"] == sum(len(document.scored) for document in documents(24))
    assert many["named"] == 64
    assert "renormalised_error" in few


def test_the_noise_of_draws_averages_out_and_a_bias_does_not() -> None:
    drawn = student_bias(Cache(kind="sampled", draws=50))
    assert 1 < drawn["named"] < 50
    assert drawn["error"] > 1.5 * drawn["mean_error"]
    assert drawn["mean_error"] < drawn["renormalised_mean_error"]


def test_the_divergence_of_the_full_signal_is_the_plain_one() -> None:
    teacher = tiny_model()
    student = from_layers(teacher, [0, 1, 3])
    total = count = 0.0
    for row in pack(documents(24), 300):
        batch = to_batch(row)
        with torch.no_grad():
            logits = [batch.logits(loaded.model)[:, :VOCABULARY] for loaded in (student, teacher)]
        pair = whole(logits[1].log_softmax(-1)).pair(logits[0].log_softmax(-1))
        total += float(forward_kl(*pair).sum())
        count += len(batch.keep_N)
    assert student_bias(Cache(k=8))["full"] == pytest.approx(total / count, rel=1e-4)
