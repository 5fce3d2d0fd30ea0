"""Small real models and a small real tokenizer, made by code."""

from pathlib import Path

import pytest

TEXT = (
    "The spider waited quietly for an insect to get caught in its web. She made a mistake in pencil and removed it "
    "with an eraser. To stop the butter from melting, Lena put it in the refrigerator. What is the capital of France? "
    "The capital of France is Paris. Water boils at one hundred degrees. user assistant system "
)
TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer of a few hundred tokens with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [TEXT] * 3,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", clean_up_tokenization_spaces=False
    )
    made.chat_template = TEMPLATE
    return made


def make_model(seed: int, layers: int = 2, window: int = 256):
    """A randomly initialised Llama whose attention is far from uniform, so that a wrong mask shows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=400,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=window,
            tie_word_embeddings=True,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            attn_implementation="sdpa",
        )
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def model():
    return make_model(1)


@pytest.fixture(scope="session")
def other_model():
    return make_model(2)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, model, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_dir(tmp_path_factory, other_model, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("other")
    other_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
