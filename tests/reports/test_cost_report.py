"""What the report says of costs: ratios from paired rounds, energy by its kind, CO2 and money as they are stated."""

import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from fixture_run import cost_rounds, make_run
from scipy.stats import t

from reports.cost_tables import CLAIMS, cell_header, cell_lines, cost_rows, smaller_faster
from reports.costs import size_of, speed_of
from reports.document import build
from reports.load import load
from reports.numbers import seconds
from reports.render import make
from reports.wording_kept import smaller_faster as kept_words


def change(root: Path, arm: str, **costs: Any) -> None:
    path = root / "bench" / arm / "costs.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | costs))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", raters=0)


def test_ratios_are_geometric_means_over_paired_rounds(run: Path) -> None:
    found = build(load(run))["arms"]["distilled"]["costs"]
    logs = [
        math.log(mine["tokens_per_second"] / theirs["tokens_per_second"])
        for mine, theirs in zip(cost_rounds(33.5, 8, 1), cost_rounds(24.0, 8, 0), strict=True)
    ]
    half = t.ppf(0.975, 4) * stdev(logs) / math.sqrt(5)
    (batched,) = (cell for cell in found["cells"] if cell["batch"] == 8)
    ratio = batched["of_teacher"]["tokens_per_second"]
    assert ratio["estimate"] == pytest.approx(math.exp(fmean(logs)))
    assert (ratio["low"], ratio["high"]) == pytest.approx((math.exp(fmean(logs) - half), math.exp(fmean(logs) + half)))
    assert ratio["n"] == 5
    # The machine slowed down by a fifth; that is in no round's ratio.
    assert ratio["high"] / ratio["low"] < 1.05
    assert found["of_teacher"]["tokens_per_second"] == pytest.approx(33.5 / 24, rel=0.02)
    assert found["of_teacher_interval"]["tokens_per_second"]["low"] < found["of_teacher"]["tokens_per_second"]
    assert found["of_teacher"]["parameters"] == pytest.approx(99_100_800 / 134_515_008)
    assert "parameters" not in found["of_teacher_interval"]
    assert "rounds" not in found


def test_rounds_that_one_arm_lacks_are_left_out(run: Path) -> None:
    change(run, "distilled", rounds=cost_rounds(33.5, 1, 1)[3:])
    one = build(load(run))["arms"]["distilled"]["costs"]["cells"][0]["of_teacher"]["tokens_per_second"]
    assert one["n"] == 2
    change(run, "distilled", rounds=cost_rounds(33.5, 1, 1)[:1])
    alone = build(load(run))["arms"]["distilled"]["costs"]
    assert alone["cells"][0]["of_teacher"]["tokens_per_second"]["low"] is None
    assert "tokens_per_second" not in alone["of_teacher_interval"]


def test_measured_and_estimated_energy_are_never_compared(run: Path) -> None:
    change(run, "scratch", energy_source={"kind": "measured", "how": "RAPL: all that runs on the processor"})
    report = build(load(run))
    assert [one["arm"] for one in report["warnings"] if one["code"] == "energy_mixed"] == ["scratch"]
    scratch, distilled = (report["arms"][arm]["costs"] for arm in ("scratch", "distilled"))
    assert "joules_per_1000_tokens" not in scratch["of_teacher"]
    assert scratch["cells"][0]["of_teacher"]["joules_per_1000_tokens"] is None
    assert distilled["of_teacher"]["joules_per_1000_tokens"] == pytest.approx(24 / 33.5, rel=0.02)
    paths = make(run, rate_command="viva rate x")
    row = next(line for line in paths.md.read_text().splitlines() if line.startswith("| Energy of 1,000 tokens"))
    assert row.count("estimated") == 2
    assert row.count("measured") == 1
    assert "RAPL" in paths.html.read_text()


def test_energy_says_what_it_is(run: Path) -> None:
    text = make(run, rate_command="viva rate x").md.read_text()
    assert "Energy of 1,000 tokens (prompt 32, batch 1, estimated)" in text
    assert "Energy is estimated (assumed: 5 W for each busy core)." in text
    assert "CO2 of 1,000 tokens" not in text  # no grid is stated
    assert "Price of" not in text


def test_co2_and_money_by_hand(run: Path) -> None:
    study = run / "study.toml"
    study.write_text(study.read_text().replace("[bench]\n", "[bench]\ngrid_g_per_kwh = 350\nprice_per_hour = 1.8\n"))
    costs = build(load(run))["arms"]["distilled"]["costs"]
    joules = costs["joules_per_1000_tokens"]["median"]
    assert costs["co2_g_per_1000_tokens"] == pytest.approx(joules / 3_600_000 * 350)
    each = sorted((one["first_seconds"] + 127 / one["tokens_per_second"]) / 128 for one in cost_rounds(33.5, 1, 1))
    assert costs["price_per_million_tokens"] == pytest.approx(1.8 / 3600 * 1e6 * each[2])
    html = make(run, rate_command="viva rate x").html.read_text()
    assert "at 350 g a kWh" in html
    assert "at 1.8 an hour" in html


