"""Perplexity of documents against formulas written out, and against lm-eval."""

import json
import math

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from scipy import stats

from harness.bench import stage
from harness.bench.documents import interval, read_documents, score_documents, text_scores
from harness.bench.job import Held, Job
from harness.bench.perplexity import teacher_text
from harness.bench.suites import load_suite
from harness.bench.tasks import run_tasks
from harness.benchmarks import SuiteTable
from harness.errors import ConfigError, RunError
from harness.models.load import LoadedModel
from harness.records import Chat, Message, Score, write_jsonl
from harness.texts import Text

TEXTS = [Text(id=str(n), text="The spider waited quietly.\n\nIt was  hungry, ünïcode 東京. " * n) for n in (1, 2, 5, 9)]
WIKI = " \n = One = \n \n The spider waited . \n = = Deeper = = \n It was hungry . \n = Two = \n Water boils . \n"


def test_whole_windows_are_lm_evals_rolling_loglikelihood(model, tokenizer):
    samples = score_documents("text", LoadedModel(model, tokenizer), TEXTS, context=50, stride=50)
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4, max_length=50)
    theirs = hflm.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (one.text,), 0) for one in TEXTS], disable_tqdm=True
    )
    np.testing.assert_allclose([one["loglikelihood"] for one in samples], theirs, rtol=1e-6, atol=1e-3)


def test_a_window_that_moves_by_its_stride_equals_a_plain_loop(model, tokenizer):
    (one,) = score_documents("text", LoadedModel(model, tokenizer), TEXTS[3:], context=40, stride=15)
    ids = [tokenizer.bos_token_id, *tokenizer.encode(TEXTS[3].text)]
    total = 0.0
    done = 0  # tokens predicted
    while done < len(ids) - 1:
        end = min(40 if done == 0 else done + 15, len(ids) - 1)
        seen = ids[max(0, end - 40) : end]
        with torch.no_grad():
            logp = model(torch.tensor([seen])).logits[0].double().log_softmax(-1)
        total += sum(float(logp[t - max(0, end - 40), ids[t + 1]]) for t in range(done, end))
        done = end
    assert one["tokens"] == len(ids) - 1
    assert one["loglikelihood"] == pytest.approx(total, abs=1e-3)


def test_distance_to_the_teacher_equals_a_plain_loop(model, other_model, tokenizer):
    student, teacher = LoadedModel(model, tokenizer), LoadedModel(other_model, tokenizer)
    samples = score_documents("text", student, TEXTS[:2], teacher=teacher)
    for text, one in zip(TEXTS, samples, strict=False):
        ids = [tokenizer.bos_token_id, *tokenizer.encode(text.text)]
        with torch.no_grad():
            q, p = (m(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1) for m in (model, other_model))
        assert one["kl"] == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-3)
        assert one["top1"] == int((p.argmax(-1) == q.argmax(-1)).sum())
    (itself,) = score_documents("text", student, TEXTS[:1], teacher=student)
    assert (itself["kl"], itself["top1"]) == (0, itself["tokens"])


def test_scores_are_ratios_of_sums_with_errors_by_documents():
    samples = [
        {"part": "text", "loglikelihood": -nll, "tokens": tokens, "bytes": 4 * tokens, "words": tokens / 2}
        for nll, tokens in ((100.0, 40), (90.0, 50), (260.0, 80), (30.0, 20))
    ]
    scores = {score.metric: score for score in text_scores("mine", "text", samples)}
    nll, tokens = np.array([100, 90, 260, 30.0]), np.array([40, 50, 80, 20.0])
    mean = nll.sum() / tokens.sum()
    stderr = math.sqrt(4 / 3 * ((nll - mean * tokens) ** 2).sum()) / tokens.sum()
    assert scores["text_perplexity"].value == pytest.approx(math.exp(mean))
    assert scores["text_perplexity"].stderr == pytest.approx(math.exp(mean) * stderr)
    assert scores["text_word_perplexity"].value == pytest.approx(math.exp(2 * mean))
    assert scores["text_byte_perplexity"].value == pytest.approx(math.exp(mean / 4))
    assert scores["text_bits_per_byte"].value == pytest.approx(mean / 4 / math.log(2))
    assert scores["text_bits_per_byte"].stderr == pytest.approx(stderr / 4 / math.log(2))
    t = stats.t.ppf(0.975, 3)
    assert interval(scores["text_perplexity"]) == pytest.approx(
        [math.exp(mean - t * stderr), math.exp(mean + t * stderr)]
    )
    low, high = interval(scores["text_bits_per_byte"])
    assert high - low == pytest.approx(2 * t * stderr / 4 / math.log(2))
    units = {score.unit for score in scores.values()}
    assert units == {"perplexity/token", "perplexity/word", "perplexity/byte", "bits/byte"}


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits, runs = 0, 600
    for _ in range(runs):
        tokens = rng.integers(50, 150, 25)
        nll = tokens * (3 + rng.normal(0, 0.4, 25))
        samples = [
            {"part": "text", "loglikelihood": -float(a), "tokens": int(b), "bytes": int(b), "words": int(b)}
            for a, b in zip(nll, tokens, strict=True)
        ]
        low, high = interval(text_scores("mine", "text", samples)[0])
        hits += low <= math.exp(3) <= high
    assert hits / runs == pytest.approx(0.95, abs=0.025)


