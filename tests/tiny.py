"""A small real model: a four-layer Llama with random weights and a byte tokenizer with a chat template."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.models.load import LoadedModel
from harness.records import Chat, Message, write_jsonl

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(extra: int = 0) -> PreTrainedTokenizerFast:
    """One token per byte, plus the special ones; `extra` adds tokens, so that vocabularies can differ."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|im_start|>", "<|im_end|>", *alphabet, *(f"<|extra{number}|>" for number in range(extra))]
    core = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(layers: int = 4, seed: int = 0, extra: int = 0) -> LoadedModel:
    """A model whose parts are all there, in float32, ready in milliseconds."""
    tokenizer = tiny_tokenizer(extra)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    # Random weights of the usual size give nearly uniform predictions; larger ones make them worth imitating.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return LoadedModel(model.eval(), tokenizer)


def save_tiny(folder: Path, **kwargs: int) -> Path:
    """A tiny model as an ordinary model directory."""
    loaded = tiny_model(**kwargs)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def tiny_chats(count: int = 40) -> list[Chat]:
    """Short chats with something to learn in them."""
    return [
        Chat(
            id=f"c{number}",
            kind="count",
            messages=(
                Message(role="user", content=f"What comes after {number}?"),
                Message(role="assistant", content=f"After {number} comes {number + 1}."),
            ),
        )
        for number in range(count)
    ]


def tiny_corpus(path: Path, count: int = 40) -> Path:
    write_jsonl(path, tiny_chats(count))
    return path
