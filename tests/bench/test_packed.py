"""The packed backend gives HFLM's numbers, whatever the row size."""

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows

from harness.bench import rows
from harness.bench.packed import PackedLM
from harness.bench.tokens import rolling_windows
from harness.errors import VivaError

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


@pytest.mark.parametrize("budget", [1, 7, 20, 64, 100000])
def test_results_do_not_depend_on_the_token_budget(model, tokenizer, budget):
    requests = ask("loglikelihood", pairs())
    expected = PackedLM(model, tokenizer, token_budget=512).loglikelihood(requests)
    found = PackedLM(model, tokenizer, token_budget=budget).loglikelihood(requests)
    np.testing.assert_allclose([a for a, _ in found], [a for a, _ in expected], atol=1e-4)
    assert [b for _, b in found] == [b for _, b in expected]


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


def test_generation_is_hflms(model, tokenizer):
    options = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False}
    requests = ask("generate_until", [(text, options) for text in ("The spider", "What is", "x", "To stop")] * 3)
    seen = []
    ours = PackedLM(model, tokenizer, on_done=lambda done, total: seen.append((done, total)))
    assert ours.generate_until(requests) == peer(model, tokenizer).generate_until(requests, disable_tqdm=True)
    assert seen == [(8, 12), (12, 12)]


def test_shared_beginnings_are_stored_once():
    context = list(range(20))
    spans = [rows.Span.ending([*context, 30 + k], [1, 2]) for k in range(4)]
    (row,) = rows.plan(spans, 64, 64)
    assert len(row.ids) == 24
    assert row.positions.max() == 20
    assert sorted(row.members) == [0, 1, 2, 3]


def test_rows_are_cut_where_little_is_shared():
    spans = [rows.Span.ending([item] * 10 + [100 + k], [1]) for item in range(6) for k in range(4)]
    planned = list(rows.plan(spans, 40, 64))
    assert all(len(row.ids) <= 40 for row in planned)
    assert sum(len(row.ids) for row in planned) == 6 * 14


def test_a_model_that_ignores_the_mask_is_read_one_by_one(model, tokenizer, monkeypatch):
    requests = ask("loglikelihood", pairs())
    expected = PackedLM(model, tokenizer).loglikelihood(requests)
    assert rows.sharing_limit(model) > 1000
    forward = type(model).forward

    def deaf(self, input_ids=None, attention_mask=None, position_ids=None, logits_to_keep=0, **rest):
        return forward(self, input_ids=input_ids, logits_to_keep=logits_to_keep, **rest)

    monkeypatch.setattr(type(model), "forward", deaf)
    rows._forward_parameters.cache_clear()
    assert rows.sharing_limit(model) == 0
    found = PackedLM(model, tokenizer).loglikelihood(requests)
    monkeypatch.undo()
    rows._forward_parameters.cache_clear()
    np.testing.assert_allclose([a for a, _ in found], [a for a, _ in expected], atol=1e-4)


def test_a_sliding_window_bounds_what_is_shared(tokenizer):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=16,
        initializer_range=0.3,
    )
    model = MistralForCausalLM(config).eval()
    assert rows.sharing_limit(model) == 16
    requests = ask("loglikelihood", [(c * 3, e) for c, e in pairs() if c])
    ours = PackedLM(model, tokenizer).loglikelihood(requests)
    theirs = peer(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in ours], [a for a, _ in theirs], atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 57])
def test_windows_are_lm_evals(count):
    tokens = list(range(100, 100 + count))
    for stride in (1, 3, 10):
        theirs = get_rolling_token_windows(tokens, 7, max_seq_len=10, context_len=10 - stride + 1)
        assert list(rolling_windows(tokens, 7, 10, stride)) == list(theirs)