def test_one_document_has_no_interval():
    score = Score(suite="s", metric="m", value=2.0, stderr=None, n=1, unit="perplexity/token", higher_is_better=False)
    assert interval(score) is None


def test_plain_text_is_parted_as_the_suite_says(tmp_path):
    path = tmp_path / "wiki.test.raw"
    path.write_text(WIKI)

    def parts(split):
        return [text.text for text in read_documents(path, split)]

    assert parts("whole") == [WIKI]
    assert "".join(parts("^ = [^=]")) == WIKI.removeprefix(" \n")
    assert [part.split("\n")[0] for part in parts("^ = [^=]")] == [" = One = ", " = Two = "]
    assert parts(None) == parts("blank") == [" = One = ", WIKI.split(" \n \n")[1].strip("\n")]


def test_rows_of_a_table_are_documents(tmp_path):
    (tmp_path / "texts.csv").write_text("film,line\na,One.\na,Two.\nb,Three.\nb,\n")
    found = read_documents(tmp_path / "texts.csv", text_column="line", group_column="film")
    assert [(text.id, text.text) for text in found] == [("a", "One.\nTwo."), ("b", "Three.")]
    (tmp_path / "texts.jsonl").write_text('{"text": "One."}\n{"text": ""}\n{"text": "Two."}\n')
    assert [text.text for text in read_documents(tmp_path / "texts.jsonl")] == ["One.", "Two."]