def test_an_arm_that_could_not_be_measured_is_named(run: Path) -> None:
    (run / "bench" / "scratch" / "costs.json").write_text(json.dumps({"error": "its process was killed by signal 9"}))
    report = build(load(run))
    (warning,) = (one for one in report["warnings"] if one["code"] == "costs_failed")
    assert warning["arm"] == "scratch"
    assert "killed by signal 9" in warning["text"]
    paths = make(run, rate_command="viva rate x")
    assert "killed by signal 9" in paths.html.read_text()
    assert "1.36× smaller" in paths.md.read_text()
    (run / "bench" / "teacher" / "costs.json").write_text(json.dumps({"error": "out of memory"}))
    assert build(load(run))["arms"]["distilled"]["costs"]["of_teacher"]["tokens_per_second"] > 1  # its own rounds


def test_costs_of_an_older_run_are_still_read(run: Path) -> None:
    for arm, rate in (("teacher", 20.0), ("distilled", 30.0)):
        speed = {"median": rate, "low": rate - 1, "high": rate + 1, "n": 5}
        old = {"parameters": 10, "tokens_per_second": speed, "conditions": {"threads": 2}}
        (run / "bench" / arm / "costs.json").write_text(json.dumps(old))
    found = build(load(run))["arms"]["distilled"]["costs"]
    assert found["of_teacher"] == {"parameters": 1.0, "tokens_per_second": 1.5}
    assert found["cells"] == []
    assert make(run, rate_command="viva rate x").html.exists()


def test_every_prompt_and_batch_has_its_line(run: Path) -> None:
    path = run / "bench" / "distilled" / "costs.json"
    cells = json.loads(path.read_text())["cells"]
    change(run, "distilled", cells=[*cells, {"prompt": 512, "output": 128, "batch": 1, "left_out": "longer than 300"}])
    source = load(run)
    lines = cell_lines(source, build(source)["arms"])
    heads = [(line[0][0], line[1][0], line[2][0]) for line in lines]
    arms = ("teacher", "distilled", "scratch")
    assert heads == [
        *(("32", "1", arm) for arm in arms),
        *(("32", "8", arm) for arm in arms),
        ("512", "1", "distilled"),
    ]
    assert lines[-1][3] == ("longer than 300", "")
    text, ratio = lines[1][4]
    assert text.startswith("21.1")
    assert "(1.3" in ratio


def test_fewer_bits_are_a_size_and_a_reading_is_a_time() -> None:
    ratios = {"parameters": 1.0, "bytes_on_disk": 0.25, "time_to_first_token_seconds": 0.5}
    limits = {"time_to_first_token_seconds": {"low": 0.4, "high": 0.625}}
    costs = {"of_teacher": ratios, "of_teacher_interval": limits}
    assert size_of(costs) == (0.25, "bytes_on_disk")
    assert size_of({"of_teacher": {"parameters": 0.5, "bytes_on_disk": 0.45}}) == (0.5, "parameters")
    assert speed_of(costs) == {"estimate": 2.0, "low": 1.6, "high": 2.5, "by": "time_to_first_token_seconds"}
    assert speed_of({"of_teacher": {**ratios, "tokens_per_second": 3.0}})["estimate"] == 3.0
    assert kept_words(costs) == ["4.00× smaller on disk", "2.00× faster"]
    limits["time_to_first_token_seconds"] = {"low": 0.2, "high": 1.25}
    assert kept_words(costs) == ["4.00× smaller on disk", "not clearly faster or slower"]


def test_what_does_not_write_is_timed_by_a_reading(run: Path) -> None:
    source = load(run)
    arms = build(source)["arms"]
    assert "Time to first token" in [row.label for row in cost_rows(source, arms)]
    for block in arms.values():
        block["costs"]["conditions"]["output_tokens"] = 0
    assert "Time of a reading" in [row.label for row in cost_rows(source, arms)]
    assert "time of a reading" in cell_header(source, arms)
    assert (seconds(0.000213), seconds(0.0013), seconds(0.213)) == ("213\u00a0µs", "1.3\u00a0ms", "213\u00a0ms")


def test_smaller_and_faster_in_words_beside_published_claims(run: Path) -> None:
    source = load(run)
    arms = build(source)["arms"]
    first = smaller_faster(source, arms)[0]
    assert first.startswith("distilled is 1.36× smaller (parameters), 1.40× faster (1.3")
    assert first.endswith("the energy a token (estimated).")
    arms["distilled"]["costs"]["of_teacher"] |= {"parameters": 2.0, "bytes_on_disk": 2.0, "tokens_per_second": 0.5}
    arms["distilled"]["costs"]["of_teacher_interval"]["tokens_per_second"] = {"low": 0.4, "high": 0.625}
    assert "2.00× larger (parameters), 2.00× slower (1.60 to 2.50," in smaller_faster(source, arms)[0]
    paths = make(run, rate_command="viva rate x")
    html = paths.html.read_text()
    for claim in CLAIMS:
        assert claim.source in html
        assert claim.source in paths.md.read_text()
        assert f"{claim.name} (claimed)" in html
    assert 'id="figure-smaller-faster"' in html
