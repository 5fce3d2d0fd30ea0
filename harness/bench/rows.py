"""Rows of pieces read by one or several models, on all cores, within the memory there is.

Each core reads rows of its own: no product waits for its second half, and a result does not depend on how many cores
there are. Rows of one long text follow each other layer by layer (`memory`). What a row finds is written to places that
are its own.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from harness.bench.memory import StoppedError
from harness.bench.packing import Row, needed, pack
from harness.bench.plan import Plan, Span, make_plan
from harness.bench.reading import Reader, predictions
from harness.bench.sampling import likeliest
from harness.errors import VivaError

CPU_BUDGET = 512
GPU_BUDGET = 8192
WORKERS = 8
CHUNK = 128  # positions whose distributions over the vocabulary are worked on at once

Visit = Callable[[Row, int, list[torch.Tensor]], None]
"""Told (row, first index, logits_SV of each model) for a block of what a row keeps, in the thread that read it."""


class TooLargeError(VivaError):
    """One piece of a text, read alone, does not fit into memory."""


def default_budget(model: Any) -> int:
    """Tokens per row that keep the processor busy."""
    return CPU_BUDGET if model.device.type == "cpu" else GPU_BUDGET


def score(
    reader: Reader,
    spans: Sequence[Span],
    *,
    budget: int | None = None,
    workers: int | None = None,
    wanted: Sequence[bool] | None = None,
    on_done: Callable[[list[tuple[int, np.ndarray, np.ndarray]]], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each span: (log-probability of each target in nats [n] float64, whether it is the likeliest token [n]).

    Only spans `wanted` are read (empty arrays for the others), but in the same pieces as if all were. `on_done` is
    told [(span, log-probabilities, likeliest)] of the spans that a finished row completed, one call at a time.
    """
    plan = make_plan(spans, limit=reader.limit, piece=reader.piece)
    size = int(plan.offsets[-1])
    logp_N, best_N = np.empty(size), np.zeros(size, dtype=bool)
    owner_N = np.repeat(np.arange(len(spans)), np.diff(plan.offsets))
    asked = np.ones(len(spans), dtype=bool) if wanted is None else np.asarray(wanted, dtype=bool)
    left = np.diff(plan.offsets)

    def part(i: int) -> tuple[np.ndarray, np.ndarray]:
        where = slice(plan.offsets[i], plan.offsets[i + 1]) if asked[i] else slice(0, 0)
        return logp_N[where], best_N[where]

    def visit(row: Row, first: int, logits: list[torch.Tensor]) -> None:
        at, target, slot = predictions(plan, row)
        here = (at >= first) & (at < first + len(logits[0]))
        logp_N[slot[here]], best_N[slot[here]] = target_scores(logits[0], at[here] - first, target[here])

    def finished(row: Row) -> None:
        members, counts = np.unique(owner_N[predictions(plan, row)[2]], return_counts=True)
        left[members] -= counts
        if on_done:
            whole = [int(i) for i in members[left[members] == 0] if asked[i]]
            on_done([(i, *part(i)) for i in whole])

    if on_done and (empty := [i for i in range(len(spans)) if asked[i] and not left[i]]):
        on_done([(i, *part(i)) for i in empty])
    read([reader], plan, needed(plan, asked[owner_N]), visit, finished, budget=budget, workers=workers, say=say)
    return [part(i) for i in range(len(spans))]


