"""Student encoders: a BERT without token types and pooler, which is DistilBERT's architecture, of any depth and width.

Of a BERT teacher the first token type is folded into the positions, so that a student that keeps all layers computes
what its teacher does. Sanh et al. 2019, section 3: every other layer is where the student starts.
"""

from collections.abc import Sequence
from typing import Any

from harness.config import Shape
from harness.errors import ConfigError
from harness.models.encoder.load import layers_of, number_layers
from harness.models.load import LoadedModel
from harness.models.students import layers_by_rule

PARTS = {  # of a layer: DistilBERT's name, and BERT's
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
HEAD = {"vocab_transform": "transform.dense", "vocab_layer_norm": "transform.LayerNorm"}


def make_student(teacher: LoadedModel, shape: Shape, start: str, seed: int) -> tuple[LoadedModel, dict[str, Any]]:
    """A student of a shape from 'scratch' or 'teacher-layers', and how it was made (start, layers, widths, parameters).

    What is random follows from `seed` alone. Raises ConfigError for a start or a shape that cannot be.
    """
    import torch

    if start not in ("scratch", "teacher-layers"):
        raise ConfigError(
            f'start = "{start}" is not for family = "encoder"', hint='take "scratch", "teacher-layers" or "arm:NAME"'
        )
    have = len(layers_of(teacher.model))
    layers = shape.layers or (len(shape.keep) if isinstance(shape.keep, tuple) else have)
    if layers > have:
        raise ConfigError(f"a student of {layers} layers is larger than its teacher of {have}", hint="ask for fewer")
    config = student_config(teacher.model.config, shape, layers)
    how: dict[str, Any] = {"start": start, "layers": layers, "hidden": config.hidden_size}
    how |= {"heads": config.num_attention_heads, "mlp": config.hidden_dim}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _blank(config)
    if start == "teacher-layers":
        how["layers_kept"] = layers_by_rule(have, layers, shape.keep or "even")
        _fill(model, teacher.model, how["layers_kept"])
    how["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return LoadedModel(model.eval(), teacher.tokenizer), how


def student_config(teacher: Any, shape: Shape, layers: int) -> Any:
    """A DistilBERT configuration with the teacher's vocabulary, window and widths but for what the shape names."""
    from transformers import DistilBertConfig

    hidden, heads = shape.hidden or teacher.hidden_size, shape.heads or teacher.num_attention_heads
    if shape.kv_heads not in (None, heads):
        raise ConfigError("an encoder's heads have keys and values of their own", hint="drop kv_heads")
    if hidden % heads:
        raise ConfigError(f"hidden = {hidden} does not split into heads = {heads}", hint="take a multiple of heads")
    bert = teacher.model_type == "bert"
    return DistilBertConfig(
        vocab_size=teacher.vocab_size,
        max_position_embeddings=teacher.max_position_embeddings,
        dim=hidden,
        n_layers=layers,
        n_heads=heads,
        hidden_dim=shape.mlp or (teacher.intermediate_size if bert else teacher.hidden_dim),
        activation=teacher.hidden_act if bert else teacher.activation,
        dropout=teacher.hidden_dropout_prob if bert else teacher.dropout,
        attention_dropout=teacher.attention_probs_dropout_prob if bert else teacher.attention_dropout,
        initializer_range=teacher.initializer_range,
        pad_token_id=teacher.pad_token_id,
        tie_word_embeddings=True,
    )


def check_teacher(model: Any) -> None:
    """Raise ConfigError for an architecture whose student is not known."""
    if model.config.model_type not in ("bert", "distilbert"):
        raise ConfigError(
            f"students of a {type(model).__name__} are not known", hint="take a BERT or DistilBERT as the teacher"
        )


def _blank(config: Any) -> Any:
    from transformers import DistilBertForMaskedLM

    model = DistilBertForMaskedLM(config)
    number_layers(model)
    return model


def _fill(student: Any, teacher: Any, keep: Sequence[int]) -> None:
    """Copy embeddings, the layers `keep` and the head."""
    state = teacher.state_dict()
    if teacher.config.model_type == "bert":
        state = as_distilbert(state)
    place = {old: new for new, old in enumerate(keep)}
    wanted = {}
    for name, tensor in state.items():
        if ".layer." in name:
            before, index, after = _split(name)
            if index not in place:
                continue
            name = f"{before}.{place[index]}.{after}"
        wanted[name] = tensor
    student.load_state_dict(wanted)


def _split(name: str) -> tuple[str, int, str]:
    before, _, rest = name.partition(".layer.")
    index, _, after = rest.partition(".")
    return f"{before}.layer", int(index), after


def as_distilbert(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a BERT with masked-LM head under DistilBERT's names, its first token type added to the positions."""
    found: dict[str, Any] = {}
    names = {value: key for key, value in PARTS.items()}
    for name, tensor in state.items():
        if ".layer." in name:
            _, index, after = _split(name)
            part, _, kind = after.rpartition(".")
            found[f"distilbert.transformer.layer.{index}.{names[part]}.{kind}"] = tensor
    inner = "bert.embeddings."
    for part in ("word_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"):
        found[f"distilbert.embeddings.{part}"] = state[inner + part]
    types_D = state[f"{inner}token_type_embeddings.weight"][0]
    found["distilbert.embeddings.position_embeddings.weight"] = state[f"{inner}position_embeddings.weight"] + types_D
    for ours, theirs in HEAD.items():
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = state[f"cls.predictions.{theirs}.{kind}"]
    found["vocab_projector.bias"] = state["cls.predictions.bias"]
    found["vocab_projector.weight"] = state["cls.predictions.decoder.weight"]
    return found
