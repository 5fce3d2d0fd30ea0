"""From messages to tokens: one place decides how a chat looks to a model, for training, scoring and answering alike."""

from collections.abc import Sequence
from typing import Any

from harness.errors import ConfigError
from harness.records import Chat, Message


def render_prompt(tokenizer: Any, messages: Sequence[Message], system: str | None) -> str:
    """The text up to the point where the model begins to answer `messages` (which end with the user's turn)."""
    if tokenizer.chat_template is None:
        raise ConfigError(
            "the model's tokenizer has no chat template", hint="use an instruct model, or add a chat template to it"
        )
    chat = [{"role": m.role, "content": m.content} for m in messages]
    if system is not None and chat[0]["role"] != "system":
        chat = [{"role": "system", "content": system}, *chat]
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


def encode_prompt(tokenizer: Any, messages: Sequence[Message], system: str | None) -> list[int]:
    """Token ids of `render_prompt`. The template writes its own special tokens, so none are added."""
    text = render_prompt(tokenizer, messages, system)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_of_turn(tokenizer: Any) -> int:
    """The token with which the model ends its turn: the tokenizer's end-of-sequence token."""
    if tokenizer.eos_token_id is None:
        raise ConfigError("the model's tokenizer names no end-of-sequence token", hint="set eos_token in it")
    return int(tokenizer.eos_token_id)


def encode_chat(tokenizer: Any, messages: Sequence[Message], system: str | None) -> tuple[list[int], list[bool]]:
    """Token ids of a whole chat and, for each, whether it is an assistant token (content or end of turn).

    Each answer is tokenised apart from the text before it, exactly as the model wrote it when it generated.
    """
    ids: list[int] = []
    target: list[bool] = []
    seen = ""
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        text = render_prompt(tokenizer, messages[:number], system)
        if not text.startswith(seen):
            raise ConfigError(
                "the chat template rewrites earlier turns, so a chat of several turns has no single token sequence",
                hint="train on chats of one turn",
            )
        prompt = tokenizer(text[len(seen) :], add_special_tokens=False)["input_ids"]
        answer = [*tokenizer(message.content, add_special_tokens=False)["input_ids"], end_of_turn(tokenizer)]
        ids += [*prompt, *answer]
        target += [False] * len(prompt) + [True] * len(answer)
        seen = text + message.content + tokenizer.decode([end_of_turn(tokenizer)])
    return ids, target


def encode_document(tokenizer: Any, chat: Chat, system: str | None) -> tuple[list[int], list[bool]]:
    """`encode_chat` for a chat of a corpus; an answer cut at the token limit gets no end of turn that nobody wrote."""
    ids, target = encode_chat(tokenizer, chat.messages, system)
    return (ids[:-1], target[:-1]) if chat.finish == "length" else (ids, target)
