"""Texts that the teacher writes before the training: resumed, shared, in order, and learnt only where it speaks."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.chat import Sampling, seed_for, write_answers
from harness.corpus import System
from harness.errors import ConfigError
from harness.models.load import LoadedModel
from harness.progress import quiet
from harness.records import Chat, Message, read_jsonl, write_jsonl
from harness.resources import data_path
from harness.terms import Ce, Explanations, Kd, Terms, Uld
from harness.terms import Sequence as SequenceTerm
from harness.train.batches import KINDS, pack, to_document
from harness.train.teacher_text import TeacherText, documents_of, teacher_texts
from tests.tiny import tiny_chats, tiny_model, tiny_tokenizer
from tests.train.other_tokenizers import merging

SHORT = {"max_tokens": 12, "temperature": 1.0}
SEQUENCE = SequenceTerm(samples=2, **SHORT)
EXPLANATIONS = Explanations(samples=2, **SHORT)


class KilledError(Exception):
    """A process that ends between two batches."""


def written(
    folder: Path,
    terms: Terms,
    *,
    chats: Sequence[Chat] | None = None,
    teacher: LoadedModel | None = None,
    killed_at: int | None = None,
    digest: str = "teacher",
    seed: int = 7,
    batch: int = 3,
) -> list[TeacherText]:
    def progress(done: int, total: int, note: str) -> None:
        if killed_at is not None and done >= killed_at:
            raise KilledError

    return teacher_texts(
        folder,
        teacher or tiny_model(),
        digest,
        tiny_chats(5) if chats is None else chats,
        terms,
        system="Be brief.",
        seed=seed,
        batch=batch,
        progress=progress,
    )


def test_the_teacher_answers_each_prompt_as_it_would_in_a_chat(tmp_path: Path) -> None:
    texts = written(tmp_path, Terms(sequence=SEQUENCE))
    teacher = tiny_model()
    assert [(text.place, text.id) for text in texts] == [
        (place, f"{place}.{number}") for place in range(5) for number in range(2)
    ]
    for text in texts:
        prompt = tiny_chats(5)[text.place].messages[:1]
        number = int(text.id.split(".")[1])
        seed = seed_for(7, "sequence", text.place, number)
        (alone,) = write_answers(teacher, [prompt], [seed], Sampling(12, 1.0, 0.9), "Be brief.")
        assert text.messages == (*prompt, Message(role="assistant", content=alone.text))
        assert text.finish == alone.finish
        assert text.kind == "sequence"
    assert "length" in {text.finish for text in texts}
    assert len({text.messages[-1].content for text in texts}) > 5  # samples differ


def test_a_stopped_run_goes_on_to_the_same_texts(tmp_path: Path) -> None:
    terms = Terms(sequence=SEQUENCE, explanations=EXPLANATIONS)
    whole = written(tmp_path / "whole", terms)
    for stop in (3, 6):  # between batches, twice
        with pytest.raises(KilledError):
            written(tmp_path / "parts", terms, killed_at=stop)
    part = next((tmp_path / "parts").iterdir())
    kept = len(part.read_text().splitlines())
    assert 3 <= kept < 10
    with part.open("a") as file:
        file.write('{"id": "4.1", "ki')  # a line torn by the kill
    assert written(tmp_path / "parts", terms) == whole
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / path.name).read_text() == path.read_text()


def test_students_with_the_same_settings_share_the_texts(tmp_path: Path) -> None:
    terms = Terms(sequence=SEQUENCE)
    first = written(tmp_path, terms)
    calls: list[int] = []
    again = teacher_texts(
        tmp_path,
        LoadedModel(None, tiny_tokenizer()),  # nothing is left to write, so no model is asked
        "teacher",
        tiny_chats(5),
        Terms(sequence=SEQUENCE.model_copy(update={"weight": 0.3}), ce=Ce(weight=1)),
        system="Be brief.",
        seed=7,
        progress=lambda done, total, note: calls.append(done),
    )
    assert again == first
    assert not calls
    assert len(list(tmp_path.iterdir())) == 1
    hotter = Terms(sequence=SEQUENCE.model_copy(update={"temperature": 0.5}))
    for number, other in enumerate((
        {"terms": hotter}, {"seed": 8}, {"digest": "another"}, {"chats": tiny_chats(4)},
    ), 2):  # fmt: skip
        written(tmp_path, **{"terms": terms, **other})  # type: ignore[arg-type]
        assert len(list(tmp_path.iterdir())) == number
    assert {path.name[:9] for path in tmp_path.iterdir()} == {"sequence-"}


def test_empty_answers_are_dropped_and_not_asked_for_again(tmp_path: Path) -> None:
    # Of one token at most, many answers are the end of turn or white space at once.
    term = SequenceTerm(samples=40, max_tokens=1, temperature=3.0, top_p=1.0)
    texts = written(tmp_path, Terms(sequence=term), chats=tiny_chats(4), batch=160)
    assert 0 < len(texts) < 160
    assert all(text.messages[-1].content for text in texts)
    (path,) = tmp_path.iterdir()
    assert len(read_jsonl(path, TeacherText)) == 160
    assert written(tmp_path, Terms(sequence=term), chats=tiny_chats(4), killed_at=0) == texts


def test_a_system_message_is_drawn_for_each_prompt_and_stands_in_its_context(tmp_path: Path) -> None:
    chats = tiny_chats(12)
    own = Message(role="system", content="The system message of one chat.")
    chats[3] = chats[3].model_copy(update={"messages": (own, *chats[3].messages)})
    texts = written(tmp_path, Terms(explanations=EXPLANATIONS), chats=chats, batch=24)
    known = {system.system for system in read_jsonl(data_path("prompts/explain.jsonl"), System)}
    assert len(known) == 16
    drawn: dict[int, set[str]] = {}
    for text in texts:
        assert [message.role for message in text.messages] == ["system", "user", "assistant"]
        drawn.setdefault(text.place, set()).add(text.messages[0].content)
    assert all(len(systems) == 1 for systems in drawn.values())  # one a prompt, for all its samples
    assert set().union(*drawn.values()) <= known
    assert len(set().union(*drawn.values())) > 4
    tokenizer = tiny_tokenizer()
    for document, text in zip(
        documents_of(tokenizer, chats, Terms(explanations=EXPLANATIONS), texts, "Be brief."), texts, strict=True
    ):
        shown = tokenizer.decode(document.ids)
        assert text.messages[0].content in shown
        assert "Be brief." not in shown
        assert "of one chat" not in shown


def test_prompts_end_before_the_first_answer_and_chats_without_one_are_passed_over(tmp_path: Path) -> None:
    chats = tiny_chats(3)
    chats[0] = chats[0].model_copy(update={"messages": (*chats[0].messages, *chats[1].messages)})
    chats[1] = chats[1].model_copy(update={"messages": chats[1].messages[1:]})
    texts = written(tmp_path, Terms(sequence=SEQUENCE), chats=chats)
    assert {text.place for text in texts} == {0, 2}
    assert {len(text.messages) for text in texts} == {2}
    with pytest.raises(ConfigError, match="no chat of the corpus has a user's message"):
        written(tmp_path, Terms(sequence=SEQUENCE), chats=chats[1:2])


@pytest.mark.parametrize(
    ("terms", "kinds"),
    [
        (Terms(ce=Ce(weight=1), sequence=SEQUENCE, explanations=EXPLANATIONS), KINDS),
        (Terms(kd=Kd(weight=1), sequence=SEQUENCE), ("sequence",)),
        (Terms(sequence=SEQUENCE, ce=Ce(weight=0)), ("sequence",)),
        (Terms(kd=Kd(weight=1), sequence=SEQUENCE.model_copy(update={"weight": 0.0})), ("corpus",)),
        (Terms(explanations=EXPLANATIONS), ("explanations",)),
        (Terms(kd=Kd(weight=1)), ("corpus",)),
    ],
)
def test_which_documents_are_in_and_in_which_order(tmp_path: Path, terms: Terms, kinds: tuple[str, ...]) -> None:
    chats = tiny_chats(4)
    texts = written(tmp_path, terms, chats=chats, batch=16)
    documents = documents_of(tiny_tokenizer(), chats, terms, texts, None)
    expected = []
    for place, chat in enumerate(chats):
        expected += [to_document(tiny_tokenizer(), chat, None)] if "corpus" in kinds else []
        expected += [to_document(tiny_tokenizer(), one, None, one.kind) for one in texts if one.place == place]
    assert documents == expected
    assert {document.kind for document in documents} == set(kinds)
    order = [KINDS.index(document.kind) for document in documents[: len(documents) // 4]]
    assert order == sorted(order)


def test_only_what_the_teacher_says_is_learnt(tmp_path: Path) -> None:
    terms = Terms(sequence=SEQUENCE, explanations=EXPLANATIONS)
    texts = written(tmp_path, terms, batch=16)
    tokenizer = tiny_tokenizer()
    documents = documents_of(tokenizer, tiny_chats(5), terms, texts, "Be brief.")
    ordered = sorted(texts, key=lambda text: (text.place, KINDS.index(text.kind)))
    for document, text in zip(documents, ordered, strict=True):
        learnt = [token for token, wanted in zip(document.ids, document.target, strict=True) if wanted]
        end = [tokenizer.eos_token_id] if text.finish == "stop" else []
        assert learnt == [*tokenizer(text.messages[-1].content, add_special_tokens=False)["input_ids"], *end]
    assert sum(row.learnt for row in pack(documents, 512)) == sum(len(document.scored) for document in documents)


def test_across_tokenizers_the_teachers_texts_are_paired_too(tmp_path: Path) -> None:
    terms = Terms(uld=Uld(weight=1), sequence=SEQUENCE, ce=Ce(weight=1))
    teacher = LoadedModel(tiny_model().model, tiny_tokenizer())
    chats = tiny_chats(3)
    texts = written(tmp_path, terms, chats=chats, teacher=teacher)
    documents = documents_of(merging(), chats, terms, texts, None, teacher.tokenizer)
    assert len(documents) == 3 + len(texts)
    for document in documents:
        assert document.pair is not None
        assert document.pair.student_at
        assert set(document.pair.student_at) <= set(document.scored)


def test_system_messages_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "systems.jsonl"
    term = EXPLANATIONS.model_copy(update={"systems": str(path)})
    with pytest.raises(ConfigError, match="no such file"):
        written(tmp_path, Terms(explanations=term))
    path.write_text("")
    with pytest.raises(ConfigError, match="holds no system message"):
        written(tmp_path, Terms(explanations=term))
    path.write_text('{"id": "a", "system": "Explain."}\n{"id": "b", "system": ""}\n')
    with pytest.raises(ConfigError, match=r"systems\.jsonl, line 2: system: .*at least 1"):
        written(tmp_path, Terms(explanations=term))
    write_jsonl(path, [System(id="a", system="Explain.")])
    texts = written(tmp_path / "texts", Terms(explanations=term))
    assert {text.messages[0].content for text in texts} == {"Explain."}


def test_nothing_is_written_without_such_a_term(tmp_path: Path) -> None:
    off = SEQUENCE.model_copy(update={"weight": 0.0})
    assert (
        teacher_texts(
            tmp_path / "texts",
            LoadedModel(None, None),
            "teacher",
            tiny_chats(3),
            Terms(ce=Ce(weight=1), sequence=off),
            system=None,
            seed=1,
            progress=quiet,
        )
        == []
    )
    assert not (tmp_path / "texts").exists()
