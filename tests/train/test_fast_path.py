"""The chunked path against the plain one: the same losses and the same gradients, for every objective."""

from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from harness.config import Cache
from harness.models.load import LoadedModel
from harness.models.students import from_layers
from harness.terms import Ce, Hidden, Kd, OnPolicy, Sequence, Terms
from harness.train.batches import Document, Row, pack, to_batch, to_document
from harness.train.objective import Objective, backward_row, counts, heads_of
from tests.tiny import tiny_chats, tiny_model

TERMS = {
    "forward_kl": Terms(kd=Kd()),
    "reverse_kl": Terms(kd=Kd(divergence="reverse_kl", temperature=2.0)),
    "jsd": Terms(kd=Kd(divergence="jsd", beta=0.3)),
    "skew_kl": Terms(kd=Kd(divergence="skew_kl")),
    "skew_reverse_kl": Terms(kd=Kd(divergence="skew_reverse_kl", t_squared=False, temperature=0.5)),
    "tvd": Terms(kd=Kd(divergence="tvd")),
    "akl": Terms(kd=Kd(divergence="akl")),
    "ce": Terms(ce=Ce()),
    "ce on all tokens": Terms(ce=Ce(tokens="all")),
    "kd and ce on all tokens": Terms(kd=Kd(weight=0.5), ce=Ce(weight=2.0, tokens="all")),
    "kd, ce and sequence": Terms(kd=Kd(), ce=Ce(weight=0.3), sequence=Sequence(weight=0.7)),
}


def row() -> Row:
    tokenizer = tiny_model().tokenizer
    kinds = ("corpus", "sequence", "corpus", "explanations")
    documents = [to_document(tokenizer, chat, None, kind) for chat, kind in zip(tiny_chats(4), kinds, strict=True)]
    return pack(documents, 512)[0]


def gradients(
    student: LoadedModel, teacher: LoadedModel, terms: Terms, chunk: int, one: Row | None = None, **more: Any
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    one = one or row()
    objective = Objective(terms, len(teacher.tokenizer), chunk, **more)
    student.model.zero_grad()
    parts = backward_row(
        student.model, teacher.model, to_batch(one, objective.every_token and not one.on_policy), objective,
        counts(one, terms), heads_of(student.model, teacher.model, chunk),
    )  # fmt: skip
    return parts, {name: parameter.grad for name, parameter in student.model.named_parameters()}


def check_same(student: LoadedModel, teacher: LoadedModel, terms: Terms, one: Row | None = None) -> None:
    wanted_parts, wanted = gradients(student, teacher, terms, 0, one)
    for chunk in (1, 7, 500):
        parts, found = gradients(student, teacher, terms, chunk, one)
        assert parts == pytest.approx(wanted_parts, rel=1e-4)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_chunks_train_the_same_objective(name: str) -> None:
    teacher = tiny_model()
    check_same(from_layers(teacher, [0, 3]), teacher, TERMS[name])


def test_on_policy_rows_have_their_own_term_alone() -> None:
    teacher = tiny_model()
    terms = Terms(ce=Ce(), on_policy=OnPolicy(divergence="reverse_kl"))
    one = Row(row().documents, on_policy=True)
    check_same(from_layers(teacher, [0, 3]), teacher, terms, one)
    parts, _ = gradients(from_layers(teacher, [0, 3]), teacher, terms, 16, one)
    assert set(parts) == {"on_policy"}


def test_soft_capping_and_padded_vocabularies_stay_in_the_chunks() -> None:
    def gemma(vocabulary: int, layers: int, seed: int) -> LoadedModel:
        torch.manual_seed(seed)
        config = Gemma2Config(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.3, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, attn_implementation="eager",
        )  # fmt: skip
        return LoadedModel(Gemma2ForCausalLM(config).eval(), tiny_model().tokenizer)

    student, teacher = gemma(300, 1, 0), gemma(270, 2, 1)
    check_same(student, teacher, TERMS["forward_kl"])
    _, found = gradients(student, teacher, TERMS["forward_kl"], 7)
    padding = found["model.embed_tokens.weight"][258:]
    assert torch.equal(padding, torch.zeros_like(padding))


def test_weights_and_counts_make_the_loss() -> None:
    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])
    both = Terms(kd=Kd(weight=0.25), ce=Ce(weight=3.0))
    parts, found = gradients(student, teacher, both, 16)
    kd_parts, kd = gradients(from_layers(teacher, [0, 3]), teacher, Terms(kd=Kd()), 16)
    ce_parts, ce = gradients(from_layers(teacher, [0, 3]), teacher, Terms(ce=Ce()), 16)
    assert parts == pytest.approx({**kd_parts, **ce_parts}, rel=1e-5)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, 0.25 * kd[name] + 3.0 * ce[name], rtol=1e-3, atol=1e-6)


def test_gradient_checkpointing_changes_nothing() -> None:
    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])
    student.model.train()
    terms = Terms(kd=Kd(), hidden=Hidden())
    parts, plain = gradients(student, teacher, terms, 16)
    plain = {name: gradient.clone() for name, gradient in plain.items()}
    student.model.activation_checkpointing_enable()
    again, found = gradients(student, teacher, terms, 16)
    assert again == pytest.approx(parts, rel=1e-6)
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-8)


def test_a_row_that_no_token_term_speaks_of_is_no_error() -> None:
    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])
    silent = Row((Document((1, 2, 3), (False, False, False)),))
    objective = Objective(TERMS["forward_kl"], 258, 16)
    student.model.zero_grad()
    parts = backward_row(
        student.model,
        teacher.model,
        to_batch(silent),
        objective,
        {"kd": 10},
        heads_of(student.model, teacher.model, 16),
    )
    assert parts == {}
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in student.model.parameters())


def test_a_cache_of_the_whole_vocabulary_trains_as_the_teacher_does(tmp_path: Any) -> None:
    from harness.progress import quiet
    from harness.train import cache, fill

    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])
    for bits, tolerance in ((32, 1e-4), (16, 5e-3)):
        table = Cache(k="vocabulary", bits=bits)
        key = cache.cache_key("teacher", "tokenizer", 1.0, table)
        fill.fill(tmp_path, teacher, row().documents, cache=table, temperature=1.0, vocabulary=258, key=key, seed=0,
                  progress=quiet)  # fmt: skip
        opened = cache.open_cache(tmp_path, key)
        for name in ("forward_kl", "jsd", "skew_kl", "tvd", "akl"):
            wanted_parts, wanted = gradients(student, teacher, TERMS[name], 16)
            wanted = {key: value.clone() for key, value in wanted.items()}
            parts, found = gradients(student, teacher, TERMS[name], 16, cache=opened)
            assert parts == pytest.approx(wanted_parts, rel=tolerance)
            scale = max(float(gradient.abs().max()) for gradient in wanted.values())
            for part, gradient in wanted.items():
                torch.testing.assert_close(found[part], gradient, rtol=0, atol=tolerance * scale)
