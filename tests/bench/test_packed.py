"""The packed backend gives HFLM's numbers, whatever the row size."""

import re
import time

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows

from harness.bench import attend, memory, reading, rows
from harness.bench import plan as planning
from harness.bench.packed import PackedLM
from harness.bench.packing import Row
from harness.bench.plan import Span, make_plan
from harness.bench.reading import Reader
from harness.bench.requests import encode_pairs, encode_texts
from harness.bench.rows import TooLargeError, read, score
from harness.bench.tokens import rolling_windows
from harness.errors import VivaError
from tests.models.families import FAMILIES, family_model

CONTEXTS = [
    "The spider waited",
    "The spider waited quietly for an insect to get",
    "What is the capital of France? ",
    "x",
    "",
]
ENDINGS = [" caught in its web.", " caught", " cau", "Paris", "  two spaces", "\nparis\n\nis", " ünïcode 東京", "."]


def pairs():
    return [(context, ending) for context in CONTEXTS for ending in ENDINGS]


def ask(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def peer(model, tokenizer, **options):
    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4, **options)


def test_loglikelihood_equals_hflm(model, tokenizer):
    requests = ask("loglikelihood", pairs())
    ours = PackedLM(model, tokenizer).loglikelihood(requests)
    theirs = peer(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in ours], [a for a, _ in theirs], atol=1e-4)
    assert [b for _, b in ours] == [b for _, b in theirs]


def test_greedy_flag_is_true_for_what_the_model_would_write(model, tokenizer):
    context = "The spider"
    ids = tokenizer.encode(context)
    with torch.no_grad():
        best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    # Ask in tokens, because the best token of a random model need not survive a round trip through text.
    (_, yes), (_, no) = PackedLM(model, tokenizer)._loglikelihood_tokens(
        [(("", ""), ids, [best]), (("", ""), ids, [(best + 1) % 400])]
    )
    assert yes
    assert not no


