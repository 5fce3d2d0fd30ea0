"""`viva judge`: let models rate a study's answers, keeping every reply; what is answered is never asked again."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.blinding import arm_keys
from harness.errors import ConfigError, RunError
from harness.judge_table import JudgeBy, JudgeTable
from harness.judging import plan, rubric
from harness.judging.asking import Answered, Ask, Conversation
from harness.judging.server import ask_server, host_of, open_server
from harness.progress import bar, say
from harness.records import Message
from harness.resources import resolve_file

if TYPE_CHECKING:
    from harness.stages import Run
    from studyapp.store_judge import Item, Reply, Texts

CUT_RAW = 2000  # characters of an unreadable reply that its judge is shown again


@dataclass(frozen=True)
class Judging:
    """A study's judging as it stands: its table, the texts, own rubric text (None: Viva's), and its sittings."""

    table: JudgeTable
    texts: "Texts"
    own: str | None
    sittings: tuple[plan.Sitting, ...]

    def costs(self, again: bool = False) -> list[plan.Cost]:
        """What each sitting still asks."""
        return [plan.cost_of(sitting, self.table, self.request, again) for sitting in self.sittings]

    def request(self, item: "Item") -> str:
        return plan.request_of(item, self.texts, self.own)


@dataclass
class Spent:
    """What this command has sent to endpoints so far."""

    money: float = 0.0
    requests: int = 0


def prepare(run: "Run", only: Sequence[str] = ()) -> Judging:
    """Bring study.db up to date and see what its judges (or those in `only`) have said. Asks nothing.

    Raises ConfigError for a study without judges and for names that it does not have, RunError without answers,
    RatingError for a judge whose settings have changed since it began.
    """
    from harness.rating import prepare as prepare_ratings
    from studyapp import store_judge

    table = run.study.judge
    if table is None or not table.by:
        raise ConfigError(
            "the study names no judge", hint='add [[judge.by]] with name = "..." and endpoint, source or arm'
        )
    _check(run, table, only)
    prepare_ratings(run)
    teacher = arm_keys(run.dir.blinding, run.study.arms)[run.study.teacher.name]
    texts = store_judge.texts(run.dir.db, live=table.live)
    own = resolve_file(table.rubric, Path.cwd()).read_text(encoding="utf-8") if table.rubric else None
    sittings = []
    for by in table.by:
        if only and by.name not in only:
            continue
        for mode in table.modes:
            judge = _judge(run, by, mode, own)
            items = plan.items_of(table, mode, texts, teacher, run.study.seed)
            sittings.append(plan.Sitting(by, judge, items, store_judge.said(run.dir.db, judge)))
    if not any(sitting.items for sitting in sittings):
        raise RunError(
            "there is nothing to judge: no prepared answer, and no pair of them",
            hint="live chats are judged with live = true under [judge], once people have rated some",
        )
    return Judging(table, texts, own, tuple(sittings))


def _check(run: "Run", table: JudgeTable, only: Sequence[str]) -> None:
    names = [by.name for by in table.by]
    for name in only:
        if name not in names:
            raise ConfigError(f"the study has no judge {name!r}", hint=f"its judges are {', '.join(names)}")
    for by in table.by:
        for arm in (*by.own_arms, *by.family):
            if arm not in run.study.arms:
                raise ConfigError(
                    f"the judge {by.name!r} names an arm {arm!r} that the study does not have",
                    hint=f"its arms are {', '.join(run.study.arms)}",
                )


def _judge(run: "Run", by: JudgeBy, mode: Any, own: str | None) -> Any:
    """The record under which a judge stands in study.db: nothing in it says which arm is which."""
    from studyapp.store_judge import Judge

    settings: dict[str, Any] = {"temperature": 0, "max_tokens": by.max_tokens}
    if by.endpoint is not None:
        settings |= {"body": dict(by.body.model_extra or {})}
        return Judge(by.name, mode, str(by.model), host_of(by.endpoint), rubric.version(own), settings)
    if by.form == "forced":
        settings["form"] = by.form
    if by.precision is not None:
        from harness.judging.local import precision_of

        settings["precision"] = precision_of(by)
    if by.arm is not None:
        return Judge(by.name, mode, "an arm of the study", "", rubric.version(own), settings)
    return Judge(by.name, mode, str(by.source), "", rubric.version(own), settings)


def check_limits(judging: Judging, costs: Sequence[plan.Cost], yes: bool) -> None:
    """Raise RunError where a judging costs more than the study allows without asking."""
    if yes:
        return
    table = judging.table
    expected = sum(cost.expected or 0.0 for cost in costs)
    if expected > table.limit:
        raise RunError(
            f"this will cost about {expected:.2f} {table.currency}, more than the limit of {table.limit:.2f}",
            hint="add --yes to spend it, or raise limit under [judge]",
        )
    if plan.requests_out(costs) > table.limit_requests:
        raise RunError(
            f"this will send {plan.requests_out(costs):,} requests, more than the limit of {table.limit_requests:,}",
            hint="add --yes to send them, or raise limit_requests under [judge]",
        )


def judge_here(run: "Run") -> None:
    """Ask the judges that run on this machine; those at endpoints may cost money, and wait for `viva judge`."""
    table = run.study.judge
    if table is None:
        return
    local = [by.name for by in table.by if by.endpoint is None]
    if local:
        with run.dir.lock("judge"):
            say(judge_all(run, prepare(run, local)))
    if waiting := [by.name for by in table.by if by.endpoint is not None]:
        say(f"judges at endpoints are not asked yet ({', '.join(waiting)}): viva judge {run.dir.root}")


def judge_all(run: "Run", judging: Judging, *, yes: bool = False, again: bool = False) -> str:
    """Ask every judge what it has not answered yet; returns a line for each about what was said.

    Every reply is on the disk before the next one is waited for. Raises RunError when a limit is reached on the way
    (repeated requests cost too) or a server stays away: all replies so far are kept.
    """
    spent = Spent()
    lines = []
    for sitting in judging.sittings:
        title = f"judge {sitting.by.name}, {sitting.judge.mode}"
        with bar(title) as progress:
            done = _sit(run, judging, sitting, spent, progress, yes=yes, again=again)
        lines.append(f"{title}: {done}")
    return "\n".join(lines)


def _sit(
    run: "Run", judging: Judging, sitting: plan.Sitting, spent: Spent, progress: Any, *, yes: bool, again: bool
) -> str:
    """One judge in one mode: waves of requests, each wave for what is still without a readable reply."""
    from studyapp import store_judge

    attempts = judging.table.attempts
    todo = sitting.open_items(attempts, again)
    said = {item: list(replies) for item, replies in sitting.said.items()}
    if todo:
        rater = store_judge.enter(run.dir.db, sitting.judge)
        left = {item: sitting.left(item, attempts, again) for item in todo}
        with _opened(run, sitting, progress) as ask:
            while todo:
                talks = [_conversation(judging, sitting, item, said.get(item, [])) for item in todo]
                for index, answered in ask(talks):
                    item = todo[index]
                    reply = _read(sitting.judge.mode, answered)
                    store_judge.keep(run.dir.db, rater, item, reply, plan.lengths_of(item, judging.texts))
                    said.setdefault(item, []).append(reply)
                    left[item] -= 1
                    _count(judging, sitting.by, talks[index], answered, spent, yes)
                    progress(sum(_answered(one) for one in said.values()), len(sitting.items), sitting.by.name)
                todo = [item for item in todo if _open(said[item], left[item])]
    return _summary(sitting, said)


@contextlib.contextmanager
def _opened(run: "Run", sitting: plan.Sitting, progress: Any) -> Iterator[Ask]:
    """The judge, ready to be asked."""
    by = sitting.by
    if by.endpoint is not None:
        with open_server(by) as client:
            yield ask_server(by, client)
        return
    from harness.judging.local import ask_local

    if by.arm is not None:
        directory = run.model_dir(by.arm)
    else:
        from harness.models.sources import resolve_model

        directory = resolve_model(str(by.source), Path.cwd(), by.sha256)
    yield ask_local(by, sitting.judge.mode, directory, progress)


def _conversation(judging: Judging, sitting: plan.Sitting, item: "Item", said: Sequence["Reply"]) -> Conversation:
    """The request, or after an unreadable reply that reply and what was wrong with it.

    At temperature 0 the same request would bring the same reply. Only the last one is shown: a failing judge's requests
    must not grow.
    """
    request = Message(role="user", content=judging.request(item))
    if not said or said[-1].problem in ("refused", "too_long", None):
        return (request,)
    last = said[-1]
    raw = last.raw.strip()[:CUT_RAW] or "(no reply)"
    again = rubric.again(str(last.problem), sitting.judge.mode)
    return request, Message(role="assistant", content=raw), Message(role="user", content=again)


def _read(mode: str, answered: Answered) -> "Reply":
    """A reply as it is stored: read by the rubric, raw text and counts kept."""
    from studyapp.store_judge import Reply

    base = Reply(
        answered.text,
        answered.problem,
        tokens_in=answered.tokens_in,
        tokens_out=answered.tokens_out,
        seconds=answered.seconds,
    )
    if answered.problem is not None:
        return base
    found: Any = (rubric.read_single if mode == "single" else rubric.read_pair)(answered.text, answered.finish)
    if isinstance(found, rubric.Unreadable):
        return replace(base, problem=found.problem)
    marks = asdict(found)
    reason = marks.pop("reason")
    if mode == "pairwise":
        marks = {"score_first": marks["first"], "score_second": marks["second"], "winner": marks["winner"]}
    return replace(base, marks=marks, reason=reason)


def _answered(replies: Sequence["Reply"]) -> bool:
    return any(reply.problem is None for reply in replies)


def _open(replies: Sequence["Reply"], left: int) -> bool:
    return left > 0 and not _answered(replies) and replies[-1].problem not in ("refused", "too_long")


def _count(judging: Judging, by: JudgeBy, talk: Conversation, answered: Answered, spent: Spent, yes: bool) -> None:
    """Add up what was sent to endpoints, and stop at the limit."""
    if by.endpoint is None:
        return
    spent.requests += 1
    read = answered.tokens_in or plan.estimate_tokens("".join(message.content for message in talk))
    written = answered.tokens_out or plan.estimate_tokens(answered.text)
    spent.money += plan.money(by, read, written) or 0.0
    table = judging.table
    if not yes and (spent.money > table.limit or spent.requests > table.limit_requests):
        raise RunError(
            f"stopped at {spent.requests:,} requests and {spent.money:.2f} {table.currency}: repeated requests went "
            "beyond the limit; all replies so far are kept",
            hint="run the command again with --yes, or raise limit or limit_requests under [judge]",
        )


def _summary(sitting: plan.Sitting, said: dict["Item", list["Reply"]]) -> str:
    replies = [reply for many in said.values() for reply in many]
    invalid = sum(reply.problem is not None for reply in replies)
    done = sum(_answered(said.get(item, [])) for item in sitting.items)
    text = f"{done:,} of {len(sitting.items):,} verdicts, {invalid:,} of {len(replies):,} replies unreadable"
    gone = sum(not _answered(said.get(item, [])) for item in sitting.items if item in said)
    return text + (f"; {gone:,} items without a verdict, --again asks for them once more" if gone else "")
