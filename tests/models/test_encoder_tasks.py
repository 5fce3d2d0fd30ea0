"""Labelled tasks: which texts are held out, what the head of classes computes, and new texts by a masked LM."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from harness.config import Shape
from harness.corpus import is_held_out
from harness.errors import ConfigError
from harness.labelled import Item, read_items
from harness.models.encoder import labels
from harness.models.encoder.augment import augmented
from harness.models.encoder.bench import task_suite
from harness.models.encoder.labels import Labelled, documents_of
from harness.models.encoder.load import has_head, load_encoder, load_for_classes, number_layers
from harness.models.encoder.students import make_student
from harness.models.load import LoadedModel
from harness.progress import quiet
from harness.task_table import Augment, Task
from harness.terms import Attention, Ce, Hidden, Kd, Terms
from harness.train.batches import Row
from harness.train.layers import LayerTerms
from harness.train.objective import Objective, counts
from tests.models.encoders import BAD, GOOD, opinions, tiny_bert, tiny_tokenizer

TASK = Task(name="opinion", data="-", tokens=100)


def classifier(seed: int = 0, layers: int = 4) -> LoadedModel:
    """A tiny BERT with a head of two classes."""
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.2, num_labels=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config).eval()
    number_layers(model)
    return LoadedModel(model, tokenizer)


def row(count: int = 5) -> Row:
    texts = [f"a film was {word} n{number}" for number, word in enumerate((*GOOD, *BAD)[:count])]
    items = [Item(str(number), text, number % 2) for number, text in enumerate(texts)]
    return Row(tuple(documents_of(tiny_tokenizer(), items, 16)))


def test_items_are_parted_by_the_texts_hash_and_labels_are_put_into_classes(tmp_path: Path) -> None:
    path = opinions(tmp_path / "opinions.csv", 300)
    task = TASK.model_copy(update={"labels": {"good": ("pos",), "bad": ("neg",)}, "items": 50, "held_out": 10})
    found = read_items(path, task)
    assert found.classes == ("good", "bad")
    assert (len(found.train), len(found.held_out)) == (50, 10)
    assert all(is_held_out(item.text) for item in found.held_out)
    assert not any(is_held_out(item.text) for item in found.train)
    for item in (*found.train, *found.held_out):
        assert item.label == int(bool(set(item.text.split()) & set(BAD)))
    assert read_items(path, TASK).classes == ("neg", "pos")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_column": "stars"}, "no column 'stars'"),
        ({"labels": {"good": ("pos",), "bad": ("awful",)}}, "no row has the label 'awful'"),
        ({"only": {"label": "pos"}}, "1 class of labels"),
    ],
)
def test_a_table_that_does_not_fit_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_items(opinions(tmp_path / "opinions.csv", 100), TASK.model_copy(update=changes))


def test_a_pair_is_cut_where_it_is_longer() -> None:
    tokenizer = tiny_tokenizer()
    item = Item("1", " ".join(["film"] * 9), 0, pair="the story")
    (one,) = documents_of(tokenizer, [item], 10)
    words = tokenizer.convert_ids_to_tokens(one.ids)
    assert words == ["[CLS]", *["film"] * 5, "[SEP]", "the", "story", "[SEP]"]


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_head_of_classes_on_packed_texts_is_the_models_own(kind: str, tmp_path: Path) -> None:
    loaded = classifier()
    if kind == "distilbert":
        student, _ = make_student(tiny_bert(), Shape(layers=2), "teacher-layers", 0)
        student.model.save_pretrained(tmp_path)
        student.tokenizer.save_pretrained(tmp_path)
        loaded = load_for_classes(tmp_path, 2, seed=3)
        again = load_for_classes(tmp_path, 2, seed=3)
        assert torch.equal(loaded.model.classifier.weight, again.model.classifier.weight)
        assert has_head(tmp_path)
        assert not hasattr(load_encoder(tmp_path).model, "classifier")
    texts = row()
    objective = Objective(Terms(ce=Ce()), 2, 0)
    with torch.no_grad():
        together = labels.read(loaded.model, texts, objective, (), False, "cpu").logits_NC
        alone = torch.cat([loaded.model(input_ids=torch.tensor([one.ids])).logits for one in texts.documents])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_labels_and_soft_predictions_are_the_textbooks_and_layers_come_along() -> None:
    student, teacher, texts = classifier(1, 2), classifier(0), row()
    terms = Terms(kd=Kd(weight=2.0, temperature=2.0), ce=Ce(), hidden=Hidden(), attention=Attention())
    layers = LayerTerms(student.model, teacher.model, terms, None, 0)
    objective = Objective(terms, 2, 0, layers=layers)
    found = labels.backward(student.model, teacher.model, texts, objective, counts(texts, terms), (None, None), "cpu")
    ours, theirs = (
        torch.cat([each.model(input_ids=torch.tensor([one.ids])).logits for one in texts.documents]).detach().double()
        for each in (student, teacher)
    )
    p, logq = (theirs / 2).softmax(-1), (ours / 2).log_softmax(-1)
    wanted = {
        "kd": 4 * float((p * (p.log() - logq)).sum(-1).mean()),
        "ce": -float(ours.log_softmax(-1)[range(5), labels.labels_of(texts)].mean()),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert found["hidden"] > 0
    assert found["attention"] > 0
    assert all(value.grad is not None for name, value in student.model.named_parameters() if "classifier" in name)
    assert all(value.grad is None for value in teacher.model.parameters())


def test_a_tasks_samples_give_its_scores_again(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"metric": "f1", "held_out": 12})
    items = read_items(opinions(tmp_path / "opinions.csv", 300), task)
    results, samples = task_suite(task, items, classifier())
    scores = {one["metric"]: one for one in results["viva"]["scores"]}
    right = [one["prediction"] == one["doc"]["label"] for one in samples]
    assert scores["acc"]["value"] == pytest.approx(sum(right) / len(right))
    pairs = [(one["prediction"] == "neg", one["doc"]["label"] == "neg") for one in samples]
    hit, said, is_so = sum(a and b for a, b in pairs), sum(a for a, _ in pairs), sum(b for _, b in pairs)
    assert scores["f1"]["value"] == pytest.approx(2 * hit / (said + is_so))
    assert len(samples) == 12


def test_new_texts_replace_about_four_words_in_ten_by_likely_ones() -> None:
    writer = tiny_bert()
    texts = row(5).documents
    table = Augment(copies=20, replace=0.4, candidates=3)
    found = augmented(texts, writer.model, writer.tokenizer, table, seed=1, progress=quiet)
    assert augmented(texts, writer.model, writer.tokenizer, table, seed=1, progress=quiet) == found
    assert len(found) > 80
    special = set(writer.tokenizer.all_special_ids)
    by_length = {len(one.ids): one for one in texts}
    changed = []
    for new in found:
        assert isinstance(new, Labelled)
        assert (new.ids[0], new.ids[-1]) == (by_length[len(new.ids)].ids[0], by_length[len(new.ids)].ids[-1])
        assert not special & set(new.ids[1:-1])
        changed.append(min(sum(a != b for a, b in zip(new.ids, old.ids, strict=True)) for old in texts))
    # Three of five words... each with 0.4, and sometimes the same word is drawn again.
    assert 1.0 < sum(changed) / len(changed) < 2.6