@pytest.mark.parametrize(
    ("name", "content", "split", "message"),
    [
        ("gone.txt", None, None, "no such file"),
        ("empty.txt", " \n\n", None, "holds no text"),
        ("bytes.txt", b"\xff\xfe\x00x", None, "cannot be read as UTF-8"),
        ("a.txt", "x", "(", "is no regular expression"),
        ("a.jsonl", '{"text": "x"}', "whole", "split does nothing"),
    ],
)
def test_a_file_that_cannot_be_scored_is_named(tmp_path, name, content, split, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        read_documents(tmp_path / name, split)


def test_a_suite_of_texts_says_which_perplexity_it_is(tmp_path, other_dir, model_dir):
    (tmp_path / "wiki.raw").write_text(WIKI)
    table = SuiteTable(name="wiki", texts=str(tmp_path / "wiki.raw"), split="^ = [^=]", context=30, stride=10)
    job = Job(tmp_path / "arm", other_dir, model_dir, (table,))
    files = stage.bench_arm(job)
    results = json.loads(files[0].read_text())
    config = results["configs"]["wiki"]
    assert {key: config[key] for key in ("text", "split", "context", "stride", "documents")} == {
        "text": "wiki.raw",
        "split": "^ = [^=]",
        "context": 30,
        "stride": 10,
        "documents": 2,
    }
    samples = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert config["tokens"] == sum(one["tokens"] for one in samples)
    assert {"loglikelihood", "tokens", "bytes", "words", "kl", "top1", "doc_hash"} <= samples[0].keys()
    assert set(results["viva"]["intervals"]) == {score["metric"] for score in results["viva"]["scores"]}
    assert results["viva"]["files"].keys() == {"wiki.raw"}
    before = files[0].stat().st_mtime_ns
    stage.bench_arm(job)
    assert files[0].stat().st_mtime_ns == before
    (tmp_path / "wiki.raw").write_text(WIKI + "More. \n")
    stage.bench_arm(job)
    assert files[0].stat().st_mtime_ns != before


def test_a_suite_of_chats_scores_what_the_assistant_says(tmp_path, other_dir, model_dir, model, tokenizer):
    chats = [
        Chat(
            id=f"c{number}",
            kind="k",
            messages=(
                *((Message(role="system", content="Give reasons."),) if number else ()),
                Message(role="user", content="What is the capital of France?"),
                Message(role="assistant", content=f"Paris, for {number} reasons."),
            ),
        )
        for number in range(3)
    ]
    write_jsonl(tmp_path / "chats.jsonl", chats)
    table = SuiteTable(name="chats", texts=str(tmp_path / "chats.jsonl"))
    files = stage.bench_arm(Job(tmp_path / "arm", other_dir, model_dir, (table,)))
    results = json.loads(files[0].read_text())
    assert results["configs"]["chats"]["scored"] == "assistant"
    samples = [json.loads(line) for line in files[1].read_text().splitlines()]
    theirs = teacher_text(LoadedModel(model, tokenizer), None, chats, None)
    assert [one["tokens"] for one in samples] == [one["tokens"] for one in theirs]
    (perplexity,) = [one for one in results["viva"]["scores"] if one["metric"] == "text_perplexity"]
    nll = -sum(one["loglikelihood"] for one in samples) / sum(one["tokens"] for one in samples)
    assert perplexity["value"] == pytest.approx(math.exp(nll))
    assert samples[0]["words"] == 4
    assert samples[0]["loglikelihood"] != samples[1]["loglikelihood"]
    idle = SuiteTable(name="chats", texts=str(tmp_path / "chats.jsonl"), context=20)
    with pytest.raises(ConfigError, match="context does nothing with the chats"):
        stage.bench_arm(Job(tmp_path / "idle", other_dir, model_dir, (idle,)))
    server = Job(tmp_path / "hf", other_dir, model_dir, (table,), backend="hf")
    with pytest.raises(ConfigError, match="reads no chats"):
        stage.bench_arm(server)


def test_words_scores_a_corpus_of_texts_against_the_teacher(tmp_path, other_dir, model_dir):
    job = Job(tmp_path, other_dir, model_dir, (SuiteTable(name="words"),), held=Held(texts=TEXTS))
    results = json.loads(stage.bench_arm(job)[0].read_text())
    scores = {score["metric"]: score for score in results["viva"]["scores"]}
    assert scores.keys() == {f"held_out_text_{name}" for name in PERPLEXITIES} | {
        "held_out_text_kl",
        "held_out_text_top1",
    }
    assert scores["held_out_text_kl"]["value"] > 0.01
    config = results["configs"]["words"]
    assert config.keys() == {"task", "held_out_text"}
    assert (config["held_out_text"]["context"], config["held_out_text"]["stride"]) == (256, 128)
    with pytest.raises(RunError, match="words: the suite words has no text to score"):
        stage.bench_arm(Job(tmp_path, other_dir, model_dir, (SuiteTable(name="words"),)))


PERPLEXITIES = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


def test_lm_evals_own_wikitext_form_gives_the_same_numbers(tmp_path, model, tokenizer, model_dir):
    """The task that lm-eval calls wikitext, on local texts, against a suite of the same texts with whole windows."""
    rows = "".join(json.dumps({"page": one.text}) + "\n" for one in TEXTS)
    (tmp_path / "pages.jsonl").write_text(rows)
    (tmp_path / "rolling.yaml").write_text(
        "task: rolling\ndataset_path: pages.jsonl\ntest_split: test\noutput_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: "{{page}}"\n'
        "metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]\n"
    )
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4)
    suite = load_suite(str(tmp_path / "rolling.yaml"))
    theirs = run_tasks(hflm, suite, None, {"name": "hf", "backend": "hf", "args": {}})[0]["results"]["rolling"]
    samples = score_documents("text", LoadedModel(model, tokenizer), TEXTS, context=256, stride=256)
    for score in text_scores("mine", "text", samples):
        name = score.metric.removeprefix("text_")
        if name != "perplexity":
            assert score.value == pytest.approx(theirs[f"{name},none"], rel=1e-5)
            assert theirs[f"{name}_stderr,none"] == "N/A" or name == "bits_per_byte"
            assert score.stderr > 0
