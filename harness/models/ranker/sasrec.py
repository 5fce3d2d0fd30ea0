"""SASRec: self-attention over what a user had so far scores what comes next, as an ordinary transformers model."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class SasRecConfig(PretrainedConfig):
    """The shape of a SASRec: `vocab_size` items, of which it looks back on `max_position_embeddings`."""

    model_type = "viva-sasrec"

    def __init__(
        self,
        vocab_size: int = 1000,
        hidden_size: int = 50,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 1,
        intermediate_size: int = 50,
        max_position_embeddings: int = 100,
        dropout: float = 0.2,
        initializer_range: float = 0.02,
        **others: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.dropout = dropout
        self.initializer_range = initializer_range
        super().__init__(**others)


class Block(nn.Module):
    """Causal self-attention and a point-wise feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, config: SasRecConfig):
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.dropout
        self.norm_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        size, time, width = x_BTD.shape
        qkv = self.queries_keys_values(self.norm_attention(x_BTD)).view(size, time, 3, self.heads, -1)
        q_BHTK, k_BHTK, v_BHTK = qkv.permute(2, 0, 3, 1, 4)
        seen_BHTK = functional.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        x_BTD = x_BTD + self.drop(self.out(seen_BHTK.transpose(1, 2).reshape(size, time, width)))
        return x_BTD + self.drop(self.down(self.drop(functional.relu(self.up(self.norm_mlp(x_BTD))))))


class SasRec(PreTrainedModel):  # type: ignore[misc]
    """Scores of all items after each item of a history; the output matrix is the items' embedding.

    Source: Kang and McAuley 2018 (arXiv 1808.09781), with the norm before each layer throughout. Rows that are shorter
    than others of their batch are filled at their end: what comes later is never seen.
    """

    config_class = SasRecConfig
    base_model_prefix = "sasrec"

    def __init__(self, config: SasRecConfig):
        super().__init__(config)
        self.items = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.popularity = nn.Parameter(torch.zeros(config.vocab_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.items

    def hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What the history up to each item comes to: [B, T, D] of item numbers [B, T]."""
        x_BTD = self.items(input_ids) * self.config.hidden_size**0.5
        x_BTD = self.drop(x_BTD + self.positions.weight[: input_ids.shape[1]])
        for block in self.blocks:
            x_BTD = block(x_BTD)
        normed_BTD: torch.Tensor = self.norm(x_BTD)
        return normed_BTD

    def score(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Scores of all items [N, V]."""
        return hidden_ND @ self.items.weight.T + self.popularity

    def score_some(self, hidden_ND: torch.Tensor, item_NK: torch.Tensor) -> torch.Tensor:
        """Scores of the items named at each position [N, K]."""
        some_NK: torch.Tensor = (self.items(item_NK) @ hidden_ND[:, :, None])[:, :, 0] + self.popularity[item_NK]
        return some_NK

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.score(self.hidden(input_ids)))
