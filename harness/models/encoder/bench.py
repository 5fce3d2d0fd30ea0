"""The suites of an encoder: masked-LM perplexity on the corpus's held-out texts, and every labelled task.

Results and samples have lm-eval's form, so pairing, intervals and the report are those of any suite.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.documents import text_hash, text_results, text_scores, text_sizes
from harness.bench.perplexity import divergence
from harness.errors import ConfigError
from harness.labelled import Item, Items, read_items
from harness.lineage import start_arm
from harness.models.encoder import labels
from harness.models.encoder.load import has_head, load_encoder
from harness.models.encoder.masking import Masking, documents_of, masked, to_batch
from harness.models.encoder.passes import WATCHED
from harness.models.load import LoadedModel
from harness.progress import Report
from harness.records import Score, dump_json, write_atomic
from harness.resources import resolve_file
from harness.rundir import Stage
from harness.task_table import MASKED, Task
from harness.terms import Ce, Terms
from harness.texts import Text, is_text_corpus, read_text_corpus
from harness.train.batches import pack
from harness.train.objective import Objective

if TYPE_CHECKING:
    from harness.stages import Run

LONGEST = 128  # tokens of a held-out text that is scored
ROW_TOKENS = 512


def bench(run: "Run", arm: str, stage: Stage, progress: Report, shared: dict[str, Any]) -> list[Path]:
    """Score an arm on the masked texts and on every task; returns the files."""
    from harness.stages import bench_corpus

    stage.folder.mkdir(parents=True, exist_ok=True)
    total = len(run.study.task) + 1
    outputs: list[Path] = []
    corpus = bench_corpus(run.study)
    model_dir = run.model_dir(arm)
    if corpus is not None and is_text_corpus(corpus[1]) and has_head(model_dir) and predicts(run, arm):
        progress(0, total, MASKED)
        train, path = corpus
        texts = read_text_corpus(path, train.text_column, train.group_column)[1][: run.study.bench.held_out]
        student = load_encoder(model_dir)
        teacher = load_encoder(run.teacher_dir) if has_head(run.teacher_dir) else None
        outputs += _write(stage.folder, MASKED, *masked_suite(texts, student, teacher))
    for number, task in enumerate(run.study.task, 1):
        progress(number, total, task.name)
        directory = task_model(run, arm, task)
        if task.name not in shared:
            shared[task.name] = read_items(resolve_file(task.data, Path.cwd()), task)
        items = shared[task.name]
        outputs += _write(stage.folder, task.name, *task_suite(task, items, load_encoder(directory)))
    return outputs


def predicts(run: "Run", arm: str) -> bool:
    """Whether an arm has learnt to predict tokens: terms between layers alone leave its head as it was drawn."""
    if arm == run.study.teacher.name:
        return True
    student = run.student(arm)
    if student.train is None or student.train.terms.weights.keys() & {"ce", "kd"}:
        return True
    before = start_arm(student)
    return predicts(run, before) if before else student.start != "scratch"


def task_model(run: "Run", arm: str, task: Task) -> Path:
    """An arm's model of a task. Raises RunError when it is not trained yet."""
    from harness.errors import RunError
    from harness.models.encoder.tasks import folder_of

    found = folder_of(run.dir, arm, task.name)
    if not (found / "manifest.json").is_file() or not (found / "model").is_dir():
        raise RunError(f"{arm} is not fine-tuned on {task.name} yet", hint="run: viva train STUDY")
    return found / "model"


def _write(folder: Path, suite: str, results: dict[str, Any], samples: list[dict[str, Any]]) -> list[Path]:
    lines = "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in samples)
    write_atomic(folder / f"samples_{suite}.jsonl", lines)
    write_atomic(folder / f"{suite}.json", dump_json(results))
    return [folder / f"{suite}.json", folder / f"samples_{suite}.jsonl"]


