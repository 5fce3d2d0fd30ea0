"""Losses against plain float64 formulas, and the packing that they are computed on."""

import math

import pytest
import torch

from harness.errors import ConfigError
from harness.models.chat_format import encode_document
from harness.terms import Ce, Kd, Terms
from harness.train.batches import Document, Row, pack, plan_digest, plan_steps, scored_positions, to_batch, to_document
from harness.train.objective import Objective, backward_row, check_vocabularies, counts, kd_loss
from tests.tiny import tiny_chats, tiny_model, tiny_tokenizer


def plain_kl(teacher: list[float], student: list[float], temperature: float) -> float:
    """KL(teacher || student) of softmaxed logits, in Python floats."""

    def softmax(logits: list[float]) -> list[float]:
        exps = [math.exp(value / temperature) for value in logits]
        return [value / sum(exps) for value in exps]

    p, q = softmax(teacher), softmax(student)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_kd_is_the_plain_formula_times_temperature_squared(temperature: float) -> None:
    teacher, student = [1.0, -0.5, 2.0, 0.3], [0.2, 0.9, -1.0, 0.0]
    got = kd_loss(
        torch.tensor([student], dtype=torch.float64),
        torch.tensor([teacher], dtype=torch.float64),
        Kd(temperature=temperature),
    )
    assert float(got) == pytest.approx(plain_kl(teacher, student, temperature) * temperature**2, rel=1e-12)


def test_t_squared_can_be_switched_off() -> None:
    student, teacher = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    on, off = (kd_loss(student, teacher, Kd(temperature=3.0, t_squared=switch)) for switch in (True, False))
    torch.testing.assert_close(on, 9 * off)


def test_a_high_temperature_tends_to_matching_logits() -> None:
    """Hinton et al. 2015, eq. 4: T² KL tends to half the mean squared difference of centred logits."""
    student, teacher = torch.randn(2, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    centred = (student - student.mean()) - (teacher - teacher.mean())
    got = kd_loss(student, teacher, Kd(temperature=1e4))
    assert float(got) == pytest.approx(float((centred**2).sum()) / (2 * 6), rel=1e-3)


def documents() -> list[Document]:
    tokenizer = tiny_tokenizer()
    return [to_document(tokenizer, chat, None) for chat in tiny_chats(6)]


def test_only_assistant_tokens_are_learnt() -> None:
    tokenizer = tiny_tokenizer()
    ids, target = encode_document(tokenizer, tiny_chats(1)[0], "Count.")
    learnt = tokenizer.decode([token for token, wanted in zip(ids, target, strict=True) if wanted])
    assert learnt == "After 0 comes 1.<|im_end|>"
    batch = to_batch(pack([Document(tuple(ids), tuple(target))], 512)[0])
    assert tokenizer.decode(batch.label_N) == learnt


def test_a_cut_answer_has_no_end_that_nobody_wrote() -> None:
    tokenizer = tiny_tokenizer()
    chat = tiny_chats(1)[0].model_copy(update={"finish": "length"})
    ids, target = encode_document(tokenizer, chat, None)
    assert tokenizer.decode([token for token, wanted in zip(ids, target, strict=True) if wanted]) == "After 0 comes 1."


def test_packed_documents_do_not_see_each_other() -> None:
    loaded = tiny_model()
    separate = [to_batch(pack([document], 512)[0]).logits(loaded.model) for document in documents()]
    packed = to_batch(pack(documents(), 512)[0]).logits(loaded.model)
    torch.testing.assert_close(packed, torch.cat(separate), rtol=1e-5, atol=1e-5)


def test_no_document_predicts_the_first_token_of_the_next() -> None:
    row = Row((Document((1, 2), (True, True)), Document((3, 4), (True, True))))
    assert scored_positions(row) == [0, 2]


def test_the_plan_is_of_the_asked_size_whole_documents_and_one_order() -> None:
    plan = plan_steps(documents(), tokens=2000, row_tokens=200, accumulate=2, seed=3)
    assert 2000 <= sum(len(row.ids) for step in plan for row in step) < 2000 + 2 * 200
    assert all(len(row.ids) <= 200 for step in plan for row in step)
    again = plan_steps(documents(), tokens=2000, row_tokens=200, accumulate=2, seed=3)
    assert plan_digest(plan) == plan_digest(again)
    other = plan_steps(documents(), tokens=2000, row_tokens=200, accumulate=2, seed=4)
    assert plan_digest(plan) != plan_digest(other)


def test_a_corpus_with_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ConfigError, match="no assistant token"):
        plan_steps([Document((1, 2, 3), (False, False, False))], tokens=10, row_tokens=16, accumulate=1, seed=0)


def test_a_term_of_weight_zero_is_not_computed() -> None:
    loaded = tiny_model()
    row = pack(documents(), 512)[0]
    terms = Terms(kd=Kd(weight=0), ce=Ce(weight=1))
    # no teacher, no error
    parts = backward_row(loaded.model, None, to_batch(row), Objective(terms, 258), counts(row, terms), (None, None))
    assert set(parts) == {"ce"}


def test_the_same_tokenizer_passes_whatever_the_padding_and_another_does_not() -> None:
    check_vocabularies(tiny_tokenizer(), tiny_tokenizer())
    with pytest.raises(ConfigError, match=r"vocabularies differ: 261 and 258 tokens, 3 of"):
        check_vocabularies(tiny_tokenizer(extra=3), tiny_tokenizer())
