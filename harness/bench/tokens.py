"""Text to tokens exactly as lm-eval's HFLM does it, so that Viva's numbers are lm-eval's numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

DEFAULT_WINDOW = 2048  # lm-eval's, for a model whose config and tokenizer name none


def prefix_token(tokenizer: Any) -> int:
    """The token that stands before a text without context: beginning of sequence, else end of sequence."""
    bos = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if bos is None else bos)


def encode_text(tokenizer: Any, text: str, add_special_tokens: bool | None = None) -> list[int]:
    """Token ids of a text. Special tokens are the tokenizer's own habit, unless the text brings its own first one."""
    if add_special_tokens is None and text.startswith(tokenizer.decode(prefix_token(tokenizer))):
        add_special_tokens = False
    options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
    return list(tokenizer.encode(text, **options))


def window_length(model: Any, tokenizer: Any) -> int:
    """How many tokens the model may see at once, looked up in lm-eval's order."""
    config = getattr(model.config, "text_config", None) or model.config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        value = getattr(config, name, None)
        if value is not None:
            return int(value)
    named = getattr(tokenizer, "model_max_length", None)
    # A tokenizer that knows no limit says so with 1e30.
    return int(named) if named is not None and named < 1e9 else DEFAULT_WINDOW


def rolling_windows(
    tokens: Sequence[int], prefix: int, length: int, stride: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a text into windows so that each token is predicted once; yields (input, predicted).

    The last `len(predicted)` positions of `input` predict `predicted`. The first window predicts up to `length`
    tokens after `prefix`; each later one `stride` tokens, seeing at most `length` tokens. With `stride == length`
    these are lm-eval's windows (`get_rolling_token_windows` with `context_len=1`).
    """
    if not 1 <= stride <= length:
        raise ValueError(f"stride {stride} is not between 1 and the window length {length}")
    first = min(length, len(tokens))
    if first:
        yield [prefix, *tokens[: first - 1]], list(tokens[:first])
    done = first
    while done < len(tokens):
        end = min(done + stride, len(tokens))
        # The token before the window's own first one is there: `done >= length`, hence `end > length`.
        yield list(tokens[end - length - 1 : end - 1]), list(tokens[done:end])
        done = end
