"""Answers and corpora: seeded, the same whatever else is in the batch, resumable."""

from pathlib import Path

import pytest

from harness.answers import answer_all, answer_stage
from harness.chat import Sampling, seed_for, write_answers
from harness.config import Study
from harness.corpus import System, is_held_out, make_corpus, read_corpus
from harness.errors import ConfigError
from harness.progress import quiet
from harness.records import Answer, Message, Prompt, Scenario, drop_torn_line, read_jsonl
from harness.rundir import RunDir
from tests.tiny import save_tiny, tiny_corpus, tiny_model

SEED = 7711554873193800362  # of (7, "answer", "s01"); written down, since answers must not change between machines
SAMPLING = Sampling(max_tokens=12, temperature=0.8, top_p=0.9)


def ask(*texts: str) -> list[list[Message]]:
    return [[Message(role="user", content=text)] for text in texts]


def test_an_answer_depends_on_its_seed_and_not_on_its_neighbours() -> None:
    loaded = tiny_model()
    together = write_answers(loaded, ask("one", "a much longer request", "three"), [1, 2, 3], SAMPLING)
    alone = [write_answers(loaded, ask(text), [seed], SAMPLING)[0] for text, seed in (("one", 1), ("three", 3))]
    assert [together[0], together[2]] == alone
    assert write_answers(loaded, ask("one"), [4], SAMPLING)[0] != alone[0]


def test_greedy_is_what_transformers_generates() -> None:
    import torch

    from harness.models.chat_format import encode_prompt

    loaded = tiny_model()
    chats = ask("hello", "good morning to you")
    ours = write_answers(loaded, chats, [0, 0], Sampling(10, temperature=0))
    for chat, answer in zip(chats, ours, strict=True):
        ids = encode_prompt(loaded.tokenizer, chat, None)
        out = loaded.model.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False)[0, len(ids) :]
        assert loaded.tokenizer.decode(out, skip_special_tokens=True).strip() == answer.text


def test_the_end_of_turn_ends_an_answer() -> None:
    loaded = tiny_model()
    answers = write_answers(loaded, ask(*"abcdefgh"), list(range(8)), Sampling(400, temperature=1.5))
    assert {answer.finish for answer in answers} == {"stop", "length"} or all(a.finish == "stop" for a in answers)
    assert all("<|im_end|>" not in answer.text for answer in answers)
    assert all(answer.tokens < 400 for answer in answers if answer.finish == "stop")


def test_seeds_are_the_same_everywhere() -> None:
    assert seed_for(7, "answer", "s01") == SEED
    assert seed_for(7, "answer", "s01") != seed_for(7, "answer", "s02")
    assert 0 <= seed_for(1) < 2**63


def scenarios(count: int = 5) -> list[Scenario]:
    return [
        Scenario(id=f"s{n}", category="c", goal="g", opening=f"question {n}", turns=1, reached="r")
        for n in range(count)
    ]


def study(tmp_path: Path) -> Study:
    return Study.model_validate(
        {
            "schema": 1,
            "name": "tiny",
            "teacher": {"source": str(tmp_path / "teacher")},
            "student": [{"name": "small", "source": str(tmp_path / "small")}],
            "answer": {"max_tokens": 8, "batch": 2},
        }
    )


def test_every_arm_answers_every_scenario_and_a_killed_stage_goes_on(tmp_path: Path) -> None:
    models = {
        "teacher": save_tiny(tmp_path / "teacher"),
        "small": save_tiny(tmp_path / "small", layers=2, seed=1),
    }
    digests = {arm: arm for arm in models}
    whole = answer_stage(study(tmp_path), RunDir(tmp_path / "whole"), scenarios(), digests)
    answer_all(study(tmp_path), whole, scenarios(), models, quiet)
    answers = read_jsonl(whole.folder / "answers.jsonl", Answer)
    assert [(a.arm, a.scenario) for a in answers] == [(arm, s.id) for arm in models for s in scenarios()]
    assert {a.seed for a in answers if a.arm == "teacher"} == {a.seed for a in answers if a.arm == "small"}

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, note: str) -> None:
        if done == 7:
            raise KilledError

    killed = answer_stage(study(tmp_path), RunDir(tmp_path / "killed"), scenarios(), digests)
    with pytest.raises(KilledError):
        answer_all(study(tmp_path), killed, scenarios(), models, kill)
    part = next(killed.folder.glob(".answers-*.jsonl"))
    kept = len(part.read_text().splitlines())
    assert kept == 7
    with part.open("a") as file:
        file.write('{"arm": "small", "scen')  # a line torn by the kill
    seen: list[int] = []
    answer_all(study(tmp_path), killed, scenarios(), models, lambda done, total, note: seen.append(done))
    assert min(seen) >= kept
    assert (killed.folder / "answers.jsonl").read_text() == (whole.folder / "answers.jsonl").read_text()
    assert answer_stage(study(tmp_path), RunDir(tmp_path / "killed"), scenarios(), digests).finished()


