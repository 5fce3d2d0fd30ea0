"""The chunked head against the model's own forward and ordinary autograd, with capping and scaling."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutput

from harness.train.head import Head, backward_by_chunks, head_of
from tests.models.families import family_model

SHAPE = {
    "vocab_size": 90,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def models() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "llama, tied": LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
        "llama, untied": LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)),
        "gemma2, soft-capped": Gemma2ForCausalLM(
            Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=0.5, attn_implementation="eager")
        ),
        "cohere, scaled": CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.3)),
        "granite, scaled": GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=5.0)),
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=90, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
        ),
        "phi, with a bias": PhiForCausalLM(PhiConfig(**SHAPE)),
    }


NAMES = list(models())


def slope_of(loss_of: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The gradient of a loss by autograd, as the chunks want it."""

    def slope(logits: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            return torch.autograd.grad(loss_of(logits, start, stop), logits)[0]

    return slope


@pytest.mark.parametrize("name", NAMES)
def test_the_head_gives_the_logits_of_the_model_itself(name: str) -> None:
    model = models()[name].eval()
    ids = torch.randint(3, 90, (1, 20))
    head = head_of(model)
    assert head is not None
    assert (head.after is not None) == any(word in name for word in ("capped", "scaled"))
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(head.logits(hidden), model(input_ids=ids).logits[0])
    assert "Given" not in repr(model)  # everything is back in its place


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_give_the_gradients_of_ordinary_autograd(name: str, chunk: int) -> None:
    model = models()[name].train(False)
    ids = torch.randint(3, 90, (1, 20))
    weight = torch.rand(20, 90)

    def loss_of(logits: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return (logits.log_softmax(-1) * weight[start:stop]).sum()

    loss_of(model(input_ids=ids).logits[0], 0, 20).backward()
    wanted = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=chunk == 7)
    head = head_of(model)
    assert head is not None
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
    hidden.backward(backward_by_chunks(hidden, head, chunk, slope_of(loss_of)))
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[key], rtol=1e-4, atol=1e-5)


def test_a_frozen_matrix_gets_no_gradient() -> None:
    model = models()["llama, untied"]
    model.lm_head.weight.requires_grad_(False)
    head = head_of(model)
    assert head is not None
    hidden = torch.randn(5, 16, requires_grad=True)
    grad = backward_by_chunks(hidden, head, 2, lambda logits, start, stop: 2 * logits)
    torch.testing.assert_close(grad, 2 * (hidden @ head.weight_VD.T @ head.weight_VD).detach())
    assert model.lm_head.weight.grad is None


class Shifted(LlamaForCausalLM):
    """A model that does something between its last hidden states and its head."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> CausalLMOutput:
        hidden = self.model(input_ids=input_ids, use_cache=False).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden + 1.0))


class Mixing(LlamaForCausalLM):
    """A model whose logits depend on those of other positions."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> CausalLMOutput:
        logits = self.lm_head(self.model(input_ids=input_ids, use_cache=False).last_hidden_state)
        return CausalLMOutput(logits=logits + logits.roll(1, dims=-2))


@pytest.mark.parametrize("kind", [Shifted, Mixing])
def test_a_model_with_another_head_is_left_to_its_own_forward(kind: type[LlamaForCausalLM]) -> None:
    torch.manual_seed(0)
    assert head_of(kind(LlamaConfig(**SHAPE))) is None


def test_the_model_stays_whole_while_its_head_is_used() -> None:
    """Other threads read with it meanwhile."""
    model = family_model("gemma2").model
    head = head_of(model)
    assert head is not None
    assert head.after is not None
    decoder, linear = model.get_decoder(), model.get_output_embeddings()
    seen = []
    model.register_forward_pre_hook(
        lambda *_: seen.append(model.get_decoder() is decoder and model.get_output_embeddings() is linear)
    )
    head.logits(torch.zeros(3, linear.in_features, dtype=linear.weight.dtype))
    assert seen == [True]


def test_bfloat16_products_stay_near_float32() -> None:
    torch.manual_seed(1)
    head = Head(torch.randn(50, 16).requires_grad_(), None, None)
    hidden = torch.randn(9, 16, requires_grad=True)

    def loss_of(logits: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        assert logits.dtype == torch.float32
        return -logits.log_softmax(-1)[:, 3].sum()

    exact = backward_by_chunks(hidden, head, 4, slope_of(loss_of))
    weight_grad = head.weight_VD.grad
    head.weight_VD.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = backward_by_chunks(hidden, head, 4, slope_of(loss_of))
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=0.1, atol=0.1)
    torch.testing.assert_close(head.weight_VD.grad, weight_grad, rtol=0.1, atol=0.1)
