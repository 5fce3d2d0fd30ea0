"""Packed rows against each document alone under transformers' own eager attention, on eight architectures."""

import contextlib
import warnings
from typing import Any

import pytest
import torch
import transformers

from harness.errors import ConfigError
from harness.models.attention import Rule, Seen, _one_document, packed

LENGTHS = (9, 1, 14, 6)
SHAPE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GEMMA = SHAPE | {"head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 20}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SHAPE),
    "llama-one-kv-head": ("Llama", SHAPE | {"num_key_value_heads": 1}),
    "qwen2": ("Qwen2", SHAPE),
    "qwen2-window": ("Qwen2", SHAPE | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen2-moe": (  # whose layers know their window and do not hand it over
        "Qwen2Moe",
        SHAPE
        | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "moe_intermediate_size": 16}
        | {"num_experts": 2, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 16},
    ),
    "qwen3": ("Qwen3", SHAPE | {"head_dim": 16}),
    "gemma2": ("Gemma2", GEMMA | {"layer_types": MIXED, "attn_logit_softcapping": 2.0}),
    "gemma2-no-window": ("Gemma2", GEMMA | {"layer_types": ["full_attention"] * 3}),
    "gemma3": ("Gemma3", GEMMA | {"layer_types": MIXED}),
    "mistral": ("Mistral", SHAPE | {"sliding_window": 5}),
    "granite": ("Granite", SHAPE | {"attention_multiplier": 0.4, "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "gpt2": ("GPT2", {"vocab_size": 48, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "gpt2-by-layer": (
        "GPT2",
        {
            "vocab_size": 48,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "scale_attn_by_inverse_layer_idx": True,
        },
    ),
    "gptneox": ("GPTNeoX", {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}),
}
OUTPUT = ("self_attn.o_proj", "attn.c_proj", "attention.dense")  # what the heads' outputs enter, by architecture


def make(name: str, seed: int = 0) -> Any:
    """A random model in float64 whose attention is far from uniform."""
    family, settings = MODELS[name]
    config_class = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")
    config = config_class(**settings, bos_token_id=0, eos_token_id=1, pad_token_id=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")  # the only one that knows float64
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model.double().eval()


def documents(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, 48, (length,), generator=generator) for length in lengths]


def packed_forward(model: Any, texts: list[torch.Tensor], **kwargs: Any) -> Any:
    """The forward pass as the objective has it: within `packed`, positions restarting."""
    positions = torch.cat([torch.arange(len(text)) for text in texts])[None]
    return model(input_ids=torch.cat(texts)[None], position_ids=positions, use_cache=False, **kwargs)


def loss_of(logits_TV: torch.Tensor) -> torch.Tensor:
    """A loss that every logit has part in, additive over documents."""
    return (logits_TV.log_softmax(-1) * torch.linspace(-1, 1, logits_TV.shape[-1], dtype=logits_TV.dtype)).sum()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("name", MODELS)
def test_a_packed_row_is_each_document_alone_with_gradients(name: str, checkpointing: bool) -> None:
    model, texts = make(name), documents()
    alone = [model(input_ids=text[None], use_cache=False).logits[0] for text in texts]
    torch.stack([loss_of(logits_TV) for logits_TV in alone]).sum().backward()
    expected = gradients(model)
    model.zero_grad()
    if checkpointing:
        for module in model.modules():  # dropout is off, so that train mode only switches checkpointing on
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train().activation_checkpointing_enable()
        assert model.is_activation_checkpointing
    with packed(model, LENGTHS):
        logits_TV = packed_forward(model, texts).logits[0]
        loss_of(logits_TV).backward()
    torch.testing.assert_close(logits_TV, torch.cat(alone), rtol=1e-5, atol=1e-5)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()) + 1e-8, msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_seen_gives_eager_attention_again(name: str) -> None:
    """softmax of the recorded scores is the eager weights; times the recorded values, what the output matrix gets."""
    model, texts = make(name), documents()
    seen = Seen()
    with torch.no_grad(), packed(model, LENGTHS, seen, range(3)):
        packed_forward(model, texts)
    start = 0
    for text in texts:
        weights, outputs = eager_attention(model, text)
        for layer in range(3):
            cut = slice(start, start + len(text))
            query, key, value = (table[layer][:, cut] for table in (seen.query, seen.key, seen.value))
            rule = seen.rule[layer]
            score_HTT = rule.scores(query, key).masked_fill(~rule.allowed(len(text)), -torch.inf)
            torch.testing.assert_close(score_HTT.softmax(-1), weights[layer], rtol=1e-5, atol=1e-6)
            value_HTd = value.repeat_interleave(query.shape[0] // value.shape[0], dim=0)
            mixed_TD = (score_HTT.softmax(-1) @ value_HTd).transpose(0, 1).flatten(1)
            torch.testing.assert_close(mixed_TD, outputs[layer], rtol=1e-5, atol=1e-5)
        start += len(text)


def eager_attention(model: Any, text: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Eager weights [H, T, T] of one document, layer by layer, and the heads' outputs side by side [T, H d]."""
    outputs: list[torch.Tensor] = []
    modules = [module for name, module in model.named_modules() if name.endswith(OUTPUT)]
    assert len(modules) == 3
    handles = [module.register_forward_pre_hook(lambda _, given: outputs.append(given[0][0])) for module in modules]
    with torch.no_grad():
        out = model(input_ids=text[None], use_cache=False, output_attentions=True)
    for handle in handles:
        handle.remove()
    return [weight_BHTT[0] for weight_BHTT in out.attentions], outputs


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3"])
def test_a_loss_on_what_is_seen_has_its_gradient_under_checkpointing(name: str) -> None:
    texts, found = documents(), []
    for checkpointing in (False, True):
        model, seen = make(name), Seen()
        if checkpointing:
            model.train().activation_checkpointing_enable()
        with packed(model, LENGTHS, seen, (1,)):
            logits_TV = packed_forward(model, texts).logits[0]
            recorded = seen.query[1]
            loss = loss_of(logits_TV) + sum(table[1].square().sum() for table in (seen.query, seen.key, seen.value))
            loss.backward()
        assert seen.query[1] is recorded  # not replaced by its recomputation
        assert list(seen.query) == [1]
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, msg=key)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "mistral"])
def test_in_bfloat16_a_packed_row_is_as_near_as_eager_is(name: str) -> None:
    model, texts = make(name).float(), documents()
    with torch.no_grad():
        exact_TV = torch.cat([model(input_ids=text[None], use_cache=False).logits[0] for text in texts])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            eager_TV = torch.cat([model(input_ids=text[None], use_cache=False).logits[0] for text in texts])
            with packed(model, LENGTHS):
                packed_TV = packed_forward(model, texts).logits[0]
    assert (packed_TV - exact_TV).norm() < 2 * (eager_TV - exact_TV).norm()


