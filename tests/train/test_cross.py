"""Across tokenizers: borders against brute force, distances against plain formulas, and a training with them."""

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.errors import ConfigError
from harness.records import Chat, Message
from harness.train import cross
from harness.train.batches import Document, Row, pack, to_batch, to_document
from harness.train.cross import Pair, pair_document, shared_tokens, student_positions, teacher_logits, uld_sum
from tests.tiny import tiny_chats, tiny_model, tiny_tokenizer
from tests.train.other_tokenizers import OTHER_TEMPLATE, merging, sentencepiece


def chat_of(*answers: str, finish: str = "stop") -> Chat:
    messages = [
        Message(role=role, content=text)
        for number, answer in enumerate(answers)
        for role, text in (("user", f"Grüße, question {number}?"), ("assistant", answer))
    ]
    return Chat(id="c", kind="k", messages=tuple(messages), finish=finish)


def compared(document: Document, student: Any, teacher: Any) -> list[tuple[str, str]]:
    """What stands before each compared position on both sides, in text."""
    assert document.pair is not None
    return [
        (student.decode(document.ids[: mine + 1]), teacher.decode(document.pair.ids[: theirs + 1]))
        for mine, theirs in zip(document.pair.student_at, document.pair.teacher_at, strict=True)
    ]


def whole_prefixes(tokenizer: Any, text: str) -> dict[int, int]:
    """By brute force: after how many tokens so many letters of `text` are written, and no part of another."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = {}
    for count in range(len(ids) + 1):
        head, tail = tokenizer.decode(ids[:count]), tokenizer.decode(ids[count:])
        if head + tail == text:
            found[len(head)] = count
    return found


def answer_start(tokenizer: Any, chat: Chat) -> int:
    text = tokenizer.apply_chat_template(
        [message.model_dump() for message in chat.messages[:1]], tokenize=False, add_generation_prompt=True
    )
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


# Surrogates are no text; U+FFFD is what the brute force tells a torn letter by.
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd"), max_size=24) | st.lists(
    st.sampled_from(["the", " other", " fox", "é", "😀", "東京", " ", "\n", "e\u0301", "after 3", "?"]), max_size=12
).map("".join)


@given(text=TEXTS)
@example(text="the 😀 fox, naïve")
def test_aligned_positions_are_the_borders_that_brute_force_finds(text: str) -> None:
    student, teacher, chat = tiny_tokenizer(), merging(), chat_of(text)
    document = pair_document(chat, student, teacher, None, aligned=True)
    ours, theirs = whole_prefixes(student, text), whole_prefixes(teacher, text)
    first, other = answer_start(student, chat) - 1, answer_start(teacher, chat) - 1
    wanted = [(first + ours[place], other + theirs[place]) for place in sorted(ours.keys() & theirs.keys())]
    assert document.pair is not None
    assert list(zip(document.pair.student_at, document.pair.teacher_at, strict=True)) == wanted
    assert wanted[0] == (first, other)
    assert wanted[-1] == (len(document.ids) - 2, len(document.pair.ids) - 2)  # the last one predicts the end of turn


def test_no_border_lies_inside_a_character_that_both_sides_cut() -> None:
    tokenizer = tiny_tokenizer()
    document = pair_document(chat_of("é😀"), tokenizer, tokenizer, None, aligned=True)
    assert document.pair is not None
    assert len(document.pair.student_at) == 3  # before é, before the smile, before the end of turn; of seven tokens
    assert document.pair.student_at == document.pair.teacher_at


@pytest.mark.parametrize(
    "text", ["The other fox and the lazy dog", "two  spaces \n and lines", "naïve café 😀, after 3"]
)
def test_spans_without_spaces_and_changed_text_find_the_same_or_fewer_borders(text: str) -> None:
    student = tiny_tokenizer()
    plain = pair_document(chat_of(text), student, merging(), None, aligned=True)
    assert pair_document(chat_of(text), student, merging(trim=True), None, aligned=True).pair == plain.pair
    # Lower-casing leaves no proof by bytes; the spans remain, and each border that they give is one.
    lower = merging(lower=True)
    document = pair_document(chat_of(text), student, lower, None, aligned=True)
    found = compared(document, student, lower)
    assert len(found) > 4
    for mine, theirs in found:
        assert mine.split("assistant\n")[-1].lower() == theirs.split("[assistant]")[-1]


def test_a_tokenizer_that_begins_with_a_space_of_its_own() -> None:
    text = "the other fox, ñ"
    teacher = sentencepiece()
    ids = teacher(text, add_special_tokens=False)["input_ids"]
    assert teacher.convert_ids_to_tokens(ids)[0].startswith("▁the")
    assert "<0xC3>" in teacher.convert_ids_to_tokens(ids)
    document = pair_document(chat_of(text), tiny_tokenizer(), teacher, None, aligned=True)
    before = [mine.split("assistant\n")[-1] for mine, _ in compared(document, tiny_tokenizer(), teacher)]
    # The first prediction is 'the' on one side and ' the' on the other: it is left out.
    pieces = [teacher.decode(ids[: count + 1]) for count in range(len(ids))]
    assert before == [piece for piece in pieces if text.startswith(piece)]
    assert before[0] == pieces[0]
    assert before[-1] == text
    assert len(before) == len(ids) - 1  # all but inside ñ
    same = pair_document(chat_of(text), teacher, teacher, None, aligned=True)
    assert same.pair is not None
    assert len(same.pair.student_at) == len(ids)  # both begin so: compared from the first on, all but inside ñ


def test_several_turns_cut_answers_and_templates() -> None:
    student, teacher = tiny_tokenizer(), merging()
    chat = chat_of("One two.", "", "After the fox")
    found = compared(pair_document(chat, student, teacher, "Be brief.", aligned=True), student, teacher)
    for mine, theirs in found:
        assert "Be brief." in mine
        assert "Be brief." in theirs
        assert mine.split("<|im_start|>assistant\n")[-1] == theirs.split("[assistant]")[-1]
    ends = [mine.split("<|im_start|>assistant\n")[-1] for mine, _ in found]
    assert ends[0] == ""
    assert {"One two.", "After the fox"} <= set(ends)
    assert ends.count("") == 3  # each turn's first position; that of the empty turn predicts its end
    cut = pair_document(chat.model_copy(update={"finish": "length"}), student, teacher, "Be brief.", aligned=True)
    assert len(compared(cut, student, teacher)) == len(found) - 1


def test_by_place_is_the_published_form() -> None:
    student, teacher = tiny_tokenizer(), merging()
    document = pair_document(chat_of("the other fox", "fox"), student, teacher, None, aligned=False)
    assert document.pair is not None
    lengths = [len(teacher(text, add_special_tokens=False)["input_ids"]) + 1 for text in ("the other fox", "fox")]
    assert len(document.pair.student_at) == sum(lengths)  # the teacher's answers are the shorter ones
    learnt = [place - 1 for place, wanted in enumerate(document.target) if wanted]
    turns = [learnt[: len("the other fox") + 1], learnt[len("the other fox") + 1 :]]
    expected = [place for turn, length in zip(turns, lengths, strict=True) for place in turn[:length]]
    assert list(document.pair.student_at) == expected


@given(text=TEXTS, tokens=st.integers(0, 80))
def test_a_cut_document_keeps_what_its_tokens_still_predict(text: str, tokens: int) -> None:
    whole = pair_document(chat_of(text, "fox"), tiny_tokenizer(), merging(), None, aligned=True)
    cut = whole.cut(tokens)
    assert whole.pair is not None
    assert cut.pair is not None
    assert set(whole.pair.student_at) <= set(whole.scored)
    assert set(cut.pair.student_at) == set(whole.pair.student_at) & set(cut.scored)
    assert len(cut.pair.teacher_at) == len(cut.pair.student_at)
    assert cut.pair.teacher_at == whole.pair.teacher_at[: len(cut.pair.teacher_at)]
    assert all(place < len(cut.pair.ids) for place in cut.pair.teacher_at)


def plain_softmax(logits: list[float], temperature: float) -> list[float]:
    exps = [math.exp(value / temperature) for value in logits]
    return [value / sum(exps) for value in exps]


def plain_sorted_distance(ours: list[float], theirs: list[float]) -> float:
    width = max(len(ours), len(theirs))
    padded = [sorted(side + [0.0] * (width - len(side)), reverse=True) for side in (ours, theirs)]
    return sum(abs(a - b) for a, b in zip(*padded, strict=True))


def logits(positions: int, width: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(positions, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("ours", "theirs"), [(5, 9), (9, 5), (6, 6)])
def test_the_published_distance_is_the_plain_formula(ours: int, theirs: int, temperature: float) -> None:
    student, teacher = logits(4, ours, 1), logits(4, theirs, 2)
    wanted = sum(
        plain_sorted_distance(plain_softmax(a, temperature), plain_softmax(b, temperature))
        for a, b in zip(student.tolist(), teacher.tolist(), strict=True)
    )
    assert float(uld_sum(student, teacher, temperature, None)) == pytest.approx(wanted, rel=1e-12)


def test_shared_tokens_are_compared_by_name_and_padding_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = logits(7, 6, 1), logits(7, 8, 2)
    shared = cross.Shared(torch.tensor([0, 4]), torch.tensor([5, 2]), 5, 7)  # one row of padding on each side
    wanted = 0.0
    for a, b in zip(student[:, :5].tolist(), teacher[:, :7].tolist(), strict=True):
        p, q = plain_softmax(a, 2.0), plain_softmax(b, 2.0)
        wanted += abs(p[0] - q[5]) + abs(p[4] - q[2])
        wanted += plain_sorted_distance([p[1], p[2], p[3]], [q[0], q[1], q[3], q[4], q[6]])
    assert float(uld_sum(student, teacher, 2.0, shared)) == pytest.approx(wanted, rel=1e-12)
    monkeypatch.setattr(cross, "CHUNK_VALUES", 2 * (6 + 8))  # two positions at a time
    assert float(uld_sum(student, teacher, 2.0, shared)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("kind", ["published", "shared"])
def test_gradients(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross, "CHUNK_VALUES", 3 * 14)
    shared = cross.Shared(torch.tensor([0, 4]), torch.tensor([5, 2]), 5, 7) if kind == "shared" else None
    student, teacher = logits(5, 6, 1).requires_grad_(), logits(5, 8, 2)
    assert torch.autograd.gradcheck(lambda own: 3 * uld_sum(own, teacher, 1.5, shared), student)


def test_half_precision_and_no_position_at_all() -> None:
    student, teacher = logits(3, 6, 1).bfloat16(), logits(3, 8, 2).bfloat16()
    wanted = float(uld_sum(student.double(), teacher.double(), 1.0, None))
    got = uld_sum(student, teacher, 1.0, None)
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(wanted, rel=1e-6)
    nothing = logits(0, 6, 1).requires_grad_()
    total = uld_sum(nothing, logits(0, 8, 2), 1.0, None)
    total.backward()
    assert float(total.detach()) == 0
    assert nothing.grad is not None


def test_one_tokenizer_for_both_gives_the_plain_distance_and_none_between_equals() -> None:
    student, teacher = tiny_model(seed=1), tiny_model(seed=2)
    shared = shared_tokens(student.tokenizer, teacher.tokenizer)
    assert len(shared.student_K) == len(student.tokenizer)
    documents = [pair_document(chat, student.tokenizer, teacher.tokenizer, None, True) for chat in tiny_chats(3)]
    row = pack(documents, 512)[0]
    own = to_batch(row).logits(student.model).detach().double()
    other = to_batch(row).logits(teacher.model).detach().double()
    wanted = float((own.softmax(-1) - other.softmax(-1)).abs().sum())
    assert float(uld_sum(own, teacher_logits(teacher.model, row).double(), 1.0, shared)) == pytest.approx(wanted)
    assert wanted > 1
    assert float(uld_sum(own, teacher_logits(student.model, row).double(), 1.0, shared)) == pytest.approx(0, abs=1e-9)
    assert student_positions(row) == to_batch(row).keep_N.tolist()


def test_which_tokens_are_shared() -> None:
    student, teacher = tiny_tokenizer(), sentencepiece()
    shared = shared_tokens(student, teacher)
    pairs = {
        (student.convert_ids_to_tokens(ours), teacher.convert_ids_to_tokens(theirs))
        for ours, theirs in zip(shared.student_K.tolist(), shared.teacher_K.tolist(), strict=True)
    }
    assert ("<|im_end|>", "</s>") in pairs  # the end of turn, whatever its name
    assert ("Ġ", "▁") in pairs
    assert ("t", "t") in pairs  # and not the byte <0x74>
    assert ("Ã", "<0xC3>") in pairs
    assert len(shared_tokens(student, teacher, aligned=False).student_K) == 0
    assert (shared.student_size, shared.teacher_size) == (len(student), len(teacher))
    names = {
        (student.convert_ids_to_tokens(ours), merging().convert_ids_to_tokens(theirs))
        for ours, theirs in zip(*(side.tolist() for side in sides(shared_tokens(student, merging()))), strict=True)
    }
    assert ("<|im_start|>", "<|im_start|>") in names
    assert len(names) == 258


def sides(shared: cross.Shared) -> tuple[torch.Tensor, torch.Tensor]:
    return shared.student_K, shared.teacher_K


def taught_model(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A teacher that has read the chats a little, so that there is something to imitate."""
    teacher = other_model(tokenizer, 3)
    row = pack([to_document(tokenizer, chat, None) for chat in tiny_chats(6)], 512)[0]
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(40):
        batch = to_batch(row)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(batch.logits(teacher), batch.label_N).backward()
        optimizer.step()
    return teacher


