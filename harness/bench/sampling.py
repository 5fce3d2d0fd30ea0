"""How a text goes on and where it ends: lm-eval's generation arguments, a token at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "num_beams"}
OTHERS = (
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "min_p",
    "sequence_bias",
)
"""What a model's own generation config may ask for beyond `Rules`."""
BLOCK = 64


@dataclass(frozen=True)
class Rules:
    """Temperature 0 takes the likeliest token; `most` bounds the tokens, `ends` and the strings `until` end the text.

    `top_k` (0: all) and `top_p` narrow what is drawn from; `penalty` divides the positive logits of tokens that were
    there before, and multiplies the negative ones (Keskar et al., CTRL, 2019, section 4.1).
    """

    until: tuple[str, ...]
    most: int
    ends: frozenset[int]
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    penalty: float = 1.0
    spelled: dict[int, str] = field(default_factory=dict, compare=False)  # what tokens add to a text, once seen

    def over(self, written: Sequence[int], tokenizer: Any) -> bool:
        """Whether a text ends with its last token."""
        last = written[-1]
        if last in self.ends or len(written) >= self.most:
            return True
        if last not in self.spelled:
            self.spelled[last] = tokenizer.decode([last], skip_special_tokens=True)
        # Most tokens cannot end a stop string; where bytes make no character yet, nothing can be said.
        text = self.spelled[last]
        stops = [stop for stop in self.until if stop and (stop[-1] in text or "\N{REPLACEMENT CHARACTER}" in text)]
        if not stops:
            return False
        tail = list(written[-max(map(len, stops)) * 4 - 4 :])
        recent = tokenizer.decode(tail, skip_special_tokens=True)
        return any(stop in recent for stop in stops)

    def text(self, written: Sequence[int], tokenizer: Any) -> str:
        """The text of the tokens, cut at the first stop string as lm-eval cuts it."""
        from lm_eval.models.utils import postprocess_generated_text

        whole = tokenizer.decode(list(written), skip_special_tokens=True)
        return str(postprocess_generated_text(whole, list(self.until), think_end_token=None))


def rules_for(arguments: dict[str, Any], model: Any, tokenizer: Any) -> Rules | None:
    """The rules that lm-eval's HFLM would follow, None where they ask for more than `Rules` knows.

    What the arguments leave open is the model's own generation config's.
    """
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    given: dict[str, Any] = dict(normalize_gen_kwargs(arguments))
    own = model.generation_config
    foreign = set(given) - KNOWN or any(getattr(own, name, None) for name in OTHERS)
    if foreign or given.get("num_beams", getattr(own, "num_beams", None)) not in (None, 1):
        return None

    def wanted(name: str, default: float) -> float:
        value = given.get(name, getattr(own, name, None))
        return default if value is None else float(value)

    ends = own.eos_token_id if own.eos_token_id is not None else []
    until = handle_stop_sequences(list(given["until"]), eos=tokenizer.decode(tokenizer.eos_token_id))
    return Rules(
        until=tuple(until),
        most=int(given["max_gen_toks"]),
        ends=frozenset([tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]),
        temperature=wanted("temperature", 1.0) if given["do_sample"] else 0.0,
        top_k=int(wanted("top_k", 0)),
        top_p=wanted("top_p", 1.0),
        penalty=wanted("repetition_penalty", 1.0),
    )


def draw(logits_V: "torch.Tensor", rules: Rules, before: Sequence[int], generator: "torch.Generator | None") -> int:
    """The next token after the tokens `before`, drawn from `generator` where the temperature is above 0."""
    import torch

    if rules.penalty != 1.0:
        logits_V = logits_V.clone()
        seen = torch.as_tensor(sorted(set(before)), device=logits_V.device)
        value = logits_V[seen]
        logits_V[seen] = torch.where(value < 0, value * rules.penalty, value / rules.penalty)
    if not rules.temperature:
        return int(logits_V.argmax())
    top_K, index_K = (logits_V.float() / rules.temperature).sort(descending=True, stable=True)
    if rules.top_k:
        top_K = top_K[: rules.top_k]
    probability_K = top_K.softmax(-1)
    mass_before_K = probability_K.cumsum(-1) - probability_K
    probability_K = probability_K.masked_fill(mass_before_K >= rules.top_p, 0.0)
    return int(index_K[torch.multinomial(probability_K.cpu(), 1, generator=generator)])


def likeliest(logits_SV: "torch.Tensor") -> "torch.Tensor":
    """The first of the largest logits of each row, [S]: argmax in two steps, which is several times as fast."""
    import torch

    size, vocabulary = logits_SV.shape
    if vocabulary % BLOCK or not logits_SV.is_contiguous():
        return logits_SV.argmax(-1)
    logits_SBW = logits_SV.view(size, -1, BLOCK)
    block_S = logits_SBW.amax(-1).argmax(-1)
    within_S = logits_SBW[torch.arange(size, device=logits_SV.device), block_S].argmax(-1)
    return block_S * BLOCK + within_S
