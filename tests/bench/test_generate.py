"""Texts are lm-eval's, whatever is written beside them."""

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig

from harness.bench import attend, generate
from harness.bench.generate import continuations
from harness.bench.packed import PackedLM
from harness.bench.reading import Reader
from harness.bench.sampling import Rules, draw, likeliest, rules_for
from harness.errors import ConfigError
from tests.models.families import family_model

PROMPTS = [
    "The spider",
    "What is the capital of France? ",
    "x",
    "To stop the butter from melting, Lena put it in the",
    "Water boils at",
    "The spider waited quietly for an insect to get caught",
    "user",
]
PLAIN = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}


def ask(prompts, options=PLAIN):
    return [Instance("generate_until", {}, (text, dict(options)), i) for i, text in enumerate(prompts)]


def theirs(model, tokenizer, requests, batch=4, **options):
    peer = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch, **options)
    return peer.generate_until(requests, disable_tqdm=True)


def write(model, tokenizer, requests, **options):
    """Our texts, with the slots and the rest as asked."""
    texts = {}
    reader = Reader(model)
    asked = [request.args for request in requests]
    options = {"max_length": 256, "seeds": range(len(asked)), **options}
    continuations(reader, tokenizer, asked, finished=texts.update, **options)
    assert not reader.memory
    return [texts[k] for k in range(len(asked))]


@pytest.fixture
def talkative(model, tokenizer):
    """Stop strings that the model writes in the middle of its texts, found by looking."""
    texts = theirs(model, tokenizer, ask(PROMPTS, PLAIN | {"until": []}))
    stops = [text[k : k + 2] for text in texts for k in (4, 7)]
    return [stop for stop in stops if stop.isascii() and len(stop) == 2][:4]


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_texts_are_hflms(model, tokenizer, talkative, slots):
    for options in (PLAIN, PLAIN | {"until": talkative}, PLAIN | {"until": talkative[0], "max_gen_toks": 1}):
        expected = theirs(model, tokenizer, ask(PROMPTS, options))
        assert write(model, tokenizer, ask(PROMPTS, options), slots=slots) == expected


def test_different_arguments_in_one_call(model, tokenizer, talkative):
    requests = [*ask(PROMPTS), *ask(PROMPTS, PLAIN | {"until": talkative, "max_gen_toks": 5})]
    assert write(model, tokenizer, requests, slots=4) == theirs(model, tokenizer, requests)


def test_the_lm_reports_what_is_finished(model, tokenizer):
    seen = []
    lm = PackedLM(model, tokenizer, on_done=lambda done, total: seen.append((done, total)))
    assert lm.generate_until(ask(PROMPTS)) == theirs(model, tokenizer, ask(PROMPTS))
    assert seen[0] == (0, 7)
    assert seen[-1] == (7, 7)


def test_an_end_token_ends_the_text(model, tokenizer):
    """Whatever the second token would be, as an end it is the last."""
    first = write(model, tokenizer, ask(PROMPTS[:1], PLAIN | {"max_gen_toks": 2}))
    reader = Reader(model)
    rules = rules_for(PLAIN, model, tokenizer)
    ids = torch.tensor([tokenizer.encode(PROMPTS[0])])
    with torch.inference_mode():
        one = int(model(ids).logits[0, -1].argmax())
        two = int(model(torch.cat([ids, torch.tensor([[one]])], 1)).logits[0, -1].argmax())
    assert rules.over([one, two], tokenizer) == (two in rules.ends)
    ends = Rules(until=(), most=9, ends=frozenset([two]))
    assert ends.over([one, two], tokenizer)
    assert not ends.over([two, one], tokenizer)
    assert ends.text([one, two], tokenizer) == first[0]
    assert reader.limit


def test_long_contexts_are_cut_from_the_left_and_counted(model, tokenizer):
    prompts = [*PROMPTS, "The spider waited quietly. " * 20, ""]
    lm = PackedLM(model, tokenizer, max_length=40)
    found = lm.generate_until(ask(prompts))
    assert lm.truncated == 1
    assert found[:-1] == theirs(model, tokenizer, ask(prompts[:-1]), batch=1, max_length=40)
    assert isinstance(found[-1], str)
    with pytest.raises(ConfigError, match="300 new tokens leave no room"):
        lm.generate_until(ask(PROMPTS, PLAIN | {"max_gen_toks": 300}))


def test_a_shared_beginning_is_read_once(model, tokenizer, monkeypatch):
    shots = "Water boils at one hundred degrees. The capital of France is Paris. " * 3
    requests = ask([shots + prompt for prompt in PROMPTS])
    tokens = []
    read = generate.read

    def counting(readers, plan, todo, *rest, **options):
        tokens.append(sum(len(plan.pieces[number].ids) for number in todo))
        read(readers, plan, todo, *rest, **options)

    monkeypatch.setattr(generate, "read", counting)
    assert write(model, tokenizer, requests, slots=2) == theirs(model, tokenizer, requests)
    alone = sum(len(tokenizer.encode(prompt)) for prompt in PROMPTS)
    assert sum(tokens) < len(tokenizer.encode(shots)) + alone + len(PROMPTS)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "qwen3"])
