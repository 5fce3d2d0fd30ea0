"""The benchmarks of a study as the study file has them: which suites, with which settings, by which backend."""

from pathlib import PurePath
from typing import Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from harness.terms import Table

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
RESERVED = ("costs", "contamination", "manifest")  # other files beside the suites' results
WORDS = "words"  # the suite of perplexities that Viva computes itself
OF_TEXTS = ("text_column", "group_column", "split", "context", "stride")
OF_CHATS = ("multi_turn",)
OF_WRITING = ("max_tokens", "temperature", "top_p", "until")
OF_TASKS = ("task", "few_shot", "chat_template", "system", "data", *OF_CHATS, *OF_WRITING)


def is_path(suite: str) -> bool:
    """Whether a suite is named by the path of a file or folder."""
    return "/" in suite or suite.startswith(".") or suite.endswith((".yaml", ".yml"))


class SuiteTable(Table):
    """A benchmark suite with settings of its own; one without settings may stand in `suites` by its name alone."""

    name: str = Field(pattern=NAME, description="name of its files and scores; also the task, unless that is given")
    task: str | None = Field(
        None, description="shipped suite, lm-eval task, group or tag, FILE.yaml or FOLDER/; default: the name"
    )
    limit: int | None = Field(None, ge=1, description="items, for a quick look; default: the limit of [bench]")
    few_shot: int | None = Field(None, ge=0, description="solved examples before each item; default: the task's own")
    chat_template: bool = Field(False, description="put items into the model's chat template")
    multi_turn: bool | None = Field(
        None, description="chat_template: examples as turns of a chat, not in one message; default true"
    )
    system: str | None = Field(None, description="system message, or without chat_template a text before each item")
    max_tokens: int | None = Field(None, ge=1, description="longest text that is written; default: the task's own")
    temperature: float | None = Field(None, ge=0, description="of written texts; 0 takes the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1, description="nucleus sampling, with a temperature")
    until: tuple[str, ...] | None = Field(None, description="texts that end what is written; default: the task's own")
    data: str | None = Field(
        None, description="the task's data as a file (JSONL, CSV, Parquet) or a folder of them, in place of the hub"
    )
    texts: str | None = Field(
        None,
        description="in place of a task: perplexity of the texts in this file, or of what the "
        "assistant says in its chats",
    )
    text_column: str | None = Field(None, description="texts: column that holds the text; default text")
    group_column: str | None = Field(None, description="texts: rows that share its value are one document")
    split: str | None = Field(
        None,
        description="texts: of a plain file, blank (lines between documents, the default), whole (one document) or a "
        "regular expression of the line that begins a document",
    )
    context: int | None = Field(
        None, ge=2, description="texts: tokens a prediction can see; default 1024, or the model's window if shorter"
    )
    stride: int | None = Field(
        None, ge=1, description="texts: tokens by which the window moves; default half the context"
    )

    @classmethod
    def of(cls, text: str) -> "SuiteTable":
        """The suite that a name or a path in `suites` means."""
        name = PurePath(text).stem if is_path(text) else text
        allowed = "".join(one if one.isalnum() or one in "_.-" else "-" for one in name)
        return cls(name=allowed, task=None if allowed == text else text)

    @property
    def what(self) -> str:
        """What is run: a name or path as in `suites`."""
        return self.task or self.name

    @property
    def given(self) -> frozenset[str]:
        """Names of the settings that differ from their default."""
        fields = type(self).model_fields
        return frozenset(name for name in fields if name != "name" and getattr(self, name) != fields[name].default)

    @model_validator(mode="after")
    def _no_idle_knob(self) -> "SuiteTable":
        if self.texts is not None:
            idle, owner = self.given & set(OF_TASKS), "a suite of texts"
        elif self.what == WORDS:
            idle, owner = self.given - {"limit", "task"}, "words"
        else:
            idle, owner = self.given & set(OF_TEXTS), "a task; it belongs to texts"
        if idle:
            raise ValueError(f"{min(idle)} does nothing with {owner}")
        if self.multi_turn is not None and not self.chat_template:
            raise ValueError("multi_turn does nothing without chat_template = true")
        if self.top_p is not None and not self.temperature:
            raise ValueError("top_p does nothing without a temperature above 0")
        if self.stride is not None and self.stride > (self.context or 1024):
            raise ValueError(f"stride = {self.stride} would pass over tokens: it is more than context")
        return self


class BackendArgs(Table):
    """Settings of a backend of lm-eval; keys that are not listed here go to lm-eval's model of that name as they are.

    In texts `{arm}` stands for the arm's name.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    base_url: str | None = Field(None, description="local-completions: the server's URL, to its /v1/completions")
    model: str | None = Field(None, description="local-completions: the model's name there; default {arm}")
    tokenizer: str | None = Field(None, description="folder or hub id of a tokenizer; default: the arm's own")
    dtype: str | None = Field(None, description="hf, vllm: such as bfloat16; default float32 for hf, auto for vllm")
    batch_size: int | Literal["auto"] | None = Field(None, description="requests at once; default lm-eval's own")

    @model_validator(mode="after")
    def _no_secret(self) -> "BackendArgs":
        for name in ("auth_token", "api_key", "header", "token"):
            if name in (self.model_extra or {}):
                raise ValueError(f"{name} would be copied into every result; set OPENAI_API_KEY in the environment")
        return self


class Bench(Table):
    """Which benchmark suites every arm goes through."""

    suites: tuple[str, ...] = Field(
        (WORDS,),
        description="words (perplexity), shipped suites, lm-eval tasks, FILE.yaml or FOLDER/; none by default where "
        "there are [[bench.suite]] tables",
    )
    suite: tuple[SuiteTable, ...] = Field((), description="suites with settings of their own")
    limit: int | None = Field(None, ge=1, description="items per suite, for a quick look; all by default")
    backend: Literal["viva", "hf", "vllm", "local-completions"] = Field(
        "viva", description="what computes the tasks' answers: Viva, or lm-eval's own models, see docs/bench.md"
    )
    backend_args: BackendArgs = Field(default_factory=BackendArgs, description="settings of lm-eval's own models")
    trust_code: bool = Field(False, description="run Python code that local tasks bring, and that models write")
    held_out: int = Field(32, ge=1, description="held-out chats or texts of the corpus scored by words")
    human_documents: int = Field(24, ge=1, description="films whose reviews are scored by words")
    human_characters: int = Field(1200, ge=1, description="characters kept of each film's reviews")
    cost_rounds: int = Field(5, ge=1, description="costs: measurements of each arm, prompt length and batch")
    cost_prompts: tuple[PositiveInt, ...] = Field(
        (32, 512), min_length=1, description="costs: prompt lengths in tokens; the first gives the headline numbers"
    )
    cost_batches: tuple[PositiveInt, ...] = Field(
        (1, 8), min_length=1, description="costs: prompts at once; the first gives the headline numbers"
    )
    cost_output: int = Field(128, ge=1, description="costs: tokens written to each prompt")
    grid_g_per_kwh: float | None = Field(None, gt=0, description="grams of CO2 for a kWh: the report adds CO2")
    price_per_hour: float | None = Field(
        None, gt=0, description="price of an hour of this machine: the report adds the price of tokens"
    )

    @model_validator(mode="before")
    @classmethod
    def _tables_alone(cls, raw: Any) -> Any:
        tables = isinstance(raw, dict) and raw.get("suite") and "suites" not in raw
        return {**raw, "suites": ()} if tables else raw

    @model_validator(mode="after")
    def _clear(self) -> "Bench":
        names = [suite.name for suite in self.all_suites]
        for name in names:
            if names.count(name) > 1 or name in RESERVED:
                raise ValueError(f"two results would be called {name!r}; give one of them another name")
        if self.backend == "viva" and self.backend_args.model_dump(exclude_none=True):
            raise ValueError('backend_args do nothing with backend = "viva"')
        if self.backend == "local-completions" and self.backend_args.base_url is None:
            raise ValueError('backend = "local-completions" needs backend_args.base_url')
        return self

    @property
    def all_suites(self) -> tuple[SuiteTable, ...]:
        """The suites of both lists, in their order."""
        return (*map(SuiteTable.of, self.suites), *self.suite)