def test_dropout_is_applied() -> None:
    model, texts = make("gpt2").train(), documents()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.no_grad(), packed(model, LENGTHS):
            runs.append(packed_forward(model, texts).logits)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_model_attends_as_before_afterwards_also_after_an_error() -> None:
    model, text = make("llama"), documents((12,))[0]
    model.set_attn_implementation("sdpa")
    before = model(input_ids=text[None], use_cache=False).logits
    with packed(model, (5, 7)):
        inside = model(input_ids=text[None], use_cache=False).logits
    with contextlib.suppress(KeyError), packed(model, (5, 7)):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=text[None], use_cache=False).logits, before)
    assert not torch.allclose(inside, before)


def test_one_model_within_another() -> None:
    """A teacher asked while the student's row is under way, with other lengths: each keeps its own."""
    student, teacher, texts = make("llama"), make("gpt2", seed=1), documents()
    theirs = documents((3, 4))
    with torch.no_grad():
        with packed(student, LENGTHS):
            expected = packed_forward(student, texts).logits
        with packed(student, LENGTHS):
            with packed(teacher, (3, 4)):
                packed_forward(teacher, theirs)
            assert torch.equal(packed_forward(student, texts).logits, expected)


@pytest.mark.parametrize("rule", [Rule(scaling=1.0, window=2), Rule(scaling=1.0, softcap=2.0)])
def test_masks_are_made_where_the_model_is(rule: Rule) -> None:
    """torch's meta device, on which nothing is computed, takes no mask that lies in the processor's memory."""
    heads = [torch.empty(count, 5, 8, device="meta") for count in (4, 2, 2)]
    assert _one_document(*heads, rule, dropout=0.0).device.type == "meta"


def test_the_window_is_the_nearest_keys() -> None:
    rows = Rule(scaling=1.0, window=2).allowed(4).int().tolist()
    assert rows == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert torch.equal(Rule(scaling=1.0, window=4).allowed(4), Rule(scaling=1.0).allowed(4))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mamba": ("Mamba", {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2}, r"layers \[0, 1\] do not go"),
    "bloom": ("Bloom", {"vocab_size": 48, "hidden_size": 16, "n_layer": 2, "n_head": 2}, r"layers \[0, 1\] do not go"),
    "gpt-oss": (
        "GptOss",
        SHAPE | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 4, "head_dim": 8},
        "attends by s_aux",
    ),
    "phimoe": (
        "Phimoe",
        SHAPE | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 4},
        "a mask keeps its attention to 4 tokens",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_would_be_packed_wrongly_is_refused(name: str) -> None:
    family, settings, message = REFUSED[name]
    config = getattr(transformers, f"{family}Config")(**settings, bos_token_id=0, eos_token_id=1, pad_token_id=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about kernels that are not installed
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad(), pytest.raises(ConfigError, match=message) as error, packed(model, LENGTHS):
            model(input_ids=torch.cat(documents())[None], use_cache=False)
    assert "Llama" in str(error.value.hint)
