"""Interactions with something to learn in them, and rankers small enough for a test."""

import random
from pathlib import Path

import torch

from harness.models.load import LoadedModel
from harness.models.ranker.family import Catalogue
from harness.models.ranker.sasrec import SasRec, SasRecConfig

FOLLOWERS = 3  # items that may come after an item


def write_interactions(path: Path, users: int = 120, items: int = 60, length: int = 14, seed: int = 0) -> Path:
    """A table in which mostly one of three followers comes after an item, and now and then any item."""
    rng = random.Random(seed)
    after = {item: rng.sample(range(items), FOLLOWERS) for item in range(items)}
    lines = ["user_id,item_id,timestamp"]
    for user in range(users):
        item = rng.randrange(items)
        for time in range(length):
            lines.append(f"u{user},i{item},{time}")
            item = rng.choice(after[item]) if rng.random() < 0.9 else rng.randrange(items)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_ranker(items: int = 30, hidden: int = 8, window: int = 6, dropout: float = 0.0, seed: int = 0) -> LoadedModel:
    """Random weights large enough for scores that differ."""
    config = SasRecConfig(
        vocab_size=items,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=window,
        dropout=dropout,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SasRec(config)
    return LoadedModel(model.eval(), Catalogue(tuple(f"i{number}" for number in range(items))))