def test_a_corpus_can_be_made_again_and_continued(tmp_path: Path) -> None:
    loaded = tiny_model()
    prompts = [Prompt(id=f"p{n}", kind="k", prompt=f"prompt {n}") for n in range(5)]

    def make(out: Path, part: list[Prompt]) -> int:
        return make_corpus(
            loaded, part, out, samples=2, sampling=SAMPLING, seed=1, system=None, batch=3, progress=quiet
        )

    make(tmp_path / "whole.jsonl", prompts)
    make(tmp_path / "parts.jsonl", prompts[:2])
    with (tmp_path / "parts.jsonl").open("a") as file:
        file.write('{"id": "p3.0", "ki')  # a line torn by a kill
    made = make(tmp_path / "parts.jsonl", prompts)
    assert made <= 6

    def lines(name: str) -> list[str]:
        return sorted((tmp_path / name).read_text().splitlines())

    assert lines("parts.jsonl") == lines("whole.jsonl")


def test_a_whole_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tiny_corpus(tmp_path / "corpus.jsonl", 3)
    before = path.read_text()
    path.write_text(before.rstrip("\n"))  # as some editors save it
    drop_torn_line(path)
    assert path.read_text() == before
    path.write_text(before + '{"id": "c9", "ki')
    drop_torn_line(path)
    assert path.read_text() == before


def test_the_held_out_part_follows_the_prompt_alone(tmp_path: Path) -> None:
    train, held_out = read_corpus(tiny_corpus(tmp_path / "corpus.jsonl", 200))
    assert all(is_held_out(chat.messages[0].content) for chat in held_out)
    assert not any(is_held_out(chat.messages[0].content) for chat in train)
    assert 5 < len(held_out) < 40


def test_a_part_of_a_corpus_is_a_part_of_every_larger_one_in_the_files_order(tmp_path: Path) -> None:
    path = tiny_corpus(tmp_path / "corpus.jsonl", 100)
    whole, held_out = read_corpus(path)
    some, same = read_corpus(path, 30)
    few, _ = read_corpus(path, 10)
    assert (len(few), len(some), same) == (10, 30, held_out)
    assert few == [chat for chat in some if chat in few]
    assert some == [chat for chat in whole if chat in some]
    assert read_corpus(path, 1000)[0] == whole
    assert few != whole[:10]  # chosen by hash, whatever the order of the file


def test_chats_under_drawn_system_messages_stay_on_their_prompts_side(tmp_path: Path) -> None:
    prompts = [Prompt(id=f"p{n}", kind="k", prompt=f"prompt {n}") for n in range(40)]
    systems = [System(id="a", system="Give reasons."), System(id="b", system="Go by steps.")]
    out = tmp_path / "explained.jsonl"
    make_corpus(
        tiny_model(), prompts, out, samples=1, sampling=SAMPLING, seed=1, system="Be kind.", systems=systems, batch=40,
        progress=quiet,
    )  # fmt: skip
    train, held_out = read_corpus(out)
    chats = {chat.id: chat for chat in [*train, *held_out]}
    assert {chat.messages[0].content for chat in chats.values()} == {"Give reasons.", "Go by steps."}
    assert {chat.messages[1].content for chat in held_out} == {
        prompt.prompt for prompt in prompts if is_held_out(prompt.prompt) and f"{prompt.id}.0" in chats
    }


def test_a_corpus_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tiny_corpus(tmp_path / "corpus.jsonl", 3)
    path.write_text(path.read_text() + '{"id": "x"}\n')
    with pytest.raises(ConfigError, match=r"corpus\.jsonl, line 4"):
        read_corpus(path)
    path.write_text("")
    with pytest.raises(ConfigError, match="0 chats to train on"):
        read_corpus(path)