def masked_suite(
    texts: Sequence[Text], student: LoadedModel, teacher: LoadedModel | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(results, samples): log-likelihood of hidden tokens and, with a teacher, kl and top1 there; one sample a text.

    The beginning of each text is read, with the same tokens hidden for every arm.
    """
    import torch

    masking = Masking.of(student.tokenizer)
    longest = min(LONGEST, student.model.config.max_position_embeddings)
    documents = [documents_of(student.tokenizer, [text], longest)[0] for text in texts]
    samples: list[dict[str, Any]] = []
    with torch.inference_mode():
        for row in masked(pack(documents, ROW_TOKENS), masking, seed=0, step=WATCHED):
            batch = to_batch(row)
            ours_NV = _masked_logits(student.model, batch)
            logp_N = ours_NV.float().log_softmax(-1).gather(1, batch.label_N[:, None])[:, 0].double()
            if teacher is not None:
                kl_N, same_N = divergence(ours_NV, _masked_logits(teacher.model, batch))
            start = 0
            for document in row.documents:
                text, stop = texts[len(samples)], start + len(document.scored)
                sample = {"part": MASKED, "id": text.id, "doc_hash": text_hash(text.text), **text_sizes(text.text)}
                sample |= {"tokens": stop - start, "loglikelihood": float(logp_N[start:stop].sum())}
                if teacher is not None:
                    sample |= {"kl": max(0.0, float(kl_N[start:stop].sum())), "top1": int(same_N[start:stop].sum())}
                samples.append(sample)
                start = stop
    # Words and bytes are not all predicted: only what is per token means something.
    kept = ("perplexity", "kl", "top1")
    scores = [one for one in text_scores(MASKED, MASKED, samples) if one.metric.removeprefix(f"{MASKED}_") in kept]
    settings = {"documents": len(samples), "tokens": sum(one["tokens"] for one in samples), "context": longest}
    return text_results(MASKED, scores, {MASKED: settings}, len(samples)), samples


def _masked_logits(model: Any, batch: Any) -> Any:
    """Logits at the hidden positions, [N, V]."""
    from harness.models.attention import packed
    from harness.models.encoder.passes import head_of

    head = head_of(model)
    with packed(model, batch.row.lengths):
        given = {"input_ids": batch.ids_1T, "position_ids": batch.position_1T}
        if head is None:
            return model(**given).logits[0][batch.keep_N]
        return head.logits(head.taken(model.base_model(**given).last_hidden_state[0][batch.keep_N]))


def task_suite(task: Task, items: Items, loaded: LoadedModel) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(results, samples) of a task in lm-eval's form: each class is an answer with its log-probability."""
    import torch

    classes = loaded.model.config.num_labels
    if classes != len(items.classes):
        raise ConfigError(
            f"{task.name} has {len(items.classes)} classes, and its model {classes}", hint="run: viva train STUDY"
        )
    longest = min(task.max_tokens, task.row_tokens, loaded.model.config.max_position_embeddings)
    documents = labels.documents_of(loaded.tokenizer, items.held_out, longest)
    objective = Objective(Terms(ce=Ce()), classes, 0)
    found: list[list[float]] = []
    with torch.inference_mode():
        for row in pack(documents, ROW_TOKENS):
            logits_NC = labels.read(loaded.model, row, objective, (), False, "cpu").logits_NC
            found += logits_NC.double().log_softmax(-1).tolist()
    samples = [_sample(task, items, item, logp) for item, logp in zip(items.held_out, found, strict=True)]
    return _results(task, items, samples), samples


def _sample(task: Task, items: Items, item: Item, logp: list[float]) -> dict[str, Any]:
    best = max(range(len(logp)), key=logp.__getitem__)
    doc = {"text": item.text, **({"pair": item.pair} if item.pair else {}), "label": items.classes[item.label]}
    answers = [[value, place == best] for place, value in enumerate(logp)]
    return {
        "task": task.name,
        "doc_id": item.id,
        "doc": doc,
        "target": str(item.label),
        "filtered_resps": [[str(value), str(chosen)] for value, chosen in answers],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": hashlib.sha256(json.dumps(doc, sort_keys=True).encode()).hexdigest(),
        "acc": float(best == item.label),
        "confidence": math.exp(logp[best]),
        "prediction": items.classes[best],
    }


def _results(task: Task, items: Items, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    n = len(samples)
    acc = sum(one["acc"] for one in samples) / n
    most = max(sum(one["target"] == str(place) for one in samples) for place in range(len(items.classes))) / n
    scores = [_score(task, "acc", acc, math.sqrt(acc * (1 - acc) / (n - 1)), n, chance=most)]
    if task.metric == "f1":
        scores.append(_score(task, "f1", *_f1(samples, items.classes[0]), n))
    metrics: dict[str, Any] = {"alias": task.name}
    for score in scores:
        metrics |= {f"{score.metric},none": score.value, f"{score.metric}_stderr,none": score.stderr}
    return {
        "results": {task.name: metrics},
        "configs": {task.name: {"task": task.name, "classes": list(items.classes), "max_tokens": task.max_tokens}},
        "versions": {task.name: 1.0},
        "n-shot": {task.name: 0},
        "higher_is_better": {task.name: {score.metric: True for score in scores}},
        "n-samples": {task.name: {"original": n, "effective": n}},
        "viva": {"scores": [score.model_dump() for score in scores]},
    }


def _score(task: Task, metric: str, value: float, stderr: float | None, n: int, chance: float | None = None) -> Score:
    return Score(
        suite=task.name, metric=metric, value=value, stderr=stderr, n=n, unit="share", higher_is_better=True,
        chance=chance,
    )  # fmt: skip


def _f1(samples: Sequence[dict[str, Any]], first: str) -> tuple[float, float]:
    """F1 of the class `first` and its standard error by the jackknife over items."""
    hit = sum(one["prediction"] == first and one["target"] == "0" for one in samples)
    said = sum(one["prediction"] == first for one in samples)
    is_so = sum(one["target"] == "0" for one in samples)

    def f1(hit: int, said: int, is_so: int) -> float:
        return 2 * hit / (said + is_so) if said + is_so else 0.0

    without = [
        f1(hit - (a and b), said - a, is_so - b)
        for one in samples
        for a, b in [(one["prediction"] == first, one["target"] == "0")]
    ]
    mean, n = sum(without) / len(without), len(without)
    return f1(hit, said, is_so), math.sqrt((n - 1) / n * sum((one - mean) ** 2 for one in without))