def other_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 6,  # padded, as matrices often are
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model.eval()


def test_packed_teacher_logits_are_those_of_each_document_alone() -> None:
    tokenizer = merging()
    teacher = other_model(tokenizer, 3)
    documents = [pair_document(chat, tiny_tokenizer(), tokenizer, None, True) for chat in tiny_chats(3)]
    unpaired = Document((1, 2, 3), (False, True, True))
    row = Row((documents[0], unpaired, documents[1].cut(10), documents[2]))
    wanted = []
    for document in (documents[0], documents[2]):
        assert document.pair is not None
        with torch.no_grad():
            whole_TV = teacher(torch.tensor([document.pair.ids])).logits[0]
        wanted.append(whole_TV[list(document.pair.teacher_at)])
    got = teacher_logits(teacher, row)
    assert not got.requires_grad
    torch.testing.assert_close(got, torch.cat(wanted), rtol=1e-4, atol=1e-4)
    assert len(student_positions(row)) == len(got)
    assert teacher_logits(teacher, Row((unpaired,))).shape == (0, len(tokenizer) + 6)


@pytest.mark.parametrize(("aligned", "falls_to"), [(True, 0.75), (False, 0.4)])
def test_training_brings_a_student_nearer_to_a_teacher_with_another_tokenizer(aligned: bool, falls_to: float) -> None:
    student, tokenizer = tiny_model(seed=1), merging()
    teacher = taught_model(tokenizer)
    shared = shared_tokens(student.tokenizer, tokenizer, aligned)
    documents = [pair_document(chat, student.tokenizer, tokenizer, None, aligned) for chat in tiny_chats(6)]
    row = pack(documents, 512)[0]
    batch = to_batch(row)
    index_M = torch.tensor([batch.keep_N.tolist().index(place) for place in student_positions(row)])
    teacher_MV = teacher_logits(teacher, row)
    optimizer = torch.optim.Adam(student.model.parameters(), lr=3e-3)
    losses, likelihoods = [], []
    for _ in range(30):
        logits_NV = batch.logits(student.model)
        loss = uld_sum(logits_NV[index_M], teacher_MV, 1.0, shared) / len(index_M)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        likelihoods.append(
            -float(torch.nn.functional.cross_entropy(logits_NV.detach()[index_M], batch.label_N[index_M]))
        )
    assert losses[-1] < falls_to * losses[0], losses
    assert all(0 < value <= 2 for value in losses)
    # By place and without names it learns how sure the teacher is; aligned and by name also of what.
    assert (likelihoods[-1] > likelihoods[0] + 2) is aligned, likelihoods


def test_what_cannot_be_paired_says_so() -> None:
    slow = ByT5Tokenizer()
    slow.chat_template = OTHER_TEMPLATE
    with pytest.raises(ConfigError, match=r"ByT5Tokenizer does not say where") as raised:
        pair_document(chat_of("fox"), tiny_tokenizer(), slow, None, aligned=True)
    assert "aligned = false" in str(raised.value)
    with pytest.raises(ConfigError, match="ByT5Tokenizer does not say where"):
        shared_tokens(tiny_tokenizer(), slow)
    assert pair_document(chat_of("fox"), tiny_tokenizer(), slow, None, aligned=False).pair is not None
    strict = merging(size=430)
    strict.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    with pytest.raises(ConfigError, match=r"refuses the chat 'c': no system role"):
        pair_document(chat_of("fox"), tiny_tokenizer(), strict, "Be brief.", aligned=True)
    assert Pair((1, 2), (), ()).cut(5) == Pair((), (), ())
