"""The `[rate]` table of a study file: what raters meet, who may rate, and how live chats are served."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from harness.terms import Table

CHECK_EVERY = 10
AT_ONCE = 4

WELL_KNOWN = (
    *("ChatGPT", "GPT-3", "GPT-4", "GPT-4o", "GPT-5", "OpenAI", "Claude", "Anthropic", "Gemini", "Gemma", "DeepMind"),
    *("Llama", "Meta AI", "Mistral AI", "Mixtral", "Qwen", "Tongyi", "Alibaba Cloud", "DeepSeek", "ChatGLM", "Kimi"),
    *("Phi-3", "Phi-4", "SmolLM", "SmolLM2", "SmolLM3", "Hugging Face", "Cohere", "Grok", "xAI", "Copilot", "Vicuna"),
    *("Zephyr", "OLMo", "Pythia", "TinyLlama", "MiniCPM", "InternLM", "Nemotron", "Granite", "Baichuan", "Yi-34B"),
)
"""Names that a model gives itself or its maker."""
PLAIN = {"teacher", "student", "control", "distilled", "scratch", "base", "small", "large", "tiny", "model", "pruned"}
"""Names of arms that are words of any chat: finding one says nothing."""


class Serve(Table):
    """Where an arm runs in live chats if not here: behind an OpenAI-compatible server that holds its model."""

    arm: str = Field(description="the arm that the server answers for")
    endpoint: str = Field(description="URL of the server, such as http://localhost:8000/v1")
    model: str | None = Field(None, description="the model's name at the endpoint; default its first")

    @model_validator(mode="after")
    def _a_url(self) -> "Serve":
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint {self.endpoint!r} is not a URL; write it like http://localhost:8000/v1")
        return self


class Rate(Table):
    """The rating study. A line of `scenarios` may have a `mode` of its own, so a study may mix them."""

    mode: Literal["fixed", "live", "side-by-side"] = Field(
        "fixed", description="fixed: raters read prepared chats; live: they chat; side-by-side: several chats on a page"
    )
    crossing: Literal["within", "between"] = Field(
        "within", description="within: a rater meets a scenario with every arm; between: never twice"
    )
    scenarios: str = Field("data:scenarios/everyday.jsonl", description="JSONL of scenarios: data:... or a path")
    ratings_per_cell: int = Field(3, ge=1, description="ratings wanted for each scenario and arm")
    scenarios_per_rater: int = Field(
        12, ge=1, description="scenarios one rater meets; within: each with every arm, between: each once"
    )
    side: int | None = Field(
        None, ge=2, le=4, description="side-by-side: most arms on one page; default all, up to four"
    )
    consent: str | None = Field(
        None, min_length=1, description="what raters read and agree to, in place of Viva's text"
    )
    language: str = Field("en", pattern=r"^[a-z]{2,3}$", description="of the page's own texts, until a rater chooses")
    training: str | None = Field(
        None, description="JSONL of items with known answers that raters begin with, told afterwards what is right"
    )
    checks: str | None = Field(
        None, description="JSONL of items with known answers among the others, which show whether a rater reads"
    )
    check_every: int | None = Field(
        None, ge=2, description=f"checks: one after so many other items; default {CHECK_EVERY}"
    )
    repeats: int = Field(0, ge=0, description="items that come again near the end, for a rater's self-consistency")
    questions: bool | None = Field(
        None, description="ask at the end which of two assistants was larger; default with two or more arms"
    )
    open: bool = Field(True, description="anyone who reaches the page may join; false: by invitation only")
    max_raters: int | None = Field(None, ge=1, description="open: raters who may join without an invitation")
    lease_minutes: float = Field(
        120, gt=0, description="minutes without a visit after which a rater's unrated items may go to others"
    )
    self_identification: tuple[str, ...] | None = Field(
        None,
        description="names that unblind a chat; default well-known models and makers, and what the arms are made of",
    )
    completion_code: str | None = Field(None, min_length=1, description="shown to raters who finished")
    completion_url: str | None = Field(
        None, pattern=r"^https?://", description="where raters who finished are sent, such as a platform's last page"
    )
    cps: float | None = Field(
        None, gt=0, description="live: characters a second at which all arms are shown; default as measured"
    )
    delay: float | None = Field(None, gt=0, description="live: seconds before any answer begins; default as measured")
    at_once: int = Field(
        AT_ONCE, ge=1, le=256, description="live: chats answered at the same time, under which the pace is measured"
    )
    serve: tuple[Serve, ...] = Field((), description="live: arms that another server answers for")

    @model_validator(mode="after")
    def _no_idle_key(self) -> "Rate":
        if self.check_every is not None and self.checks is None:
            raise ValueError("check_every does nothing without checks, the file of items with known answers")
        if self.max_raters is not None and not self.open:
            raise ValueError("max_raters does nothing with open = false: then every rater needs an invitation")
        if self.completion_code is not None and self.completion_url is not None:
            raise ValueError("give completion_code or completion_url: a rater who is sent away sees no code")
        served = [one.arm for one in self.serve]
        if twice := next((arm for arm in served if served.count(arm) > 1), None):
            raise ValueError(f"two [[rate.serve]] tables serve {twice!r}")
        return self


def idle_keys(rate: Rate, modes: Iterable[str]) -> list[str]:
    """Keys that would do nothing, since no scenario is of the mode they belong to; each as 'key: its mode'."""
    there = set(modes)
    live = [key for key in ("cps", "delay") if getattr(rate, key) is not None]
    live += [key for key, said in (("at_once", rate.at_once != AT_ONCE), ("serve", bool(rate.serve))) if said]
    beside = ["side"] if rate.side is not None else []
    return [f"{key}: live" for key in live if "live" not in there] + [
        f"{key}: side-by-side" for key in beside if "side-by-side" not in there
    ]


def self_words(names: Iterable[str]) -> tuple[str, ...]:
    """Words by which a chat names its model: well-known ones, and the names of this study's arms and their sources.

    A source gives the last part of its path or hub id, without its ending; names that are plain words are left out.
    """
    own = []
    for name in names:
        last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].split("==")[0]
        stem = last.rpartition(".")[0] if last.endswith((".gguf", ".safetensors")) else last
        own.append(stem)
    known = {word.lower() for word in WELL_KNOWN} | PLAIN
    return (*WELL_KNOWN, *dict.fromkeys(word for word in own if word.lower() not in known and len(word) > 2))
