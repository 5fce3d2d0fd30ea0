"""What one arm's bench is made of: the study's settings, the models, and the texts that `words` scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.bench.suite_files import suite_digest
from harness.benchmarks import WORDS, BackendArgs, SuiteTable
from harness.config import Study, Train
from harness.records import Chat
from harness.rundir import digest
from harness.texts import Text, is_text_corpus, read_text_corpus


@dataclass(frozen=True)
class Held:
    """What `words` scores: the corpus's held-out chats or texts, human documents, and the chats' system message."""

    chats: Sequence[Chat] = ()
    texts: Sequence[Text] = ()
    human: Sequence[str] = ()
    system: str | None = None

    def first(self, limit: int | None) -> "Held":
        """The same with at most `limit` of each kind."""
        return Held(self.chats[:limit], self.texts[:limit], self.human[:limit], self.system)

    @property
    def size(self) -> int:
        return len(self.chats) + len(self.texts) + len(self.human)

    @property
    def digest(self) -> str:
        """Changes with anything that is scored."""
        chats = [chat.model_dump(mode="json") for chat in self.chats]
        return digest([chats, [text.text for text in self.texts], list(self.human), self.system])


@dataclass(frozen=True)
class Job:
    """What one arm's bench is made of.

    Results go to `folder`. `key` stands for what all results depend on (the models), and belongs to each file that is
    finished. `held` is what `words` scores, `limit` the items or documents per suite unless the suite has its own.
    `base` is where relative paths start.
    """

    folder: Path
    model_dir: Path
    teacher_dir: Path | None
    suites: tuple[SuiteTable, ...]
    key: str = ""
    held: Held = field(default_factory=Held)
    limit: int | None = None
    seed: int = 0
    backend: str = "viva"
    backend_args: BackendArgs = field(default_factory=BackendArgs)
    trust_code: bool = False
    base: Path = field(default_factory=Path)

    def key_of(self, table: SuiteTable) -> str:
        """What a suite's results depend on: changes with the models, its settings, its files and its texts."""
        if table.what == WORDS:
            return digest([self.key, self.held.first(self.limit_of(table)).digest])
        said = table.model_dump(mode="json", exclude={"task", "texts", "data", "limit"})
        made_by = [self.backend, self.backend_args.model_dump(exclude_none=True), self.seed]
        return digest([self.key, said, suite_digest(table, self.base), self.limit_of(table), made_by])

    def local(self, table: SuiteTable) -> bool:
        """Whether a suite reads texts by the arm's own model here, not through lm-eval's interface."""
        return table.what == WORDS or (table.texts is not None and self.backend == "viva")

    def limit_of(self, table: SuiteTable) -> int | None:
        return self.limit if table.limit is None else table.limit

    def results(self, table: SuiteTable) -> Path:
        return self.folder / f"{table.name}.json"

    def answers(self, table: SuiteTable) -> Path:
        """Answers of a suite that is not finished."""
        return self.folder / f".{table.name}.answers.jsonl"

    def samples(self, table: SuiteTable) -> Path:
        return self.folder / f"samples_{table.name}.jsonl"


def study_job(
    study: Study, folder: Path, model_dir: Path, teacher_dir: Path, corpus: tuple[Train, Path] | None, key: str
) -> Job:
    """The job of a study's arm; `corpus` is whose held-out part `words` scores: a train table and the file it names.

    Raises ConfigError for a corpus that cannot be read, SourceError where the human documents cannot be had.
    """
    table = study.bench
    has_words = any(suite.what == WORDS for suite in table.all_suites)
    return Job(
        folder,
        model_dir,
        teacher_dir,
        table.all_suites,
        key=key,
        held=_held(study, corpus) if has_words else Held(),
        limit=table.limit,
        seed=study.seed,
        backend=table.backend,
        backend_args=table.backend_args,
        trust_code=table.trust_code,
    )


def _held(study: Study, corpus: tuple[Train, Path] | None) -> Held:
    from harness.bench.human_text import human_documents
    from harness.corpus import read_corpus

    table = study.bench
    human = human_documents(table.human_documents, table.human_characters)
    if corpus is None:
        return Held(human=human, system=study.system)
    train, path = corpus
    if is_text_corpus(path):
        texts = read_text_corpus(path, train.text_column, train.group_column)[1][: table.held_out]
        return Held(texts=texts, human=human, system=study.system)
    return Held(chats=read_corpus(path)[1][: table.held_out], human=human, system=study.system)
