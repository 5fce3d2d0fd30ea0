"""`viva bench --model`: any model, without a study."""

import json

import pytest

from harness.cli import main
from harness.rundir import read_manifest


def test_a_model_is_scored_and_its_scores_are_printed(tmp_path, monkeypatch, capsys, model_dir):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tales.txt").write_text("The spider waited.\n\nWater boils.\n")
    command = ["bench", "--model", str(model_dir), "--suite", "sense", "--texts", "tales.txt", "--limit", "3"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "runs" / "bench" / model_dir.name
    assert f"results: runs/bench/{model_dir.name}" in printed
    results = json.loads((folder / "sense.json").read_text())
    acc = next(score for score in results["viva"]["scores"] if score["metric"] == "acc")
    lines = [line.split() for line in printed.splitlines()]
    assert ["sense", "acc", f"{acc['value']:.4g}"] in [line[:3] for line in lines]
    assert any(line[:2] == ["tales", "text_word_perplexity"] and line[-1] == "2" for line in lines)
    assert len((folder / "samples_sense.jsonl").read_text().splitlines()) == 3
    manifest = read_manifest(folder / "manifest.json")
    assert manifest["status"] == "finished"
    assert set(manifest["outputs"]) == {"sense.json", "samples_sense.jsonl", "tales.json", "samples_tales.jsonl"}
    before = (folder / "sense.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (folder / "sense.json").stat().st_mtime_ns == before


def test_another_backend_takes_its_settings(tmp_path, capsys, model_dir):
    options = ["--suite", "facts", "--limit", "2", "--backend", "hf", "--backend-arg", "batch_size=2"]
    assert main(["bench", "--model", str(model_dir), "--run", str(tmp_path / "out"), *options]) == 0
    config = json.loads((tmp_path / "out" / "facts.json").read_text())["config"]
    assert (config["model"], config["model_args"]["batch_size"]) == ("hf", 2)
    assert "facts  acc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "takes a study, or a model"),
        (["study.toml", "--model", "m"], "takes a study, or a model"),
        (["study.toml", "--few-shot", "2"], "--few-shot belongs to --model"),
        (["study.toml", "--backend", "hf"], "--backend belongs to --model"),
        (["--model", "m", "--only", "a"], "belong to a study"),
        (["--model", "m", "--backend", "hff"], "backend: Input should be 'viva', 'hf', 'vllm' or 'local-completions'"),
        (["--model", "m", "--backend-arg", "x"], "--backend-arg 'x' is not KEY=VALUE"),
        (["--model", "m", "--backend-arg", "x=1"], 'backend_args do nothing with backend = "viva"'),
        (["--model", "m", "--suite", "facts", "--suite", "facts"], "two results would be called 'facts'"),
        (["--model", "m", "--backend", "local-completions"], "needs backend_args.base_url"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
