"""Small random models of the families that Viva prunes and exports, with the byte tokenizer of `tiny`."""

from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness.models.load import LoadedModel
from tests.tiny import tiny_tokenizer

FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama-biases": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 16, "head_dim": 8}),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8, "hidden_activation": "gelu_pytorch_tanh"},
    ),
}


def family_model(
    name: str, *, tied: bool = True, layers: int = 3, seed: int = 0, tokenizer: Any = None, **changes: Any
) -> LoadedModel:
    """A model of one family with all parts random, biases and norms too, in float64; the norms' epsilon is nothing."""
    config_class, model_class, extra = FAMILIES[name]
    tokenizer = tokenizer or tiny_tokenizer()
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-14,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config_class(**{**settings, **extra, **changes})).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return LoadedModel(model.eval(), tokenizer)


def logits(model: Any) -> torch.Tensor:
    """[1, 40, vocabulary] for one row of tokens."""
    with torch.inference_mode():
        return model(input_ids=torch.arange(2, 42)[None] * 5 % 250).logits
