"""What a training will cost, before it starts: operations, time, energy, memory and bytes of cache.

Pure formulas: model sizes, rows of documents and the speed of a machine in, numbers out. docs/scale.md explains them
and applies them to models that fit on no desk.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.config import Cache, Lora, Train
from harness.train.batches import Document, Row, pack

EFFICIENCY = (
    0.7  # share of the machine's matrix-product rate that training reaches; docs/demo.md: 115 of about 170 GFLOP/s
)
DRAWN_BYTES = {"texts": (30.9, 0.68), "chats": (18.5, 0.54)}  # measured: bytes at 50 draws, power of draws / 50
HEAD_COPIES = 8  # estimate: arrays of [chunk, vocabulary] that head and divergence hold at once
PROCESS_BYTES = 0.5e9  # resident memory of Python, torch and transformers before the first model
WATTS_PER_CORE = 5.0  # assumed where power cannot be read: a server processor of 280 W and 64 cores, rounded up
WATTS_PER_GPU = 700.0  # assumed: an H100 SXM at its limit
WRITING_BATCH = 48  # answers that the teacher writes at once
IN_PRECISION = ("student", "teacher", "evaluation")  # what is computed in the training's precision; the rest in float32


@dataclass(frozen=True)
class Size:
    """What of a model's shape decides its cost.

    `matrices`: weights that every token is multiplied with, those of experts by the share that works for a token;
    `embedding` and `head`: weights of the input and output tables (the same ones where `tied`); `attention`: query
    heads times their width.
    """

    parameters: int
    matrices: int
    embedding: int
    head: int
    tied: bool
    layers: int
    hidden: int
    attention: int
    mlp: int
    vocabulary: int


def size_of(model: Any) -> Size:
    """The size of a causal language model, which may be on the meta device."""
    import torch

    from harness.models.students import head_width

    config = model.config.get_text_config()
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    outside = {id(weight) for module in tables for weight in module.parameters()} | {id(output)}
    experts = [getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts")]
    share = (getattr(config, "num_experts_per_tok", None) or 1) / next(filter(None, experts), 1)
    return Size(
        parameters=sum(weight.numel() for weight in model.parameters()),
        matrices=round(
            sum(
                weight.numel() * (share if ".experts." in name else 1)
                for name, weight in model.named_parameters()
                if weight.ndim >= 2 and id(weight) not in outside
            )
        ),
        embedding=embedding.numel(),
        head=output.numel(),
        tied=output is embedding,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        attention=config.num_attention_heads * head_width(config),
        mlp=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=len(output),
    )


@dataclass(frozen=True)
class Text:
    """Text that goes through a model: tokens, pairs of positions that attend, and positions that the head predicts."""

    tokens: float = 0
    pairs: float = 0
    scored: float = 0

    def __add__(self, other: "Text") -> "Text":
        return Text(self.tokens + other.tokens, self.pairs + other.pairs, self.scored + other.scored)

    def __mul__(self, times: float) -> "Text":
        return Text(times * self.tokens, times * self.pairs, times * self.scored)


def text_of(lengths: Iterable[int], scored: float = 0) -> Text:
    """Documents of these lengths, each attending to itself alone, every position to those up to it."""
    known = list(lengths)
    return Text(sum(known), sum(length * (length + 1) // 2 for length in known), scored)


def forward_flops(size: Size, text: Text) -> float:
    """Floating-point operations of a forward pass; a product of matrices counts two for each weight and token."""
    return 2 * size.matrices * text.tokens + 4 * size.layers * size.attention * text.pairs + 2 * size.head * text.scored


def training_flops(size: Size, text: Text, *, checkpointing: bool = False, adapters: int = 0, beside: int = 0) -> float:
    """Operations of forward and backward: three times the forward pass, for the gradient of inputs and of weights.

    With gradient `checkpointing` the layers go forward once more. With low-rank `adapters` (their weights) frozen
    matrices need no gradient of their own: twice for them. `beside`: weights of the layer terms' projections.
    """
    layers = forward_flops(size, Text(text.tokens, 0, 0))
    attention = forward_flops(size, Text(0, text.pairs, 0))
    head = forward_flops(size, Text(0, 0, text.scored))
    low_rank = 2 * adapters * text.tokens
    again = layers + attention + low_rank if checkpointing else 0.0
    frozen = 2 if adapters else 3
    return frozen * (layers + head) + 3 * (attention + low_rank) + again + 6 * beside * text.tokens


def cached_bytes(cache: Cache, vocabulary: int, corpus: str = "texts") -> float:
    """Bytes in the teacher's cache for each learnt token: of top-k exact, of draws as measured on `corpus`."""
    from harness.train.cache import bytes_per_token
    from harness.train.signals import DEFAULT_DRAWS

    if cache.kind == "top-k":
        return bytes_per_token(cache, vocabulary)
    at_fifty, power = DRAWN_BYTES[corpus]
    return float(at_fifty * ((cache.draws or DEFAULT_DRAWS) / 50) ** power)


