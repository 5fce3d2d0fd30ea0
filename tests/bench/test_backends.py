"""lm-eval's own models give Viva's numbers, keep their answers, and fail in words."""

import importlib.util
import json

import pytest
from lm_eval.api.instance import Instance

from harness.bench import stage
from harness.bench.backends import attach, backend_arguments, make_lm
from harness.bench.job import Job
from harness.bench.resume import Kept
from harness.benchmarks import BackendArgs, SuiteTable
from harness.errors import ConfigError, RunError, SourceError
from tests.bench.completions import serving

WRITTEN = """
task: written
dataset_path: items.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "a web"
generation_kwargs: {until: ["."], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TEXTS = "The spider waited quietly.\n\nWhat is the capital of France?\n"

needs_tenacity = pytest.mark.skipif(not importlib.util.find_spec("tenacity"), reason="lm-eval's servers need tenacity")


@pytest.fixture
def suites(tmp_path):
    rows = [{"question": f"The spider {k}"} for k in range(3)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "written.yaml").write_text(WRITTEN)
    (tmp_path / "texts.txt").write_text(TEXTS)
    return (
        SuiteTable(name="sense", limit=4),
        SuiteTable(name="written", task=str(tmp_path / "written.yaml")),
        SuiteTable(name="texts", texts=str(tmp_path / "texts.txt")),
    )


def run(folder, model_dir, suites, **options):
    job = Job(folder, model_dir, None, suites, **options)
    stage.bench_arm(job)
    read = {table.name: json.loads(job.results(table).read_text()) for table in suites}
    samples = {
        table.name: [json.loads(line) for line in job.samples(table).read_text().splitlines()] for table in suites
    }
    return read, samples


def same(ours, theirs):
    for name, results in ours[0].items():
        mine, other = ({s["metric"]: s["value"] for s in r["viva"]["scores"]} for r in (results, theirs[0][name]))
        assert mine == pytest.approx(other, rel=1e-4)
        assert len(mine) >= 1
    for name in ("sense", "written"):
        for one, two in zip(ours[1][name], theirs[1][name], strict=True):
            assert one["doc_hash"] == two["doc_hash"]
            assert one["arguments"] == two["arguments"]
            if name == "written":
                assert one["resps"] == two["resps"]
            else:
                pairs = zip(one["resps"], two["resps"], strict=True)
                assert all(float(a[0][0]) == pytest.approx(float(b[0][0]), abs=1e-4) for a, b in pairs)


def test_hf_equals_viva(tmp_path, model_dir, suites):
    ours = run(tmp_path / "viva", model_dir, suites)
    theirs = run(tmp_path / "hf", model_dir, suites, backend="hf", backend_args=BackendArgs(batch_size=4))
    same(ours, theirs)
    assert [one["tokens"] for one in ours[1]["texts"]] == [one["tokens"] for one in theirs[1]["texts"]]
    config = theirs[0]["sense"]["config"]
    assert (config["model"], config["model_args"]["dtype"], config["model_args"]["batch_size"]) == ("hf", "float32", 4)
    assert theirs[0]["texts"]["configs"]["texts"]["context"] == 256


@needs_tenacity
def test_a_server_equals_viva(tmp_path, model, tokenizer, model_dir, suites):
    with serving(model, tokenizer) as server:
        args = BackendArgs(base_url=server.url)
        ours = run(tmp_path / "viva", model_dir, suites)
        theirs = run(tmp_path / "arm-7", model_dir, suites, backend="local-completions", backend_args=args)
        same(ours, theirs)
        assert {payload["model"] for payload in server.payloads} == {"arm-7"}
        asked = server.asked
        run(tmp_path / "arm-7", model_dir, suites, backend="local-completions", backend_args=args)
        assert server.asked == asked


def asks(count):
    pairs = [(f"The spider {k}", " waited") for k in range(count)]
    return [Instance("loglikelihood", {"k": k}, pair, 0, ("t", k, 1)) for k, pair in enumerate(pairs)]


@pytest.fixture
def server(model, tokenizer):
    with serving(model, tokenizer) as server:
        yield server


def connect(server, model_dir, path, **more):
    args = BackendArgs(base_url=server.url, max_retries=1, timeout=1, **more)
    lm = make_lm("local-completions", backend_arguments("local-completions", args, model_dir, "arm"), lambda: None)
    waits = []
    lm.pause = waits.append
    attach(lm, Kept(path, "key"), lambda done, total: None)
    return lm, waits


@needs_tenacity
def test_garbage_is_asked_again_with_growing_pauses(server, model_dir, tmp_path):
    lm, waits = connect(server, model_dir, tmp_path / "kept")
    server.faults = ["empty", None, "nan"]
    found = lm.loglikelihood(asks(2))
    assert waits == [1, 2]
    calm, _ = connect(server, model_dir, tmp_path / "other")
    assert found == calm.loglikelihood(asks(2))
    assert all(value < 0 for value, _ in found)


@needs_tenacity
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("garbage", "JSON"),
        ("late", "[Tt]imed? ?out"),
        (503, "503"),
        ("nan", "is no answer"),
    ],
)
def test_a_failing_server_ends_in_words_and_the_next_run_goes_on(server, model_dir, tmp_path, fault, message):
    lm, waits = connect(server, model_dir, tmp_path / "kept")
    server.faults = [None, None, *[fault] * 3]
    with pytest.raises(RunError, match=f"the server at {server.url} gave no usable answer: .*{message}") as caught:
        lm.loglikelihood(asks(5))
    assert "2 of 5 answers are kept" in caught.value.hint
    assert waits == ([1, 2] if fault == "nan" else [])
    server.faults, server.asked = [], 0
    again, _ = connect(server, model_dir, tmp_path / "kept")
    found = again.loglikelihood(asks(5))
    assert server.asked == 3
    fresh, _ = connect(server, model_dir, tmp_path / "fresh")
    assert found == fresh.loglikelihood(asks(5))


@needs_tenacity
def test_many_connections_at_once_give_the_same(server, model_dir, tmp_path):
    one, _ = connect(server, model_dir, tmp_path / "one")
    many, _ = connect(server, model_dir, tmp_path / "many", num_concurrent=3)
    assert many.loglikelihood(asks(5)) == one.loglikelihood(asks(5))
    assert len(many.kept.answers) == 5


@needs_tenacity
def test_a_server_that_is_not_there(model_dir, tmp_path):
    args = BackendArgs(base_url="http://127.0.0.1:9/v1/completions", max_retries=1)
    suites = (SuiteTable(name="sense", limit=2),)
    job = Job(tmp_path, model_dir, None, suites, backend="local-completions", backend_args=args)
    with pytest.raises(RunError, match=r"sense: the server at http://127.0.0.1:9/v1/completions gave no") as caught:
        stage.bench_arm(job)
    assert "0 of 8 answers are kept" in caught.value.hint


def test_a_missing_library_is_named_with_the_command(tmp_path, model_dir):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    with pytest.raises(ConfigError, match="needs the Python package vllm") as caught:
        stage.bench_arm(Job(tmp_path / "arm", model_dir, None, (SuiteTable(name="sense"),), backend="vllm"))
    assert caught.value.hint == "pip install 'lm-eval[vllm]'"
    assert not (tmp_path / "arm").exists()


def test_settings_that_a_backend_does_not_know(model_dir, tmp_path, server):
    with pytest.raises(SourceError, match='"hf" could not start'):
        make_lm("hf", backend_arguments("hf", BackendArgs(dtype="float99"), model_dir, "arm"), lambda: None)
    args = BackendArgs(model="org/{arm}", tokenizer="there", base_url=server.url)
    assert backend_arguments("local-completions", args, model_dir, "small")["model"] == "org/small"
    with pytest.raises(ValueError, match="api_key would be copied into every result"):
        BackendArgs(api_key="secret")
