"""Tokenizers that cut text otherwise than the tiny one: byte-level BPE with merges, and one as SentencePiece makes."""

import json
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

OTHER_TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
WRITTEN = [
    "The quick brown fox jumps over the lazy dog. After the dog comes the fox, and then the other fox.",
    "Größe, naïve café, 東京の天気, smile 😀 and again 😀. What comes after 3? After 3 comes 4.",
    "one two three one two three  two  spaces\nand\n\nlines of the other kind",
]


@cache
def merging(trim: bool = False, lower: bool = False, size: int = 420) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with merges; `trim` reports spans without spaces, `lower` changes the text first."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if trim:
        core.post_processor = processors.ByteLevel(trim_offsets=True)
    if lower:
        core.normalizer = normalizers.Lowercase()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["</s>", "<|im_start|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(WRITTEN * 3, trainer)
    return finished(core)


@cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer made as Llama 2's is: spaces as U+2581, one before the text, rare letters as bytes."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=names, show_progress=False)
    core.train_from_iterator(WRITTEN[::2] * 3, trainer)
    made = json.loads(core.to_str())["model"]  # the bytes become ordinary tokens, as they are in such tokenizers
    merges = [tuple(merge) for merge in made["merges"]]
    core = Tokenizer(models.BPE(made["vocab"], merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return finished(core)


def finished(core: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = OTHER_TEMPLATE
    return tokenizer