def memory_bytes(size: Size, trained: int, config: Train, teacher: Size | None) -> dict[str, float]:
    """Memory of a training in float32, by what takes it. Activations and head are estimates, the rest is exact.

    For each token a layer keeps about six states, five rows of heads and four of channels until the backward pass;
    with gradient checkpointing each layer keeps its input, and one layer the rest.
    """
    layer = config.row_tokens * 4 * (6 * size.hidden + 5 * size.attention + 4 * size.mlp)
    inputs = config.row_tokens * 4 * size.hidden * size.layers
    at_once = min(config.chunk_tokens or config.row_tokens, config.row_tokens)
    return {
        "process": PROCESS_BYTES,
        "weights": 4.0 * size.parameters,
        "gradients": 4.0 * trained,
        "moments": 8.0 * trained,
        "teacher": 4.0 * teacher.parameters if teacher else 0.0,
        "activations": float(inputs + layer if config.gradient_checkpointing else size.layers * layer),
        "head": 4.0 * HEAD_COPIES * at_once * size.vocabulary,
    }


def adapter_weights(model: Any, lora: Lora) -> int:
    """Weights of a model's low-rank adapters: rank times (inputs + outputs) of each layer that gets one."""
    from harness.models.lora import target_names

    return sum(lora.rank * sum(model.get_submodule(name).weight.shape) for name in target_names(model, lora))


@dataclass(frozen=True)
class Machine:
    """How fast this machine is: products of matrices in FLOP/s by precision, bytes/s of weights read, watts."""

    flops_per_s: dict[str, float]
    bytes_per_s: float
    watts: float
    watts_from: str
    name: str = ""

    def seconds(self, flops: float, precision: str) -> float:
        """Seconds for so many operations of a training."""
        return flops / (EFFICIENCY * self.flops_per_s[precision])

    def writing_seconds(self, size: Size, tokens: float, batch: float) -> float:
        """Seconds to write `tokens` tokens each in `batch` answers at once: the weights are read for every token."""
        weights = size.matrices + size.head
        return tokens * max(4 * weights / self.bytes_per_s, self.seconds(2 * weights * batch, "float32"))


@dataclass(frozen=True)
class Case:
    """All that decides what one training costs: the models' sizes and the rows, whatever is in them.

    `teacher` is None where none runs here. `written`: documents of the corpus whose length is a bound, since the
    teacher has yet to write them. `measured`: documents on which importance is measured.
    """

    arm: str
    config: Train
    precision: str
    size: Size
    teacher: Size | None
    vocabulary: int  # tokens that the tokenizer knows
    steps: Sequence[Sequence[Row]]
    held_out: Sequence[Document]
    corpus: str = "chats"
    adapters: int = 0
    beside: int = 0
    endpoint: bool = False
    written: Sequence[Document] = ()
    measured: Sequence[Document] = ()

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return (self.adapters or self.size.parameters) + self.beside

    @property
    def signal(self) -> tuple[Any, ...]:
        """What names the cache that it trains from: cases of one signal share it."""
        return self.config.cache, self.config.terms.kd.temperature if self.config.terms.kd else None


@dataclass(frozen=True)
class ArmPlan:
    """What one training will cost: `flops` and `memory` (bytes) by what takes them, `cache_bytes` that it adds."""

    arm: str
    parameters: int
    trained: int
    steps: int
    tokens: int
    learnt: int
    documents: int
    precision: str
    flops: dict[str, float]
    seconds: float
    joules: float
    cache_bytes: float
    memory: dict[str, float]
    notes: list[str]

    @property
    def memory_bytes(self) -> float:
        """Memory in all, at its peak."""
        return sum(self.memory.values())


