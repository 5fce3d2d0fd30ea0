"""Overlap with the training corpus: against a plain search of words, on chats and on texts, once for all arms."""

import json
import random
from pathlib import Path

import pytest

from harness.bench import training_overlap
from harness.bench.contamination import Item, overlaps, words_of
from harness.bench.training_overlap import Corpus, items_of, note_overlaps, training_corpus
from harness.config import Train
from harness.corpus import is_held_out, read_corpus
from harness.records import Chat, Message, write_jsonl

N = 6


def plainly(items: list[Item], documents: list[str], n: int) -> dict[str, float]:
    """The same by slices of word lists."""
    corpus = {tuple(words[at : at + n]) for words in map(words_of, documents) for at in range(len(words) - n + 1)}
    found = {}
    for item in items:
        runs = {tuple(w[at : at + n]) for w in map(words_of, item.texts) for at in range(len(w) - n + 1)}
        if runs & corpus:
            found[item.key] = len(runs & corpus) / len(runs)
    return found


@pytest.mark.parametrize("block", [7, 400_000])
def test_long_items_are_found_as_a_plain_search_finds_them(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("harness.bench.contamination.BLOCK", block)
    source = random.Random(4)
    words = ["the", "sea", "a", "boat", "is", "on", "to", "and", "wind", "of", "sails", "home"]
    documents = [" ".join(source.choices(words, k=source.randint(1, 60))) for _ in range(400)]
    items = [Item(f"i{k}", (" ".join(source.choices(words, k=9)), "", "x")) for k in range(300)]
    items += [
        Item("copied", (documents[3] + " " + documents[4],)),
        Item("fresh", ("nobody ever wrote these words " * 2,)),
    ]
    found = overlaps({"quiz": items, "empty": []}, documents, N)
    assert found["quiz"].found == pytest.approx(plainly(items, documents, N))
    assert 3 < len(found["quiz"].found) < 300
    assert (found["quiz"].items, found["empty"].items) == (302, 0)


def test_case_punctuation_and_lines_do_not_hide_an_overlap() -> None:
    item = Item("i", ("“The café’s  owner—a tall man—opened at six.”",))
    (found,) = overlaps(
        {"s": [item]}, ["THE CAFE\u0301'S owner,\na tall man, opened; at 6, no: at six! He"], 5
    ).values()
    assert found.found == {"i": pytest.approx(5 / 6)}  # of six runs only the last one holds 'six'


def test_runs_do_not_cross_documents() -> None:
    item = Item("i", ("one two three four five six",))
    assert not overlaps({"s": [item]}, ["one two three", "four five six"], N)["s"].found
    assert overlaps({"s": [item]}, ["zero one two three\nfour five six seven"], N)["s"].found == {"i": 1.0}


def test_short_items_are_looked_for_as_a_whole() -> None:
    question = "Which of these is the largest planet of all"  # nine words
    items = [
        Item("question", (question, "astronomy"), "Jupiter"),
        Item("completed", ("The pencil was blunt, so Amir",), "sharpened it."),
        Item("phrase", ("So he went",), "home"),
        Item("nothing", ("",)),
    ]
    documents = [f"Tell me: {question.lower()}? It is Jupiter.", "the pencil was blunt so amir sharpened it"]
    found = overlaps({"quiz": items}, [*documents, "So he went home"])["quiz"]
    assert set(found.found) == {"question", "completed"}
    assert (found.whole, found.unchecked) == (2, 2)
    wrong = overlaps({"quiz": items}, ["The pencil was blunt, so Amir put it away"])["quiz"]
    assert wrong.found == {}


def test_the_wording_of_a_task_is_no_overlap() -> None:
    wording = "Read the passage and answer the question that follows it in one word only please"
    items = [Item(f"i{k}", (f"{wording} passage number {k} about item {k} here",)) for k in range(40)]
    documents = [wording, "it in one word only please passage number 7 about item 7 here"]
    assert set(overlaps({"s": items}, documents, 10)["s"].found) == {"i7"}
    few = items[:5]  # of five items a common beginning may well be a passage they share
    assert len(overlaps({"s": few}, documents, 10)["s"].found) == 5


def samples(folder: Path, lines: list[dict], suite: str = "quiz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples_{suite}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    return path


def test_items_of_lm_evals_samples(tmp_path: Path) -> None:
    doc = {"question": "What is it?", "choices": {"text": ["a cat", "a dog"], "label": ["A", "B"]}, "meta": {"n": 3}}
    lines = [
        {"task": "arc", "doc_id": 4, "doc": doc, "target": "1", "filtered_resps": [["-1", "a"], ["-2", "b"]]},
        {"task": "arc", "doc_id": 4, "doc": doc, "target": "1", "filter": "again"},
        {"task": "gsm", "doc_id": 0, "doc": {"question": "How many?", "answer": "4"}, "target": "It is #### 4"},
        {"task": "lines", "doc_id": 1, "doc": "a document that is a text", "target": ""},
        {"part": "wiki", "id": "a", "tokens": 3},
        {"part": "wiki", "id": "b", "tokens": 3},
    ]
    found = list(items_of(samples(tmp_path, lines), {"wiki": {"a": "some text"}}))
    assert found == [
        Item("arc/4", ("What is it?",), "a dog"),
        Item("gsm/0", ("How many?", "4"), "It is #### 4"),
        Item("lines/1", ("a document that is a text",)),
        Item("wiki/a", ("some text",)),
    ]


def train(corpus: Path, **more: object) -> Train:
    return Train.model_validate({"corpus": str(corpus), "tokens": 10, "terms": {"ce": {"weight": 1.0}}, **more})


def test_chats_are_searched_but_for_those_held_out(tmp_path: Path) -> None:
    chats = [
        Chat(
            id=f"c{k}",
            kind="x",
            messages=(
                Message(role="user", content=f"Where does river number {k} go?"),
                Message(
                    role="assistant", content=f"It goes to sea number {k} by the shortest way there is for a river."
                ),
            ),
        )
        for k in range(40)
    ]
    path = tmp_path / "chats.jsonl"
    write_jsonl(path, chats)
    held = [chat.id for chat in chats if is_held_out(chat.messages[0].content)]
    assert [chat.id for chat in read_corpus(path)[1]] == held
    lines = [
        {"task": "q", "doc_id": int(chat.id[1:]), "doc": {"text": chat.messages[1].content}, "target": ""}
        for chat in chats
    ]
    samples(tmp_path / "bench" / "arm", lines)
    written = note_overlaps(tmp_path / "bench" / "arm", training_corpus(train(path), path))
    suite = json.loads(written.read_text())["suites"]["quiz"]
    assert suite["found"] == {key: pytest.approx(suite["found"][key]) for key in suite["found"]}
    trained = {f"q/{chat.id[1:]}" for chat in chats if chat.id not in held}
    assert {key for key, share in suite["found"].items() if share == 1.0} == trained
    assert suite["overlapping"] / suite["items"] == suite["share"]


def test_a_table_of_texts_is_searched(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    story = "once there was a lamp that would not go out whatever the wind did to it"
    path.write_text("body\n" + "\n".join(f"{story} in year {k}" for k in range(30)))
    samples(tmp_path / "arm", [{"part": "tales", "id": "1", "tokens": 9}])
    corpus = training_corpus(train(path, text_column="body"), path)
    found = json.loads(note_overlaps(tmp_path / "arm", corpus, {"quiz": {"tales": {"1": story.upper()}}}).read_text())
    assert found["suites"]["quiz"]["found"] == {"tales/1": 1.0}
    assert found["corpus"]["name"] == "texts.csv"


def test_a_suite_is_compared_once_for_all_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def documents() -> list[str]:
        reads.append(1)
        return ["a lamp that would not go out whatever the wind did to it at all"]

    def corpus(digest: str) -> Corpus:
        return Corpus("mine", digest, documents)

    line = {"task": "q", "doc_id": 0, "doc": {"text": "a lamp that would not go out whatever the wind did to it"}}
    for arm in ("one", "two"):
        samples(tmp_path / arm, [line])
    first = note_overlaps(tmp_path / "one", corpus("d"))
    before = first.stat().st_mtime_ns
    assert note_overlaps(tmp_path / "two", corpus("d")).read_text() == first.read_text()
    assert note_overlaps(tmp_path / "one", corpus("d")).stat().st_mtime_ns == before
    assert len(reads) == 1
    note_overlaps(tmp_path / "two", corpus("another"))
    assert len(reads) == 2
    note_overlaps(tmp_path / "one", corpus("d"), n=8)
    assert len(reads) == 3
    samples(tmp_path / "one", [line], suite="more")
    seen = []
    monkeypatch.setattr(
        training_overlap, "overlaps", lambda todo, texts, n: seen.append(list(todo)) or overlaps(todo, texts, n)
    )
    note_overlaps(tmp_path / "one", corpus("d"), n=8)
    assert seen == []  # the same items under another name: known
    (tmp_path / "two" / "contamination.json").write_text("{damaged")
    samples(tmp_path / "one", [{**line, "doc": {"text": "something else"}}], suite="more")
    note_overlaps(tmp_path / "one", corpus("d"), n=8)
    assert seen == [["more"]]
