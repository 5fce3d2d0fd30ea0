"""The plain pages around the rating page: joining, leaving, another device, the last questions, the end.

They are forms without a script. What changes anything is a POST, also behind a link that came by mail: programs that
look at mails open links, but press no buttons.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode

from studyapp import session, store, views
from studyapp.broker import Broker
from studyapp.records import Kind, Rater, RefusedError, View
from studyapp.texts import Texts, languages, texts

if TYPE_CHECKING:
    import fastapi
    from fastapi.responses import Response

MONTHS_3 = 90 * 24 * 3600
WAIT_SECONDS = 20

PLAIN = frozenset(
    {
        *("healthz", "viva.js", "join", "continue", "language", "device", "leave", "withdraw", "withdrawn"),
        *("questions", "end", "paused", "closed", "owner"),
    }
)
"""How the paths of plain pages begin, the owner's among them; routes.py and dashboard.py have them in full."""

PROLIFIC = {"person": "PROLIFIC_PID", "study": "STUDY_ID", "session": "SESSION_ID"}
"""The parameters that Prolific puts into its links, by what they are to us."""
CROWD_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
HERE = re.compile(r"/[a-z]*(/[\w-]{16,64})?(\?[\w=&-]{0,300})?", re.ASCII)
"""Where choosing a language may lead back to."""


@dataclass(frozen=True)
class Asked:
    """What a plain page needs of a request: who asks, in which language, from where, and the form they sent."""

    rater: Rater | None
    t: Texts
    root: str
    secure: bool
    form: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    async def of(cls, request: "fastapi.Request") -> "Asked":
        state = request.scope["state"]
        form = parse_qs((await request.body()).decode(errors="replace")) if request.method == "POST" else {}
        root = str(request.scope.get("root_path", ""))
        return cls(state["rater"], texts(state["language"]), root, request.url.scheme == "https", form)

    def said(self, name: str) -> str:
        values = self.form.get(name, [])
        return values[0] if len(values) == 1 else ""

    def page(self, name: str, status: int = 200, **values: object) -> "Response":
        from fastapi.responses import HTMLResponse

        return HTMLResponse(views.page(name, self.t, self.root, **values), status)

    def go(self, path: str) -> "Response":
        from fastapi.responses import RedirectResponse

        return RedirectResponse(self.root + path, 303)