@pytest.mark.parametrize("fused", [True, False])
def test_windows_and_caps_hold_while_writing(name, fused, monkeypatch):
    """Texts longer than the window, in float64, against the model's own generation."""
    monkeypatch.setattr(attend, "FUSED", ["cpu"] if fused else [])
    loaded = family_model(name)
    options = PLAIN | {"max_gen_toks": 40, "until": []}
    prompts = [prompt + end for prompt in ("a prompt", "What all of them begin with, ") for end in ("", " and more")]
    found = write(loaded.model, loaded.tokenizer, ask(prompts, options), max_length=128)
    assert found == theirs(loaded.model, loaded.tokenizer, ask(prompts, options), batch=1)


def test_sampling_depends_on_the_seed_and_not_on_the_company(model, tokenizer):
    options = PLAIN | {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "max_gen_toks": 8}
    requests = ask(PROMPTS, options)
    found = write(model, tokenizer, requests, slots=1)
    assert write(model, tokenizer, requests, slots=5) == found
    assert write(model, tokenizer, requests[:3], slots=2) == found[:3]
    assert write(model, tokenizer, requests, slots=5, seeds=range(7, 14)) != found
    lm = PackedLM(model, tokenizer, seed=1)
    assert lm.generate_until(requests) == PackedLM(model, tokenizer, seed=1).generate_until(requests)
    twice = [requests[0], requests[0]]
    assert len(set(PackedLM(model, tokenizer).generate_until(twice * 4))) > 1


def test_draws_follow_the_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    generator = torch.Generator().manual_seed(0)

    def share(**rules):
        made = Rules(until=(), most=1, ends=frozenset(), **rules)
        return np.bincount([draw(logits, made, [], generator) for _ in range(4000)], minlength=4) / 4000

    def softmax(values):
        return np.exp(values) / np.exp(values).sum()

    half = softmax(np.array([4.0, 2.0, 0.0, -2.0]))
    np.testing.assert_allclose(share(temperature=0.5), half, atol=0.03)
    np.testing.assert_allclose(share(temperature=1.0, top_k=2)[:2], softmax(np.array([2.0, 1.0])), atol=0.03)
    np.testing.assert_allclose(share(temperature=1.0, top_p=0.7)[:2], softmax(np.array([2.0, 1.0])), atol=0.03)
    assert share(temperature=1.0, top_p=0.7)[2:].sum() == 0
    assert share()[0] == 1
    penalised = Rules(until=(), most=1, ends=frozenset(), penalty=3.0)
    assert draw(logits, penalised, [0, 0, 3], None) == 1


def test_a_models_own_penalty_counts_as_it_does_for_hflm(model, tokenizer, monkeypatch):
    monkeypatch.setattr(model, "generation_config", GenerationConfig(repetition_penalty=1.7, eos_token_id=1))
    found = write(model, tokenizer, ask(PROMPTS))
    assert found == theirs(model, tokenizer, ask(PROMPTS), batch=1)
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=1))
    assert found != write(model, tokenizer, ask(PROMPTS))


def test_what_the_loop_does_not_know_is_left_to_lm_eval(model, tokenizer):
    beams = PLAIN | {"num_beams": 2}
    assert rules_for(beams, model, tokenizer) is None
    requests = [*ask(PROMPTS[:3], beams), *ask(PROMPTS)]
    assert write(model, tokenizer, requests) == theirs(model, tokenizer, requests)


def test_out_of_memory_halves_the_slots_and_goes_on(model, tokenizer, monkeypatch):
    expected = theirs(model, tokenizer, ask(PROMPTS))
    step, notes = generate._step, []

    def scarce(reader, slots, active):
        if len(active) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        step(reader, slots, active)

    monkeypatch.setattr(generate, "_step", scarce)
    assert write(model, tokenizer, ask(PROMPTS), say=notes.append, slots=8) == expected
    assert notes == ["out of memory: going on with 3 texts at once", "out of memory: going on with 1 texts at once"]

    def none_left(reader, slots, active):
        raise MemoryError

    monkeypatch.setattr(generate, "_step", none_left)
    with pytest.raises(MemoryError):
        write(model, tokenizer, ask(PROMPTS))


def test_the_first_of_the_largest_is_the_likeliest():
    generator = torch.Generator().manual_seed(0)
    for size in (64, 100, 256):
        logits = torch.randint(0, 5, (50, size), generator=generator).float()
        assert likeliest(logits).tolist() == logits.argmax(-1).tolist()
