"""Whole trainings of the tiny model, from study file to model directory: every term, start and option by its name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.cli import main
from harness.models.load import load_model
from tests.tiny import save_tiny, tiny_corpus

HEAD = """\
schema = 1
name = "tiny"
[teacher]
source = "teacher"
licence = "MIT"
[[student]]
name = "distilled"
"""
TRAIN = """\
[student.train]
corpus = "corpus.jsonl"
tokens = 600
row_tokens = 200
lr = 3e-3
evaluate_every = 2
evaluate_chats = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny(tmp_path / "teacher")
    tiny_corpus(tmp_path / "corpus.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(folder: Path, student: str, options: str = "", after: str = "") -> dict[str, Any]:
    """Run `viva train` on a study; returns the manifest of its first student."""
    (folder / "study.toml").write_text(HEAD + student + "\n" + TRAIN + options + "\n" + after)
    assert main(["train", "study.toml", "--run", "run"]) == 0
    (manifest,) = folder.glob("run/arms/distilled*/manifest.json")
    loaded: dict[str, Any] = json.loads(manifest.read_text())
    return loaded


def steps(folder: Path, arm: str = "distilled") -> list[dict[str, Any]]:
    lines = (folder / "run" / "arms" / arm / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


CUT = "shape = { layers = 2 }"


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ("{ ce = { tokens = 'all' } }", {"ce"}),
        ("{ kd = { divergence = 'akl' }, hidden = { layers = 'kept' } }", {"kd", "hidden"}),
        ("{ attention = { kind = 'relations', heads = 2 }, embedding = {} }", {"attention", "embedding"}),
        ("{ attention = { kind = 'scores' }, ce = { weight = 0.1 } }", {"attention", "ce"}),
        ("{ on_policy = { fraction = 0.5, max_tokens = 8 }, kd = {} }", {"on_policy", "kd"}),
        ("{ sequence = { max_tokens = 8 } }", {"sequence"}),
        ("{ explanations = { max_tokens = 8 }, sequence = { max_tokens = 8 }, ce = {} }",
         {"explanations", "sequence", "ce"}),
    ],
)  # fmt: skip
def test_every_term_trains_by_its_name(folder: Path, terms: str, named: set[str]) -> None:
    manifest = train(folder, CUT, f"terms = {terms}")
    lines = steps(folder)
    seen = {name for line in lines for name in line}
    assert named <= seen
    assert all(any(line.get(name, 0) > 0 for line in lines) for name in named)
    assert manifest["training"]["ended_by"] == "tokens"
    model = AutoModelForCausalLM.from_pretrained(folder / "run" / "arms" / "distilled" / "model")
    assert model.config.num_hidden_layers == 2


def test_a_narrow_student_learns_through_projections_that_are_thrown_away(folder: Path) -> None:
    manifest = train(
        folder, 'shape = { layers = 2, hidden = 16, heads = 2, kv_heads = 1, mlp = 24 }\nstart = "importance"',
        "terms = { hidden = { distance = 'cosine' }, embedding = {}, kd = {} }",
    )  # fmt: skip
    assert manifest["student"]["importance"]
    model = load_model(folder / "run" / "arms" / "distilled" / "model").model
    assert model.config.hidden_size == 16
    assert not [name for name in model.state_dict() if "beside" in name or "proj_" in name]


def test_students_share_a_cache_and_its_bias_is_on_record(folder: Path) -> None:
    second = HEAD.split("[[student]]")[1].replace("distilled", "twin")
    options = "terms = { kd = {} }\ncache = { k = 20 }\n"
    manifest = train(folder, CUT, options, f"[[student]]{second}shape = {{ layers = 1 }}\n{TRAIN}{options}")
    facts = manifest["training"]["cache"]
    assert facts["k"] == 20
    assert facts["bias"]["bytes_per_token"] > 0
    twin = json.loads((folder / "run" / "arms" / "twin" / "manifest.json").read_text())["training"]["cache"]
    assert twin["key"] == facts["key"]
    shards = sorted((folder / "run" / "teacher-cache").rglob("*.safetensors"))
    assert len(shards) == 1  # the second student found everything there


def test_cached_training_of_the_whole_vocabulary_is_online_training(folder: Path) -> None:
    exact = "precision = 'float32'\nterms = { kd = {} }"  # a processor with bfloat16 would round on its way
    train(folder, CUT, exact)
    online = steps(folder)
    train(folder, CUT, f"{exact}\ncache = {{ k = 'vocabulary', bits = 32 }}")
    for ours, theirs in zip(online, steps(folder), strict=True):
        for name in {"loss", "kd", "grad_norm"} & ours.keys():
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3)


def test_low_rank_adapters_end_as_an_ordinary_model(folder: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    train(folder, "start = 'teacher'", "terms = { ce = {} }\nlora = { rank = 2 }")
    before, after = (load_model(folder / path).model for path in ("teacher", "run/arms/distilled/model"))
    ids = torch.arange(20)[None]
    assert before.state_dict().keys() == after.state_dict().keys()
    assert not torch.allclose(before(input_ids=ids).logits, after(input_ids=ids).logits)
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)


