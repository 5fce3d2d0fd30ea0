"""The `[judge]` table of a study file: which models rate the answers, how they are asked, and what that may cost."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from harness.benchmarks import NAME
from harness.terms import Table

DEFAULT_PARALLEL = 4
DEFAULT_BATCH = 8
SECONDS = 120.0


class Body(Table):
    """More fields for each request to the judge's server, as its API names them: `reasoning_effort = "low"`."""

    model_config = ConfigDict(frozen=True, extra="allow")


class JudgeBy(Table):
    """One judge: a model behind an OpenAI-compatible server, a model that runs here, or an arm of the study itself."""

    name: str = Field(pattern=NAME, description="name of the judge in study.db and in the report")
    endpoint: str | None = Field(None, description="URL of an OpenAI-compatible server, such as https://host/v1")
    model: str | None = Field(None, description="the model's name at the endpoint")
    source: str | None = Field(None, description="a model that runs here: folder, GGUF file, pypi:... or hub id")
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="hash of the source's file")
    arm: str | None = Field(None, description="an arm of this study judges: its model runs here")
    own: tuple[str, ...] = Field((), description="arms that are this very model, for the report on self-preference")
    family: tuple[str, ...] = Field((), description="arms of the judge's own family, for the report on favouritism")
    key_variable: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="environment variable that holds the endpoint's key"
    )
    max_tokens: int = Field(400, ge=16, description="longest reply in tokens")
    body: Body = Field(default_factory=Body, description="more fields of each request to the endpoint")
    parallel: int | None = Field(None, ge=1, le=256, description="endpoint: requests at once; default 4")
    seconds: float = Field(SECONDS, gt=0, description="endpoint: longest wait for one reply")
    form: Literal["free", "forced"] | None = Field(
        None,
        description="a model that runs here. free (default): it writes the whole reply; forced: it writes the reason, "
        "and each mark is its likeliest one, so that small models can be read too",
    )
    precision: Literal["auto", "float32", "bfloat16"] | None = Field(
        None,
        description="a model that runs here: default float32; auto: bfloat16 where the processor has it",
    )
    batch: int | None = Field(None, ge=1, description="a model that runs here: replies written at once; default 8")
    price_in: float | None = Field(None, ge=0, description="price of a million tokens read")
    price_out: float | None = Field(None, ge=0, description="price of a million tokens written")

    @model_validator(mode="after")
    def _one_place(self) -> "JudgeBy":
        if sum(place is not None for place in (self.endpoint, self.source, self.arm)) != 1:
            raise ValueError(f"judge {self.name!r}: give one of endpoint, source and arm")
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint {self.endpoint!r} is not a URL; write it like http://localhost:8000/v1")
        if self.endpoint is not None and self.model is None:
            raise ValueError(f"judge {self.name!r}: name its model at the endpoint with model")
        idle = self._idle()
        if idle:
            belongs = f"it belongs to {'a model that runs here' if self.endpoint else 'an endpoint'}"
            raise ValueError(f"judge {self.name!r}: {idle[0]} does nothing here; {belongs}")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError(f"judge {self.name!r}: give both price_in and price_out")
        return self

    def _idle(self) -> list[str]:
        """Settings that would do nothing with this kind of judge."""
        if self.endpoint is not None:
            return [name for name in ("batch", "form", "precision", "sha256") if getattr(self, name) is not None]
        names = [
            name
            for name in ("model", "key_variable", "parallel", "price_in", "price_out")
            if getattr(self, name) is not None
        ]
        names += ["body"] * bool(self.body.model_extra) + ["seconds"] * (self.seconds != SECONDS)
        return names + ["sha256"] * (self.arm is not None and self.sha256 is not None)

    @property
    def own_arms(self) -> tuple[str, ...]:
        """The arms that are this judge's own model."""
        return tuple(dict.fromkeys([*([self.arm] if self.arm else []), *self.own]))


class JudgeTable(Table):
    """Model judges of the prepared answers; see docs/judge.md."""

    by: tuple[JudgeBy, ...] = Field((), description="the judges")
    modes: tuple[Literal["single", "pairwise"], ...] = Field(
        ("single",), description="single: marks for one answer; pairwise: two answers side by side, in both orders"
    )
    pairs: Literal["teacher", "all"] = Field(
        "teacher", description="pairwise: every student against the teacher, or all arms against each other"
    )
    live: bool = Field(
        False, description="judge live chats too: sends what raters typed to the judge, which they must have agreed to"
    )
    rubric: str | None = Field(None, description="text file that says what the marks mean, in place of Viva's text")
    attempts: int = Field(3, ge=1, le=10, description="replies asked for until one can be read")
    limit: float = Field(1.0, ge=0, description="money above which viva judge starts only with --yes")
    limit_requests: int = Field(2000, ge=0, description="requests to endpoints above which it starts only with --yes")
    currency: str = Field("USD", min_length=1, max_length=8, description="of the prices and of limit")
    combine: bool = Field(
        False, description="report people's ratings combined with the judges' by prediction-powered inference"
    )

    @model_validator(mode="after")
    def _distinct(self) -> "JudgeTable":
        names = [judge.name for judge in self.by]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two judges are called {name!r}")
        if not self.modes or len(set(self.modes)) < len(self.modes):
            raise ValueError('modes lists "single", "pairwise" or both, each once')
        return self
