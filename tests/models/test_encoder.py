"""Encoders: what is masked, who attends to whom, what the terms compute, and students that start from a teacher."""

from collections import Counter

import pytest
import torch

from harness.config import Shape
from harness.errors import ConfigError
from harness.models.attention import packed
from harness.models.encoder import passes
from harness.models.encoder.masking import Masked, Masking, documents_of, masked, to_batch
from harness.models.encoder.students import make_student
from harness.models.load import LoadedModel
from harness.terms import Attention, Ce, Embedding, Hidden, Kd, Terms
from harness.texts import Text
from harness.train.batches import Document, Row, pack
from harness.train.layers import LayerTerms
from harness.train.objective import Objective, counts
from tests.models.encoders import counting, tiny_bert, tiny_tokenizer

TRIPLE = Terms(kd=Kd(weight=5, temperature=2.0), ce=Ce(weight=2), hidden=Hidden(distance="cosine"))


def documents(count: int = 8, longest: int = 64) -> list[Document]:
    texts = [Text(id=str(number), text=text) for number, text in enumerate(counting(count))]
    return documents_of(tiny_tokenizer(), texts, longest)


def rows(count: int = 8) -> list[Row]:
    return masked(pack(documents(count), 40), Masking.of(tiny_tokenizer()), seed=3, step=0)