@dataclass(frozen=True)
class Pages:
    """What the plain pages of the study in `db` do.

    `broker` is there if the study has live chats. `kind` is what everybody who joins is entered as: whoever starts the
    server says it, no visitor can.
    """

    db: Path
    cookie: str
    broker: Broker | None = None
    kind: Kind = "person"

    def joining(
        self, asked: Asked, invite: str | None, crowd: Mapping[str, str], problem: str = "", status: int = 200
    ) -> "Response":
        """The consent page; GET says nothing of whether an invitation is good."""
        facts = store.study(self.db)
        if facts.state != "open":
            problem = f"join.{facts.state}"
        elif not facts.open_join and invite is None:
            problem = "join.invited"
        # the study's own words; ours are there in every language
        ours = {texts(code)("consent.text").strip() for code in languages()}
        consent = asked.t("consent.text") if facts.consent.strip() in ours else facts.consent
        minutes = max(1, round(facts.items * views.SECONDS_PER_ITEM / 60))
        action = f"/join/{invite}" if invite else "/join"
        names = {PROLIFIC[name]: value for name, value in crowd.items() if name in PROLIFIC}
        return asked.page(
            "join",
            status,
            paragraphs=[part.strip() for part in consent.split("\n\n") if part.strip()],
            items=facts.items,
            minutes=minutes,
            version=facts.consent_version,
            action=action,
            here=f"{action}?{urlencode(names)}" if names else action,
            crowd=names,
            problem=problem,
            open=problem in ("", "join.tick"),
        )

    def join(self, asked: Asked, invite: str | None) -> "Response":
        """Enter a rater who consents."""
        crowd = crowd_of(asked.said)
        if asked.form.get("consent") != ["yes"]:
            return self.joining(asked, invite, crowd, "join.tick", 400)
        try:
            token = session.join(self.db, self.kind, invite=invite, crowd=crowd or None, language=asked.t.code)
        except RefusedError as refusal:
            unknown = refusal.reason == "invite" and invite is not None
            reason = "unknown" if unknown else {"invite": "invited"}.get(refusal.reason, refusal.reason)
            return self.joining(asked, invite, crowd, f"join.{reason}", 404 if unknown else 409)
        return self._let_in(asked, token)

    def join_again(self, asked: Asked, token: str) -> "Response":
        """Take someone who comes with their return link back to where they were."""
        try:
            return self._let_in(asked, session.join_again(self.db, token))
        except RefusedError:
            return asked.page("continue", 404, problem="device.unknown")

    def _let_in(self, asked: Asked, token: str) -> "Response":
        home = asked.go("/")
        self._set(home, asked, self.cookie, token)
        return home

    def device(self, asked: Asked, address: str) -> "Response":
        """Make the rater's link for another device and show it, this once."""
        assert asked.rater is not None
        link = f"{address}/continue/{session.return_link(self.db, asked.rater)}"
        subject, body = asked.t("device.subject"), asked.t("device.body", link=link)
        return asked.page("device", link=link, mail=f"mailto:?subject={quote(subject)}&body={quote(body)}")

    def leave(self, asked: Asked, path: str) -> "Response":
        """Forget the rater in this browser, and what the page keeps there for them."""
        away = asked.go(path)
        away.delete_cookie(self.cookie, path=f"{asked.root}/")
        away.headers["clear-site-data"] = '"storage"'
        return away

    def withdraw(self, asked: Asked) -> "Response":
        """Delete the rater, if they mean it."""
        assert asked.rater is not None
        if asked.form.get("confirm") != ["yes"]:
            return asked.page("withdraw", 400, problem="withdraw.tick")
        session.withdraw(self.db, asked.rater)
        return self.leave(asked, "/withdrawn")

    def speak(self, asked: Asked) -> "Response":
        """Choose a language."""
        where = asked.said("to")
        back = asked.go(where if HERE.fullmatch(where) else "/")
        if asked.said("language") in languages():
            self._set(back, asked, f"{self.cookie}_language", asked.said("language"))
        return back

    def state(self, asked: Asked, wanted: str, show: Callable[[View], "Response"]) -> "Response":
        """A page for a state of the study or the rater, if that is where the rater is."""
        assert asked.rater is not None
        view = session.current(self.db, asked.rater)
        return show(view) if view.state == wanted else asked.go("/")

    def questions(self, asked: Asked) -> "Response":
        """Show the questions about pairs of codes, or store what was sent."""
        assert asked.rater is not None
        rater = asked.rater

        def show(view: View) -> "Response":
            pairs = [(first, second, f"{first}-{second}") for first, second in view.pairs]
            given = {name: asked.said(name) for _, _, name in pairs}
            problem = ""
            if asked.form:
                if all(given[name] in (first, second, "none") for first, second, name in pairs):
                    guesses = [None if given[name] == "none" else given[name] for _, _, name in pairs]
                    session.answer_questions(self.db, rater, guesses)
                    return asked.go("/")
                problem = "questions.all"
            return asked.page(
                "questions",
                400 if problem else 200,
                pairs=view.pairs,
                given=given,
                problem=problem,
                last=view.position - 1,
                here="/questions",
            )

        return self.state(asked, "questions", show)

    def end(self, asked: Asked) -> "Response":
        """Thanks, and the completion code or the way back to the platform; or what went to others meanwhile."""

        def show(view: View) -> "Response":
            url = view.completion if view.completion and re.match(r"https?://", view.completion) else None
            code = None if url else view.completion
            facts = {"total": view.total, "released": view.released, "last": view.position - 1}
            return asked.page("end", **facts, url=url, code=code, here="/end")

        return self.state(asked, "end", show)

    async def away(self, view: View) -> bool:
        """Whether a rater would meet a live chat now that no model server can answer."""
        item = view.item
        chatting = item is not None and item.mode == "live" and not item.rateable
        return chatting and (self.broker is None or not await self.broker.alive())

    async def elsewhere(self, rater: Rater) -> str | None:
        """Where a rater belongs who opens the rating page while there is nothing for them: a path, or None."""
        view = await asyncio.to_thread(session.current, self.db, rater)
        where = "paused" if await self.away(view) else views.elsewhere(view)
        return f"/{where}" if where else None

    def _set(self, response: "Response", asked: Asked, name: str, value: str) -> None:
        response.set_cookie(
            name,
            value,
            max_age=MONTHS_3,
            path=f"{asked.root}/",
            httponly=True,
            samesite="lax",
            secure=asked.secure,
        )


def crowd_of(value: Callable[[str], str]) -> dict[str, str]:
    """Who someone is to Prolific, out of a link or form; empty if nobody, or if it is not of Prolific's form."""
    found = {ours: value(theirs) for ours, theirs in PROLIFIC.items()}
    if not CROWD_ID.fullmatch(found["person"]):
        return {}
    return {"platform": "prolific", **{ours: text if CROWD_ID.fullmatch(text) else "" for ours, text in found.items()}}