def products_are_stable():
    """Whether this machine's matrix products compute a row in the same way among 16 others and among hundreds."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(size, 48, generator=generator) for size in (512, 96))
    return all(torch.equal((x @ w.t())[:n], x[:n] @ w.t()) for n in range(reading.LEAST, 400, 8))


def assert_same(found, expected):
    """Bit for bit where this machine allows it."""
    assert [best for _, best in found] == [best for _, best in expected]
    np.testing.assert_allclose([a for a, _ in found], [a for a, _ in expected], atol=1e-4)
    if products_are_stable():
        assert found == expected


SHOTS = "".join(f"Question: what comes after {k}? Answer: the next one is {k + 1}.\n\n" for k in range(5))
ITEMS = [(f"{SHOTS}Question: what is {item}?\nAnswer:", f" {letter}") for item in "abcdefghij" for letter in "ABCD"]


def item_budget(reader, pairs, items):
    """Tokens that `items` pieces of the largest size hold."""
    plan = make_plan([Span.ending(*pair) for pair in pairs], piece=reader.piece)
    return items * max(len(piece.ids) for piece in plan.pieces)


@pytest.mark.parametrize("items", [1, 7, None])
@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_the_batch(model, tokenizer, items, workers):
    requests = ask("loglikelihood", [*pairs(), *ITEMS])
    spans = [(c.tolist() + e.tolist(), e.tolist()) for c, e in encode_pairs(tokenizer, [r.args for r in requests])]
    expected = PackedLM(model, tokenizer, token_budget=96, workers=1).loglikelihood(requests)
    budget = None if items is None else 1 if items == 1 else item_budget(Reader(model), spans, items)
    found = PackedLM(model, tokenizer, token_budget=budget, workers=workers).loglikelihood(requests)
    assert_same(found, expected)


def test_a_result_does_not_depend_on_what_else_is_asked(model, tokenizer):
    requests = ask("loglikelihood", ITEMS)
    whole = PackedLM(model, tokenizer).loglikelihood(requests)
    lm = PackedLM(model, tokenizer)
    spans = [lm._span(*pair) for pair in encode_pairs(tokenizer, ITEMS)]
    half = score(lm.reader, spans, wanted=[k % 8 < 4 for k in range(len(spans))])
    assert_same(
        [(float(logp.sum()), bool(best.all())) for logp, best in half if len(logp)],
        [answer for k, answer in enumerate(whole) if k % 8 < 4],
    )


def test_shots_are_read_once_for_all_items(model, tokenizer):
    """As in few-shot suites: the long beginning once, then each item behind its keys and values."""
    requests = ask("loglikelihood", ITEMS)
    ours = PackedLM(model, tokenizer)
    theirs = peer(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in ours.loglikelihood(requests)], [a for a, _ in theirs], atol=1e-4)
    spans = [ours._span(*pair) for pair in encode_pairs(tokenizer, ITEMS)]
    read_tokens = sum(len(piece.ids) for piece in make_plan(spans).pieces)
    shots = len(tokenizer.encode(SHOTS))
    questions = {tuple(span.ids[shots - 1 :]) for span in spans}
    assert read_tokens < shots + sum(map(len, questions))
    assert not ours.reader.memory


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("piece", [7, 64])
@pytest.mark.parametrize("fused", [True, False])
def test_pieces_give_the_logits_of_the_models_own_forward(name, piece, fused, monkeypatch):
    """In float64, so that a wrong mask, window, cap or past cannot hide behind rounding."""
    monkeypatch.setattr(attend, "FUSED", ["cpu"] if fused else [])
    monkeypatch.setattr(planning, "BUSH", 24)
    monkeypatch.setattr(planning, "SHARED", 4)
    model = family_model(name).model
    reader = Reader(model)
    assert reader.limit > 1000
    generator = np.random.default_rng(0)
    stem = generator.integers(2, 250, 30)
    sequences = [generator.integers(2, 250, 45)]
    sequences += [np.concatenate([stem, generator.integers(2, 250, size)]) for size in (1, 3, 9, 14, 14)]
    spans = [Span.ending(ids, [0] * 9) for ids in sequences]
    plan = make_plan(spans, piece=piece)
    found = {}

    def visit(row: Row, first: int, logits: list[torch.Tensor]) -> None:
        at, _, slot = reading.predictions(plan, row)
        found.update({int(n): logits[0][k - first].clone() for n, k in zip(slot, at, strict=True)})

    read([reader], plan, range(len(plan.pieces)), visit, budget=40)
    assert any(one.source is not None for one in plan.pieces)
    assert any(one.visible is not None for one in plan.pieces)
    with torch.inference_mode():
        expected = [model(input_ids=torch.as_tensor(span.ids)[None]).logits[0, list(span.at)] for span in spans]
    difference = torch.stack([found[n] for n in range(len(found))]) - torch.cat(expected)
    # Gemma 2's own attention takes its softmax in float32.
    assert difference.abs().max() < (1e-5 if name == "gemma2" else 1e-9)


def test_a_thread_that_is_late_is_waited_for(monkeypatch):
    """The thread with the beginning of a text falls behind at every layer: the one after it must not go ahead."""
    whole, write = 40, memory.Memory.write

    def late(self, chain, layer, start, *rest):
        time.sleep(0.05 * (start == 0))
        write(self, chain, layer, start, *rest)

    monkeypatch.setattr(memory.Memory, "write", late)
    model = family_model("llama").model
    ids = np.random.default_rng(0).integers(2, 250, whole)
    plan = make_plan([Span.ending(ids, [0] * whole)], piece=8)
    found = {}

    def visit(row: Row, first: int, logits: list[torch.Tensor]) -> None:
        at, _, slot = reading.predictions(plan, row)
        found.update({int(n): logits[0][k - first].clone() for n, k in zip(slot, at, strict=True)})

    read([Reader(model)], plan, range(len(plan.pieces)), visit, budget=8, workers=3)
    with torch.inference_mode():
        expected = model(input_ids=torch.as_tensor(ids)[None]).logits[0]
    assert (torch.stack([found[n] for n in range(whole)]) - expected).abs().max() < 1e-9


def test_a_chain_does_not_fill_past_a_gap():
    pair = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)
    chains = memory.Memory()
    chains.write(0, 0, 0, 9, pair)
    with pytest.raises(AssertionError, match="chain 0 has 3 tokens in layer 0, not 6"):
        chains.write(0, 0, 6, 9, pair)


def test_long_contexts_are_cut_from_the_left_and_counted(model, tokenizer):
    long = "The spider waited quietly for an insect. " * 20
    requests = ask("loglikelihood", [(long, " caught"), (long, " in its web."), ("short", " caught")])
    ours = PackedLM(model, tokenizer, max_length=40)
    found = ours.loglikelihood(requests)
    theirs = peer(model, tokenizer, max_length=40).loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in found], [a for a, _ in theirs], atol=1e-4)
    assert ours.truncated == 2


def test_an_answer_longer_than_the_window_is_refused(model, tokenizer):
    with pytest.raises(VivaError, match="does not fit the model's window of 4"):
        PackedLM(model, tokenizer, max_length=4).loglikelihood(ask("loglikelihood", [("x", " caught in its web.")]))


@pytest.mark.parametrize("budget", [16, 512])
def test_rolling_equals_hflm(model, tokenizer, budget):
    texts = ["The spider waited quietly. " * n for n in (1, 3, 40)] + [""]
    requests = ask("loglikelihood_rolling", [(text,) for text in texts])
    ours = PackedLM(model, tokenizer, max_length=50, token_budget=budget).loglikelihood_rolling(requests)
    theirs = peer(model, tokenizer, max_length=50).loglikelihood_rolling(requests, disable_tqdm=True)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-3)


def test_an_ordinary_model_can_be_cut(model):
    assert Reader(model).limit > 1000


def test_a_model_that_cannot_be_cut_is_read_one_by_one(model, tokenizer, monkeypatch):
    requests = ask("loglikelihood", pairs())
    expected = PackedLM(model, tokenizer).loglikelihood(requests)
    forward = type(model.model).forward

    def deaf(self, input_ids=None, position_ids=None, **rest):
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(type(model.model), "forward", deaf)
    ours = PackedLM(model, tokenizer)
    assert ours.reader.limit == 0
    found = ours.loglikelihood(requests)
    np.testing.assert_allclose([a for a, _ in found], [a for a, _ in expected], atol=1e-4)


def test_rotary_angles_that_depend_on_the_length_bound_what_is_cut(tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=400,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    ours = PackedLM(model, tokenizer, max_length=120)
    assert ours.reader.limit == 64
    requests = ask("loglikelihood", [(c * n, e) for c, e in pairs() if c for n in (1, 30)])
    theirs = peer(model, tokenizer, max_length=120)
    theirs.batch_size_per_gpu = 1
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in ours.loglikelihood(requests)], [a for a, _ in expected], atol=1e-4)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError()]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_out_of_memory_halves_the_budget_and_goes_on(model, tokenizer, monkeypatch, error, workers):
    requests = ask("loglikelihood", [*pairs(), *ITEMS])
    expected = PackedLM(model, tokenizer).loglikelihood(requests)
    logits = Reader.logits

    def scarce(self, plan, row, block=None):
        yield from logits(self, plan, row, block)
        if len(row.pieces) > 2:
            raise error

    notes, seen = [], []
    lm = PackedLM(
        model,
        tokenizer,
        token_budget=400,
        workers=workers,
        say=notes.append,
        on_done=lambda done, total: seen.append(done),
    )
    monkeypatch.setattr(Reader, "logits", scarce)
    assert_same(lm.loglikelihood(requests), expected)
    assert re.fullmatch(r"out of memory: going on with \d+ tokens at once", notes[0])
    assert seen == sorted(seen)
    assert seen[-1] == len(requests)


def test_one_piece_that_does_not_fit_is_an_error(model, tokenizer, monkeypatch):
    lm, notes = PackedLM(model, tokenizer, workers=2, token_budget=1), []
    lm.say = notes.append

    def none_left(self, plan, row, block=None):
        raise MemoryError

    monkeypatch.setattr(Reader, "logits", none_left)
    with pytest.raises(TooLargeError, match="tokens of a text do not fit into memory"):
        lm.loglikelihood(ask("loglikelihood", pairs()))
    assert notes[-1] == "out of memory: going on with one thread"


@pytest.mark.parametrize("workers", [2, 3])
def test_threads_share_a_long_text(model, tokenizer, workers):
    """Each follows the piece before its own, layer by layer."""
    ids = np.random.default_rng(0).integers(2, 400, 250)
    reader = Reader(model)
    reader.piece = 16
    spans = [Span.ending(ids[:-1], ids[1:]), Span.ending(ids[:100], ids[100:101])]
    (expected, _), _ = score(reader, spans, workers=1)
    (found, _), _ = score(reader, spans, workers=workers, budget=32)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    if products_are_stable():
        assert found.tolist() == expected.tolist()
    assert not reader.memory


def test_an_error_in_a_thread_is_raised(model, tokenizer, monkeypatch):
    lm = PackedLM(model, tokenizer, workers=2, token_budget=20)

    def broken(self, plan, row, block=None):
        raise ZeroDivisionError

    monkeypatch.setattr(Reader, "logits", broken)
    with pytest.raises(ZeroDivisionError):
        lm.loglikelihood(ask("loglikelihood", pairs()))
    assert torch.get_num_threads() == 1 or lm.workers
    assert model.config._attn_implementation == "sdpa"


def test_ties_go_to_the_first_token():
    logits = torch.zeros(3, 128)
    logits[0, [70, 90]] = 1.0
    logits[1, 5] = 2.0
    at, target = np.array([0, 0, 1, 2, 2]), np.array([70, 90, 5, 0, 64])
    logp, best = rows.target_scores(logits, at, target)
    assert best.tolist() == [True, False, True, True, False]
    np.testing.assert_allclose(logp, logits.log_softmax(-1)[at, target], atol=1e-6)


def test_pairs_are_cut_where_lm_eval_cuts_them(model, tokenizer):
    asked = [*pairs(), ("the end ", " of it"), ("<s>The spider", " waited"), ("", "<s>What is"), ("What is  ", "Paris")]
    hflm = peer(model, tokenizer)
    expected = []
    hflm._loglikelihood_tokens = lambda requests, **_: expected.extend(requests)
    hflm.loglikelihood(ask("loglikelihood", asked), disable_tqdm=True)
    found = encode_pairs(tokenizer, asked)
    assert [(c.tolist(), e.tolist()) for c, e in found] == [(c, e) for _, c, e in expected]
    assert encode_pairs(tokenizer, list(asked)) is found
    texts = ["<s>The", "The spider", ""]
    assert {text: ids.tolist() for text, ids in encode_texts(tokenizer, texts).items()} == {
        text: hflm.tok_encode(text) for text in texts
    }


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 57])
def test_windows_are_lm_evals(count):
    tokens = list(range(100, 100 + count))
    for stride in (1, 3, 10):
        theirs = get_rolling_token_windows(tokens, 7, max_seq_len=10, context_len=10 - stride + 1)
        assert list(rolling_windows(tokens, 7, 10, stride)) == list(theirs)
