"""The demo's real teacher: the packed backend and lm-eval's HFLM agree on a shipped suite."""

import numpy as np
import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from harness.bench.evaluate import run_suite
from harness.bench.human_text import human_documents
from harness.bench.packed import PackedLM
from harness.bench.suites import load_suite
from harness.errors import SourceError
from harness.models.load import load_model
from harness.models.sources import resolve_model
from harness.resources import data_path
from harness.study_file import load_study

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def teacher():
    study = data_path("studies/demo.toml")
    table = load_study(study).teacher
    try:
        return load_model(resolve_model(table.source, study.parent, table.sha256))
    except SourceError as error:
        pytest.skip(f"the demo's teacher is not to be had: {error.what}")


def test_sense_on_the_teacher_equals_hflm(teacher):
    _, ours = run_suite(PackedLM(teacher.model, teacher.tokenizer), load_suite("sense"), limit=40)
    hflm = HFLM(pretrained=teacher.model, tokenizer=teacher.tokenizer, backend="causal", batch_size=16)
    theirs = evaluate(hflm, load_suite("sense").tasks, limit=40, bootstrap_iters=0)["samples"]["sense"]
    mine = [[float(answer[0][0]) for answer in sample["resps"]] for sample in ours]
    peer = [[answer[0][0] for answer in sample["resps"]] for sample in theirs]
    np.testing.assert_allclose(mine, peer, atol=1e-4)
    assert [one["acc"] for one in ours] == [one["acc"] for one in theirs]
    assert [one["acc_norm"] for one in ours] == [one["acc_norm"] for one in theirs]


def test_human_documents_are_the_asked_number_and_length():
    try:
        documents = human_documents(24, 1000)
    except SourceError as error:
        pytest.skip(f"the film reviews are not to be had: {error.what}")
    assert len(set(documents)) == 24
    assert all(700 < len(text) <= 1000 for text in documents)
