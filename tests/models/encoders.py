"""A small real encoder: a BERT with random weights over a vocabulary of words, and texts with something to learn."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from harness.models.encoder.load import number_layers
from harness.models.load import LoadedModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUMBERS = tuple(f"n{number}" for number in range(40))
GOOD, BAD = ("fine", "lovely", "great", "clever"), ("dull", "poor", "awful", "weak")
WORDS = ("a", "the", "film", "was", "is", "and", "then", "story", *GOOD, *BAD, *NUMBERS)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def tiny_bert(layers: int = 4, hidden: int = 32, seed: int = 0, dropout: float = 0.0) -> LoadedModel:
    """A BERT with masked-LM head in float32, its weights large enough for predictions worth imitating."""
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForMaskedLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.1)
    number_layers(model)
    return LoadedModel(model.eval(), tokenizer)


def save_bert(folder: Path, **kwargs: int) -> Path:
    loaded = tiny_bert(**kwargs)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def counting(count: int = 200) -> list[str]:
    """Texts that count up: a masked number follows from its neighbours."""
    rng = random.Random(1)
    texts = []
    for _ in range(count):
        first = rng.randrange(len(NUMBERS) - 10)
        texts.append(" ".join(NUMBERS[first : first + rng.randrange(6, 10)]))
    return list(dict.fromkeys(texts))


def corpus(path: Path, count: int = 400) -> Path:
    """The texts as a file; blank lines part them."""
    path.write_text("\n\n".join(counting(count)), encoding="utf-8")
    return path


def opinions(path: Path, count: int = 400) -> Path:
    """A table of texts with labels: which kind of word stands in them."""
    rng = random.Random(2)
    lines = ["text,label"]
    for number in range(count):
        kind = number % 2
        word = rng.choice(GOOD if kind else BAD)
        others = [rng.choice(("a", "the", "film", "was", "is", "and", "then", "story")) for _ in range(4)]
        place = rng.randrange(5)
        words = [*others[:place], word, *others[place:], rng.choice(NUMBERS), rng.choice(NUMBERS)]
        lines.append(f"{' '.join(words)},{'pos' if kind else 'neg'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