def test_a_long_text_becomes_pieces_between_the_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    text = " ".join(["film"] * 10)
    found = documents_of(tokenizer, [Text(id="1", text=text)], 6)
    assert [len(one.ids) for one in found] == [6, 6, 4]
    for one in found:
        assert (one.ids[0], one.ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert one.target == (False, *(True,) * (len(one.ids) - 2), False)


def test_masks_follow_from_seed_step_and_text_alone() -> None:
    plan, masking = pack(documents(), 40), Masking.of(tiny_tokenizer())
    first = masked(plan, masking, seed=3, step=7)
    assert masked(plan[1:], masking, seed=3, step=7) == first[1:]  # whoever computes which row
    for other in (masked(plan, masking, seed=3, step=8), masked(plan, masking, seed=4, step=7)):
        assert [row.target for row in other] != [row.target for row in first]


def test_fifteen_in_a_hundred_are_hidden_eight_of_ten_behind_the_mask() -> None:
    tokenizer = tiny_tokenizer()
    masking = Masking.of(tokenizer)
    document = documents_of(tokenizer, [Text(id="1", text=" ".join(["film"] * 4000))], 5000)
    (row,) = masked([Row(tuple(document))], masking, seed=1, step=0)
    (one,) = row.documents
    assert isinstance(one, Masked)
    assert sum(one.target) == 600
    film = tokenizer.get_vocab()["film"]
    seen = Counter(
        "mask" if token == masking.mask else "same" if token == film else "drawn"
        for token, hidden in zip(one.ids, one.target, strict=True)
        if hidden
    )
    assert seen["mask"] == pytest.approx(480, abs=40)
    assert seen["drawn"] == pytest.approx(60, abs=30)
    assert seen["same"] == pytest.approx(60, abs=30)
    assert all(
        label == token for label, token, hidden in zip(one.label, one.ids, one.target, strict=True) if not hidden
    )
    assert not set(tokenizer.all_special_ids) & set(masking.ordinary)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_packed_documents_are_read_both_ways_and_each_alone(kind: str) -> None:
    model = tiny_bert().model
    if kind == "distilbert":
        model = make_student(tiny_bert(), Shape(layers=2), "teacher-layers", 0)[0].model
    some = documents(3)
    batch = to_batch(Row(tuple(some)))
    with torch.no_grad(), packed(model, batch.row.lengths):
        together = model(input_ids=batch.ids_1T, position_ids=batch.position_1T).logits[0]
    alone = torch.cat([model(input_ids=torch.tensor([one.ids])).logits[0] for one in some])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    changed = torch.tensor([[*some[0].ids[:-2], 9, some[0].ids[-1]]])  # a later token changes the first position
    assert not torch.allclose(model(input_ids=changed).logits[0, 0], alone[0], atol=1e-4)


def test_a_bert_is_still_refused_as_a_model_that_writes() -> None:
    from transformers import BertConfig, BertLMHeadModel

    model = BertLMHeadModel(BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ConfigError, match="is_causal = false"), packed(model, (2,)):
        model(input_ids=torch.tensor([[1, 2]]))


def plain_losses(student: LoadedModel, teacher: LoadedModel, row: Row, temperature: float) -> dict[str, float]:
    """kd, ce and cosine per document in float64, by the textbook."""
    kd = ce = cosine = 0.0
    places = tokens = 0
    for one in row.documents:
        assert isinstance(one, Masked)
        ids = torch.tensor([one.ids])
        with torch.no_grad():
            ours, theirs = (each.model(input_ids=ids, output_hidden_states=True) for each in (student, teacher))
        at = list(one.scored)
        p = (theirs.logits[0, at].double() / temperature).softmax(-1)
        q = (ours.logits[0, at].double() / temperature).softmax(-1)
        kd += float((p * (p / q).log()).sum()) * temperature**2
        logp = ours.logits[0, at].double().log_softmax(-1)
        ce -= float(sum(logp[place, one.label[index]] for place, index in enumerate(at)))
        for mine, its in ((1, 2), (2, 4)):  # even layers: 2 of 4
            a, b = ours.hidden_states[mine][0].double(), theirs.hidden_states[its][0].double()
            cosine += float((1 - (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)).sum()) / 2
        places, tokens = places + len(at), tokens + len(one.ids)
    return {"kd": kd / places, "ce": ce / places, "hidden": cosine / tokens}


@pytest.mark.parametrize("chunk", [0, 3])
def test_the_triple_loss_is_the_textbooks(chunk: int) -> None:
    teacher = tiny_bert()
    student, _ = make_student(tiny_bert(seed=1), Shape(layers=2), "teacher-layers", 0)
    (row, *_) = rows()
    layers = LayerTerms(student.model, teacher.model, TRIPLE, None, 0)
    objective = Objective(TRIPLE, len(teacher.tokenizer), chunk, layers=layers)
    heads = passes.heads_of(student.model, teacher.model, objective)
    assert (heads[0] is not None, heads[1] is not None) == (bool(chunk), bool(chunk))
    found = passes.backward(student.model, teacher.model, row, objective, counts(row, TRIPLE), heads, "cpu")
    assert found == pytest.approx(plain_losses(student, teacher, row, 2.0), rel=1e-4)


def test_gradients_by_chunks_are_those_of_the_plain_path() -> None:
    teacher = tiny_bert()
    gradients = []
    for chunk in (0, 3):
        student, _ = make_student(teacher, Shape(layers=2, hidden=16, heads=4), "scratch", 5)
        terms = TRIPLE.model_copy(update={"attention": Attention(), "embedding": Embedding()})
        layers = LayerTerms(student.model, teacher.model, terms, None, 0)
        objective = Objective(terms, len(teacher.tokenizer), chunk, layers=layers)
        heads = passes.heads_of(student.model, teacher.model, objective)
        (row, *_) = rows()
        passes.backward(student.model, teacher.model, row, objective, counts(row, terms), heads, "cpu")
        gradients.append({name: value.grad.clone() for name, value in student.model.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_a_student_of_all_layers_computes_what_its_teacher_does_without_token_types() -> None:
    teacher = tiny_bert()
    student, how = make_student(teacher, Shape(layers=4), "teacher-layers", 0)
    names = [name for name, _ in student.model.named_parameters()]
    assert not any("token_type" in name or "pooler" in name for name in names)
    assert how["layers_kept"] == [0, 1, 2, 3]
    ids = torch.tensor([documents(1)[0].ids])
    with torch.no_grad():
        torch.testing.assert_close(student.model(input_ids=ids).logits, teacher.model(input_ids=ids).logits)


def test_every_other_layer_and_narrower_students() -> None:
    teacher = tiny_bert()
    kept, how = make_student(teacher, Shape(layers=2, keep=(0, 2)), "teacher-layers", 0)
    assert how["layers_kept"] == [0, 2]
    third = kept.model.distilbert.transformer.layer[1].ffn.lin1.weight
    assert torch.equal(third, teacher.model.bert.encoder.layer[2].intermediate.dense.weight)
    small, how = make_student(teacher, Shape(layers=2, hidden=16, heads=2, mlp=24), "scratch", 4)
    again, _ = make_student(teacher, Shape(layers=2, hidden=16, heads=2, mlp=24), "scratch", 4)
    assert (how["hidden"], how["heads"], how["mlp"]) == (16, 2, 24)
    assert all(torch.equal(a, b) for a, b in zip(small.model.parameters(), again.model.parameters(), strict=True))
    with pytest.raises(ConfigError, match='"importance" is not for family = "encoder"'):
        make_student(teacher, Shape(layers=2), "importance", 0)
    with pytest.raises(ConfigError, match="larger than its teacher of 4"):
        make_student(teacher, Shape(layers=5), "scratch", 0)
