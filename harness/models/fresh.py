"""A model from nothing: a tokenizer made from a corpus, and random weights in a shape that the study names."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError
from harness.models.load import LoadedModel

if TYPE_CHECKING:
    from harness.config import Shape

END = "<|endoftext|>"
WINDOW = 2048  # tokens the model may see at once: rotary positions cost nothing, and `words` needs 1,024

# A model of plain text knows no roles: a chat is its text so far, and an answer is how the text goes on.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endfor %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer (PreTrainedTokenizerFast) of at most `vocabulary` tokens, merges learnt from `texts`.

    The same texts give the same tokenizer. All 256 bytes are tokens, so every text can be written; one special token
    begins and ends documents, as GPT-2 has it. A corpus with too few pairs to merge gives a smaller vocabulary. Its
    chat template writes messages as plain text. Raises ConfigError for a vocabulary with no room for a merge. Source:
    Sennrich et al. 2016, over bytes as in Radford et al. 2019, section 2.2.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary <= len(alphabet) + 1:
        raise ConfigError(
            f"a vocabulary of {vocabulary} has no room beside the {len(alphabet)} bytes", hint="ask for 300 or more"
        )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END, pad_token=END)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def fresh_model(tokenizer: Any, shape: "Shape", seed: int) -> LoadedModel:
    """A Llama of the whole `shape` with random weights drawn from `seed` alone, as the architecture initialises them.

    The output matrix is the embedding's, so that a small model spends few weights on its vocabulary; `kv_heads` is
    `heads` unless named. Raises ConfigError for a shape whose widths do not fit each other.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden, heads, mlp = shape.layers, shape.hidden, shape.heads, shape.mlp
    if layers is None or hidden is None or heads is None or mlp is None:
        raise ConfigError("a model from nothing needs layers, hidden, heads and mlp", hint="name them all in shape")
    kv_heads = shape.kv_heads or heads
    if hidden % heads or hidden // heads % 2:
        raise ConfigError(
            f"hidden = {hidden} does not split into heads = {heads} of an even width",
            hint=f"take a multiple of {2 * heads}",
        )
    if heads % kv_heads:
        raise ConfigError(f"heads = {heads} is no multiple of kv_heads = {kv_heads}", hint="take a divisor of heads")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return LoadedModel(model.eval(), tokenizer)