def read(
    readers: Sequence[Reader],
    plan: Plan,
    todo: Sequence[int],
    visit: Visit,
    finished: Callable[[Row], None] = lambda row: None,
    *,
    budget: int | None = None,
    workers: int | None = None,
    say: Callable[[str], None] | None = None,
    hold: Collection[int | None] = (),
) -> None:
    """Read the pieces `todo` of a plan in rows of `budget` tokens, by `workers` threads (default: one for each core).

    `finished(row)` is called after the row's last visit, one call at a time. When memory runs out, the budget is
    halved, `say` is told, and the reading goes on; with nothing left to halve, fewer threads read. The chains to `hold`
    stay in memory. Raises TooLargeError when one piece in one thread is still too much.
    """
    model = readers[0].model
    budget = budget or default_budget(model)
    cores = torch.get_num_threads()
    workers = workers or (min(cores, WORKERS) if model.device.type == "cpu" else 1)
    for alone in (False, True):
        left = [number for number in todo if plan.pieces[number].alone is alone]
        uses = Counter(chain for number in left for chain in _chains(plan, number) - {*hold})
        with contextlib.ExitStack() as stack:
            if left and not alone:
                for reader in readers:
                    stack.enter_context(reader.attending())
            while left:
                rows = pack(plan, left, budget)
                workers = min(workers, len(rows))
                done: set[int] = set()

                def run(row: Row) -> None:
                    _read_row(readers, plan, row, visit)

                def after(row: Row, done: set[int] = done, uses: Counter[int] = uses) -> None:
                    done.update(row.pieces)
                    finished(row)
                    _forget(readers, plan, row, uses)

                def stop(stopped: bool) -> None:
                    for reader in readers:
                        reader.memory.stop(stopped)

                with _threads(max(1, cores // workers)):
                    trouble = run_rows(rows, run, after, stop, workers)
                left = [number for number in left if number not in done]
                if trouble is None:
                    continue
                size = sum(len(plan.pieces[number].ids) for number in trouble.pieces)
                if len(trouble.pieces) > 1:
                    budget = size // 2
                    note = f"out of memory: going on with {budget} tokens at once"
                elif workers > 1:
                    workers = 1
                    note = "out of memory: going on with one thread"
                else:
                    raise TooLargeError(
                        f"{size} tokens of a text do not fit into memory",
                        hint="free memory, or take a smaller model or one in bfloat16",
                    )
                if say:
                    say(note)


def _read_row(readers: Sequence[Reader], plan: Plan, row: Row, visit: Visit) -> None:
    with torch.inference_mode():
        block = min(reader.block for reader in readers)
        for blocks in zip(*(reader.logits(plan, row, block) for reader in readers), strict=True):
            visit(row, blocks[0][0], [logits_SV for _, logits_SV in blocks])


def _chains(plan: Plan, number: int) -> set[int]:
    piece = plan.pieces[number]
    own = set() if piece.chain is None else {piece.chain}
    return own | {chain for chain, _ in plan.past_of(piece)}


def _forget(readers: Sequence[Reader], plan: Plan, row: Row, uses: Counter[int]) -> None:
    """Let go of the chains that nobody will ask for again."""
    for number in row.pieces:
        for chain in _chains(plan, number):
            uses[chain] -= 1
            if uses[chain] == 0:  # never for those to hold, which were not counted
                for reader in readers:
                    reader.memory.forget(chain)


def run_rows(
    rows: Sequence[Row],
    run: Callable[[Row], None],
    after: Callable[[Row], None],
    stop: Callable[[bool], None],
    workers: int,
) -> Row | None:
    """Run rows in `workers` threads, begun in their order; `after` is called for one at a time.

    When one fails, `stop(True)` frees the threads that wait for it, and in the end `stop(False)`. Returns the row at
    which memory ran out, None when all are done. Any other error is raised again here.
    """
    state = threading.Lock()
    taken = iter(rows)
    failures: list[tuple[Row, BaseException]] = []

    def work() -> None:
        while True:
            with state:
                row = None if failures else next(taken, None)
            if row is None:
                return
            try:
                run(row)
                with state:
                    after(row)
            except StoppedError:
                return
            except BaseException as error:
                with state:
                    failures.append((row, error))
                stop(True)
                return

    if workers == 1:
        work()
    else:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # Ctrl-C: the threads end with their rows
            failures.append((rows[0], error))
            stop(True)
            for thread in threads:
                thread.join()
    stop(False)
    for _, error in failures:
        if not out_of_memory(error):
            raise error
    return failures[0][0] if failures else None


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, the processor's allocator or a GPU's said that memory is out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ("out of memory" in str(error) or "allocate memory" in str(error))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch computes each operation in `count` threads within it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def target_scores(logits_SV: torch.Tensor, at: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability in nats of `target[k]` at row `at[k]` of the logits, and whether it is the likeliest token."""
    logp, best = np.empty(len(at)), np.empty(len(at), dtype=bool)
    scratch_CV = _scratch(logits_SV)
    for start in range(0, len(logits_SV), CHUNK):
        chunk_CV = logits_SV[start : start + CHUNK].float()
        here = (at >= start) & (at < start + CHUNK)
        at_N = torch.as_tensor(at[here] - start, device=logits_SV.device)
        target_N = torch.as_tensor(target[here], device=logits_SV.device)
        # Not logits - logsumexp, which is closer to the truth: torch's log_softmax is off by some 2e-5 for each token
        # of a large vocabulary, always upwards, and over a long answer that would set us apart from lm-eval.
        logp_CV = torch.ops.aten._log_softmax.out(chunk_CV, -1, False, out=scratch_CV[: len(chunk_CV)])
        logp[here] = logp_CV[at_N, target_N].double().cpu().numpy()
        best[here] = (likeliest(chunk_CV)[at_N] == target_N).cpu().numpy()
    return logp, best


def _scratch(logits_SV: torch.Tensor) -> torch.Tensor:
    """Memory of this thread's own for one chunk, used again and again."""
    shape = (CHUNK, logits_SV.shape[-1])
    kept: torch.Tensor | None = getattr(_own, "scratch", None)
    if kept is None or kept.shape != shape or kept.device != logits_SV.device:
        kept = _own.scratch = torch.empty(shape, device=logits_SV.device)
    return kept


_own = threading.local()