def test_a_teacher_is_trained_first_and_students_over_seeds(folder: Path) -> None:
    rows = [json.dumps({"text": f"the number {number} is less than {number + 1}. " * 4}) for number in range(60)]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    shape = "layers = 2, hidden = 32, heads = 2, kv_heads = 2, mlp = 48"
    common = 'corpus = "texts.jsonl"\ntokens = 500\nrow_tokens = 64\nevaluate_every = 4\n'
    (folder / "study.toml").write_text(
        f"""schema = 1
name = "tiny"
[teacher]
vocabulary = 300
shape = {{ {shape} }}
[teacher.train]
{common}terms = {{ ce = {{}} }}
[[student]]
name = "small"
seeds = [0, 1]
start = "scratch"
shape = {{ layers = 1, hidden = 16, heads = 2, kv_heads = 2, mlp = 24 }}
[student.train]
{common}terms = {{ kd = {{}} }}
cache = {{ k = 8 }}
[[student]]
name = "control"
control_of = "small"
"""
    )
    assert main(["train", "study.toml", "--run", "run"]) == 0
    arms = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("run/arms/*/manifest.json")}
    assert set(arms) == {"teacher", "small-s0", "small-s1", "control-s0", "control-s1"}
    plans = {name: arm["training"]["plan"] for name, arm in arms.items()}
    assert plans["small-s0"] == plans["control-s0"] != plans["small-s1"] == plans["control-s1"]
    teacher = load_model(folder / "run" / "arms" / "teacher" / "model")
    assert teacher.model.config.hidden_size == 32
    assert steps(folder, "teacher")[-1]["eval"].keys() == {"perplexity"}
    assert steps(folder, "control-s0")[-1]["eval"].keys() >= {"perplexity", "kl"}
    assert main(["train", "run"]) == 0  # finished: nothing is done again


def test_the_best_weights_are_kept_and_patience_ends(folder: Path) -> None:
    manifest = train(folder, CUT, "terms = { ce = {} }\npatience = 2\nkeep = 'best'\n")
    found = [(line["eval"]["kl"], line["step"]) for line in steps(folder) if "eval" in line and line["step"]]
    assert manifest["training"]["kept_step"] == min(found)[1]
    assert manifest["training"]["kept"]["kl"] == min(found)[0]


def test_a_time_budget_ends_before_the_tokens_do(folder: Path) -> None:
    manifest = train(folder, CUT, "terms = { kd = {} }\nminutes = 0.00001")
    assert manifest["training"]["ended_by"] == "minutes"
    assert manifest["training"]["steps"] == 1
    assert "eval" in steps(folder)[-1]


def test_metrics_hold_what_one_wants_to_watch(folder: Path) -> None:
    train(folder, CUT, "terms = { kd = {}, ce = {} }")
    last = steps(folder)[-1]
    assert last.keys() >= {"loss", "kd", "ce", "grad_norm", "lr", "tokens_per_s", "memory_mb", "left_s", "seconds"}
    assert last["eval"].keys() == {"perplexity", "kl", "top1"}
    assert last["left_s"] == 0


@pytest.mark.parametrize(
    ("student", "options", "words"),
    [
        (CUT, "terms = { ce = {} }\ncache = {}", "cache serves the term kd"),
        (CUT, "terms = { kd = { divergence = 'jsd' } }\ncache = { kind = 'sampled' }", "unbiased for forward_kl alone"),
        (CUT, "terms = { kd = {}, uld = {} }", "drop one of both"),
        (CUT, "terms = { kd = {} }\ntext_column = 'x'", "text_column does nothing with the chats"),
        ("shape = { layers = 9 }", "terms = { kd = {} }", "9 layers"),
        ("shape = { hidden = 999 }", "terms = { kd = {} }", "999"),
    ],
)
def test_mistakes_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], student: str, options: str, words: str
) -> None:
    (folder / "study.toml").write_text(HEAD + student + "\n" + TRAIN + options)
    assert main(["train", "study.toml", "--run", "run"]) in (1, 2)
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_another_tokenizer_is_refused_for_kd_and_learns_by_uld(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny(folder / "other", extra=3)
    (folder / "study.toml").write_text(HEAD + 'start = "other"\n' + TRAIN + "terms = { kd = {} }")
    assert main(["train", "study.toml", "--run", "run"]) == 2
    assert "take the term uld" in capsys.readouterr().err
    manifest = train(folder, 'start = "other"', "terms = { uld = {} }")
    lines = [line["uld"] for line in steps(folder) if "uld" in line]
    assert lines
    assert all(value > 0 for value in lines)
    assert manifest["student"]["start"].endswith("other")


def test_a_limiting_licence_stops_until_the_purpose_is_stated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (HEAD + CUT + "\n" + TRAIN + "terms = { kd = {} }").replace("MIT", "llama3")
    (folder / "study.toml").write_text(text)
    assert main(["train", "study.toml", "--run", "run"]) == 2
    assert "purpose" in capsys.readouterr().err
    (folder / "study.toml").write_text(text.replace('name = "tiny"', 'name = "tiny"\npurpose = "research"'))
    assert main(["train", "study.toml", "--run", "run"]) == 0
    manifest = json.loads((folder / "run" / "arms" / "distilled" / "manifest.json").read_text())
    assert any("research" in note for note in manifest["licence_notes"])
    assert "research" in (folder / "run" / "arms" / "distilled" / "model" / "README.md").read_text()