def plan_arm(case: Case, machine: Machine, cached: set[str]) -> ArmPlan:
    """The costs of one training; `cached` are the documents that the cache holds by then, and gets those it adds."""
    from harness.train.fill import SIDECAR_BYTES

    config, weights = case.config, case.config.terms.weights
    documents = [document for step in case.steps for row in step for document in row.documents]
    different = {document.key: document for document in documents}
    flops, seconds = operations(case, documents), 0.0
    size = 0.0
    if config.cache and case.teacher:
        added = [document for key, document in different.items() if key not in cached and document.scored]
        cached |= {document.key for document in added}
        learnt = _text(added)
        flops["cache"] = forward_flops(case.teacher, learnt)
        size = learnt.scored * cached_bytes(config.cache, case.vocabulary, case.corpus) + SIDECAR_BYTES * len(added)
    for part, count in flops.items():
        if part not in ("answers", "texts") and not (part == "cache" and case.endpoint):
            seconds += machine.seconds(count, case.precision if part in IN_PRECISION else "float32")
    if case.written and case.teacher:
        longest = max(len(document.scored) for document in case.written)
        batches = -(-len(case.written) // WRITING_BATCH)
        seconds += batches * machine.writing_seconds(case.teacher, longest, len(case.written) / batches)
    flops = {part: float(count) for part, count in flops.items() if count}
    notes = []
    if config.terms.on_policy and "on_policy" in weights:
        term = config.terms.on_policy
        rows = [len(row.documents) for step in case.steps for row in step]
        seconds += term.fraction * sum(machine.writing_seconds(case.size, term.max_tokens, batch) for batch in rows)
    if "answers" in flops or "texts" in flops:
        notes.append("written texts are counted at max_tokens, which bounds them from above")
    if case.endpoint:
        notes.append("the teacher's work is done by its server, and is not in time and energy")
    if config.minutes is not None and seconds > 60 * config.minutes:
        notes.append(f"minutes = {config.minutes:g} ends it before its tokens do")
    return ArmPlan(
        arm=case.arm,
        parameters=case.size.parameters,
        trained=case.trained,
        steps=len(case.steps),
        tokens=sum(len(document.ids) for document in documents),
        learnt=int(_text(documents, _every(config)).scored),
        documents=len(different),
        precision=case.precision,
        flops=flops,
        seconds=seconds,
        joules=seconds * machine.watts,
        cache_bytes=size,
        memory=memory_bytes(case.size, case.trained, config, None if case.endpoint else case.teacher),
        notes=notes,
    )


def operations(case: Case, documents: Sequence[Document]) -> dict[str, float]:
    """Operations of a training over `documents` by what they are for, the filling of the cache apart.

    student: forward and backward. teacher: its passes over the same rows. evaluation: both on held-out texts. start:
    importance. answers, texts: what the student writes on policy, and the teacher beforehand.
    """
    from harness.train.objective import LAYER_TERMS

    config, weights, teacher = case.config, case.config.terms.weights, case.teacher
    term = config.terms.on_policy if "on_policy" in weights else None
    fraction = term.fraction if term else 0.0
    answered = Text()
    if term:
        prompts = [document.scored[0] + 1 for document in documents if document.scored]
        answered = text_of((prompt + term.max_tokens for prompt in prompts), term.max_tokens * len(prompts)) * fraction
    pairs = [document.pair for document in documents if document.pair and document.pair.teacher_at]
    compared = Text(scored=sum(len(pair.teacher_at) for pair in pairs))
    looks = 1 + -(-len(case.steps) // config.evaluate_every) + bool(config.cache)
    watched = [
        document
        for row in pack(case.held_out[: config.evaluate_chats], config.row_tokens)
        for document in row.documents
    ]

    def passed(text: Text, head: bool = True) -> Text:
        # Without chunks a model's own forward pass computes the logits of every position.
        return replace(text, scored=text.scored * head if config.chunk_tokens else text.tokens)

    seen = passed(_text(watched)) * looks
    by_token = bool(weights.keys() - set(LAYER_TERMS) - {"uld"})
    found = {
        "student": training_flops(
            case.size,
            passed(_text(documents, _every(config)), by_token) * (1 - fraction) + answered + compared,
            checkpointing=config.gradient_checkpointing,
            adapters=case.adapters,
            beside=case.beside,
        ),
        "evaluation": forward_flops(case.size, seen),
        "answers": forward_flops(case.size, answered),
    }
    if teacher is None:
        return found
    online = "kd" in weights and config.cache is None
    if online or weights.keys() & set(LAYER_TERMS):
        found["teacher"] = forward_flops(teacher, passed(_text(documents), online) * (1 - fraction))
    found["teacher"] = found.get("teacher", 0) + forward_flops(teacher, answered)
    found["teacher"] += forward_flops(teacher, text_of(pair.teacher_at[-1] + 1 for pair in pairs) + compared)
    if "uld" not in weights and not case.endpoint:
        found["evaluation"] += forward_flops(teacher, seen)
    found["start"] = forward_flops(teacher, text_of(len(document.ids) for document in case.measured))
    found["texts"] = forward_flops(teacher, _text(case.written))
    return found


def _text(documents: Sequence[Document], every: bool = False) -> Text:
    scored = sum(
        len(document.ids) - 1 if every and document.kind == "corpus" else len(document.scored) for document in documents
    )
    return text_of((len(document.ids) for document in documents), scored)


def _every(config: Train) -> bool:
    return config.terms.ce is not None and config.terms.ce.weight > 0 and config.terms.ce.tokens == "all"
