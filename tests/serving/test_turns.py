"""Each answer is written once, whoever asks; failures are tried once more in time; as many at once as planned."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from harness.chat import Sampling
from harness.records import Message
from harness.serving.endpoint import EndpointArm
from harness.serving.local import LocalArm
from harness.serving.turns import Line, Turns
from tests.serving.openai_server import ChatServer, chat_server
from tests.tiny import tiny_model

SAMPLING = Sampling(20, 0.7, 0.9)
CHAT = (Message(role="user", content="Where is Paris?"),)
BUDGET = 30.0


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def with_arm(server: ChatServer, work: Callable[[EndpointArm], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        arm = EndpointArm(server.url, "m", SAMPLING, None)
        try:
            return await work(arm)
        finally:
            await arm.close()

    return asyncio.run(run())


def asked(server: ChatServer, *, budget: float = BUDGET, marks: Sequence[str] = ()) -> list[Line]:
    async def ask(arm: EndpointArm) -> list[Line]:
        return [line async for line in Turns(7, 2, marks).answer(1, arm, CHAT, budget).follow()]

    found: list[Line] = with_arm(server, ask)
    return found


def text_of(lines: Sequence[Line]) -> str:
    return "".join(line.get("text", "") for line in lines)


def test_an_answer_is_admitted_then_written_then_ended(server: ChatServer) -> None:
    lines = asked(server)
    assert lines[0] == {"admitted": True}
    assert lines[-1] == {"finish": "stop"}
    assert text_of(lines) == server.text


def test_a_failure_before_the_first_word_is_tried_again_once(server: ChatServer) -> None:
    server.faults = [500]
    assert text_of(asked(server)) == server.text
    server.faults = ["error", "garbage", 500]
    lines = asked(server)
    assert lines == [{"admitted": True}, {"failed": True}]
    assert len(server.asked) == 4


def test_it_is_not_tried_again_when_the_delay_is_over(server: ChatServer) -> None:
    server.faults = [500]
    assert asked(server, budget=0.0)[-1] == {"failed": True}
    assert len(server.asked) == 1


def test_a_failure_in_the_middle_is_a_failure(server: ChatServer) -> None:
    server.faults = ["cut"]
    lines = asked(server)
    assert lines[-1] == {"failed": True}
    assert len(server.asked) == 1
    assert "canary" not in str(lines)


def test_marks_end_a_text_and_are_not_seen(server: ChatServer) -> None:
    server.text = "Yes.<|im_end|>\n<|im_start|>user\nWhat else?"
    lines = asked(server)
    assert (text_of(lines), lines[-1]) == ("Yes.", {"finish": "mark"})
    server.text = "  Yes.[CANARY]"
    assert text_of(asked(server, marks=["[CANARY]"])) == "Yes."
    server.text = "<think>canary?</think> No.\n"
    assert (text_of(asked(server)), server.faults) == ("No.", [])


def test_who_asks_again_gets_the_same_answer_from_its_beginning(server: ChatServer) -> None:
    server.gap = 0.02

    async def twice(arm: EndpointArm) -> tuple[str, str, str, int]:
        turns = Turns(7, 2)
        first = turns.answer(1, arm, CHAT, BUDGET).follow()
        begun = [await anext(first) for _ in range(4)]
        await first.aclose()  # type: ignore[attr-defined]  # the connection broke
        again = [line async for line in turns.answer(1, arm, CHAT, BUDGET).follow()]
        server.text = "something else now"
        later = [line async for line in turns.answer(1, arm, CHAT, BUDGET).follow()]
        return text_of(begun), text_of(again), text_of(later), len(server.asked)

    whole = server.text
    begun, again, later, requests = with_arm(server, twice)
    assert begun
    assert whole.startswith(begun)
    assert again == later == whole
    assert requests == 1


def test_an_answer_that_failed_is_written_anew_when_it_is_asked_for_again(server: ChatServer) -> None:
    async def twice(arm: EndpointArm) -> list[str]:
        turns = Turns(7, 2)
        server.faults = [500, 500]
        return [text_of([line async for line in turns.answer(1, arm, CHAT, BUDGET).follow()]) for _ in range(2)]

    assert with_arm(server, twice) == ["", server.text]


def test_other_assignments_and_other_chats_are_other_answers(server: ChatServer) -> None:
    async def several(arm: EndpointArm) -> list[int]:
        turns = Turns(7, 8)
        longer = (*CHAT, Message(role="assistant", content="In France."), Message(role="user", content="And Rome?"))
        for assignment, messages in ((1, CHAT), (2, CHAT), (1, longer), (1, CHAT)):
            async for _ in turns.answer(assignment, arm, messages, BUDGET).follow():
                pass
        return [one["seed"] for one in server.asked]

    seeds = with_arm(server, several)
    assert len(seeds) == len(set(seeds)) == 3
    assert seeds == with_arm(server, several)[3:]


def test_as_many_are_written_at_once_as_planned_and_the_others_wait_in_order(server: ChatServer) -> None:
    server.gap = 0.01

    async def many(arm: EndpointArm) -> list[int]:
        turns, order = Turns(7, 2), []

        async def one(number: int) -> None:
            async for line in turns.answer(number, arm, CHAT, BUDGET).follow():
                if line.get("admitted"):
                    order.append(number)

        await asyncio.gather(*(one(number) for number in range(6)))
        return order

    assert with_arm(server, many) == list(range(6))
    assert server.most == 2


def test_two_arms_at_once_and_a_local_one_repeats_itself_to_the_letter() -> None:
    async def chats() -> tuple[list[str], list[str]]:
        arms = [LocalArm(tiny_model(seed=seed), SAMPLING, None, 4) for seed in (0, 1)]
        texts = []
        for _ in range(2):  # a new one each time, as after a restart
            turns = Turns(7, 4)

            async def one(number: int, turns: Turns = turns) -> str:
                answer = turns.answer(number, arms[number % 2], CHAT, BUDGET)
                return text_of([line async for line in answer.follow()])

            texts.append(await asyncio.gather(*(one(number) for number in range(6))))
        for arm in arms:
            await arm.close()
        return texts[0], texts[1]

    first, second = asyncio.run(chats())
    assert first == second
    assert len(set(first)) == 6
