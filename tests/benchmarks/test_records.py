"""Test records, ratios, headlines, tables and comparisons on hand-made records."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import quick, records, report, table
from benchmarks.cases import OURS, Case
from benchmarks.cli import main
from benchmarks.compare import compare
from benchmarks.records import RESULTS, Record, ratio

MACHINE = {"cpu": "A CPU", "cores": 2, "isa": ["avx512f", "avx512_vnni"], "virtual": True, "memory_gib": 23.4, "os": "Linux 6", "gpus": []}
MACS = 20_000_000_000
IMAGES = {"set": "1280x960", "count": 24, "bad": 0, "megapixels": 29.4912, "bits_per_pixel": 2.0, "sha256": "0"}
STAGES = {"read": 0.01, "decode": 0.16, "composite": 0.32, "encode": 0.48, "write": 0.016, "disk": 0.1}


def record(
    case: Case, samples: tuple[float, ...], *, unit: str = "s", contest: str = "headline", run: str = "20260101T000000Z-a", **facts: Any
) -> Record:
    full: dict[str, Any] = {"count": case.count, "peak_rss": 10**9, **facts}
    if case.images:
        full["images"] = {**IMAGES, "set": case.images}
        full.setdefault("bytes_out", 2_000_000 * case.count)
        full.setdefault("quarantined", 0)
    if case.network and case.who in (OURS, "benchmark_app"):
        full["model"] = {"macs": MACS, "bytes_moved": 10**9}
    return Record(
        run=run,
        suite="full",
        contest=contest,
        case={**dataclasses.asdict(case), "name": case.name},
        kind="2-cores-a",
        unit=unit,
        samples=samples,
        facts=full,
        machine=MACHINE,
        versions={"tensorflow": "1.12.0", "keras": "2.2.4", "pillow": "5.4.1"},
        clock={},
        commit={"commit": "abcdef0123", "changed": []},
    )


def headline() -> list[Record]:
    return [
        record(Case("original", "end_to_end", images="1280x960", output="se"), (1.2, 1.1, 1.3)),
        record(
            Case(OURS, "end_to_end", images="1280x960", output="se"),
            (0.2, 0.22, 0.26),
            agreement={"iou_same_pixels": 0.9999, "iou_same_files": 0.99},
        ),
        record(Case(OURS, "end_to_end", images="1280x960", output="mask"), (0.18, 0.2, 0.2)),
        record(Case(OURS, "engine"), (0.15, 0.16, 0.2)),
        record(Case("benchmark_app", "engine", "latency"), (0.15, 0.16, 0.2)),
        record(Case("benchmark_app", "engine", "throughput"), (0.16, 0.17, 0.21)),
        record(Case("openblas", "limit", "f32-2048", network=""), (280e9, 270e9, 240e9), unit="op/s"),
        record(Case("mkl", "limit", "f32-4096", network=""), (320e9, 300e9, 250e9), unit="op/s"),
        record(Case(OURS, "stages", "1", images="1280x960", output="se"), (0.06, 0.06, 0.06), stage_seconds=STAGES),
        dataclasses.replace(record(Case(OURS, "engine", precision="int8"), ()), absent="no certificate"),
    ]


def test_a_ratio_is_taken_round_by_round() -> None:
    original, ours = headline()[:2]
    found = ratio(ours, original)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(5.0), pytest.approx(6.0))
    assert found.median == pytest.approx(5.0)
    slow, fast = (record(Case("mkl", "limit", w, network=""), (s,), unit="op/s") for w, s in (("f32-1", 1.0), ("f32-2", 3.0)))
    rates = ratio(fast, slow)
    assert rates is not None and rates.median == 3.0


def test_there_is_no_ratio_between_runs_that_were_not_interleaved() -> None:
    original, ours = headline()[:2]
    assert ratio(ours, dataclasses.replace(original, run="another")) is None
    assert ratio(ours, dataclasses.replace(original, contest="another")) is None
    assert ratio(ours, dataclasses.replace(original, samples=())) is None


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    target = records.write(headline(), tmp_path)
    assert target.parent.name == "2-cores-a"
    assert records.read(tmp_path) == headline()
    target.write_text(target.read_text().replace('"schema": 1', '"schema": 99', 1))
    with pytest.raises(ValueError, match="schema 99"):
        records.read(tmp_path)


def test_the_newest_full_run_counts(tmp_path: Path) -> None:
    newer = [dataclasses.replace(r, run="20260202T000000Z-b") for r in headline()[:2]]
    shorter = [dataclasses.replace(r, run="20260303T000000Z-c", suite="quick") for r in headline()[:1]]
    for found in (newer, headline(), shorter):
        records.write(found, tmp_path)
    chosen = records.newest(records.read(tmp_path))
    assert {r.run for r in chosen["2-cores-a"]["headline"]} == {"20260202T000000Z-b"}
    assert len(chosen["2-cores-a"]["headline"]) == 2


def test_the_summary_has_the_headlines() -> None:
    found = report.summary({"2-cores-a": {"headline": headline()}})
    assert list(found) == ["cpu", "gpu"] and found["gpu"] is None
    assert list(found["cpu"]) == ["end_to_end_vs_original", "engine_share_of_peak", "engine_vs_benchmark_app", "end_to_end_share_of_engine"]
    assert found["cpu"]["end_to_end_vs_original"] == 5.0
    # 40 Gop in 0.16 s are 250 Gop/s, of MKL's 300 in the same round
    assert found["cpu"]["engine_share_of_peak"] == pytest.approx(0.833, abs=1e-3)
    assert found["cpu"]["engine_vs_benchmark_app"] == 1.0
    assert found["cpu"]["end_to_end_share_of_engine"] == {"mask": 0.833, "se": 0.75}


def test_a_run_of_nothing_but_the_overlap_counts_before_the_headline() -> None:
    cases = {
        "se": (Case(OURS, "end_to_end", images="1280x960", output="se"), (0.2, 0.25, 0.4)),
        "engine": (Case(OURS, "engine"), (0.18, 0.2, 0.2)),
        "mask": (Case(OURS, "end_to_end", images="1280x960", output="mask"), (0.2, 0.2, 0.2)),
    }
    overlap = [dataclasses.replace(record(case, samples), contest="overlap") for case, samples in cases.values()]
    contests = {"headline": headline(), "overlap": overlap}
    assert report.summary({"2-cores-a": contests})["cpu"]["end_to_end_share_of_engine"] == {"mask": 1.0, "se": 0.8}
    text = table.tables({"2-cores-a": contests})
    assert (
        "3 rounds of a run of nothing else" in text
        and "| se | **0.80** | 0.65 to 0.85 | 0.50 to 0.90 | 250 (200 to 400) | 200 (180 to 200) |" in text
    )
    held = quick.hold([dataclasses.replace(r, suite="quick") for r in headline()], {"2-cores-a": contests})
    assert any("share of the engine's rate" in line and "committed 0.80 (0.50 to 0.90)" in line for line in held)


def test_a_summary_of_nothing_says_so() -> None:
    assert report.summary({}) == {"cpu": None, "gpu": None}
    absent = [dataclasses.replace(r, samples=(), absent="why") for r in headline()]
    assert report.summary({"k": {"headline": absent}})["cpu"] is None


def test_the_core_limit_counts_the_engine_on_all_cores_and_the_rest_on_one() -> None:
    engine, stages = headline()[3], headline()[8]
    # 0.16 s of both cores, and (0.01 + 0.16 + 0.32 + 0.48 + 0.016) / 16 s of one of the two
    assert report.core_limit(engine, stages) == pytest.approx(0.16 + 0.986 / 16 / 2)
    found = {share.what: share for share in report.shares(headline())}
    assert found["FP32 end to end, se, 1280x960"].share.median == pytest.approx((0.16 + 0.986 / 32) / 0.22)
    assert "encode 30" in found["FP32 end to end, se, 1280x960"].gap


def test_the_table_has_the_figures_and_what_is_absent() -> None:
    block = table.tables({"2-cores-a": {"headline": headline()}})
    assert "**5.00** (5.00 to 6.00)" in block
    assert "absent: no certificate" in block
    assert "0.9999 (0.9900 with its decoder)" in block
    assert "TensorFlow 1.12.0" in block and "2.0 bits a pixel" in block


def test_the_short_table_has_one_figure_a_cell() -> None:
    peers = [
        (Case(OURS, "end_to_end", images="1280x960", output="se"), (0.2, 0.2, 0.2)),
        (Case(OURS, "engine"), (0.1, 0.1, 0.1)),
        (Case(OURS, "end_to_end", images="1280x960", output="se", backend="onnxruntime"), (0.1, 0.1, 0.1)),
        (Case("torch", "end_to_end", images="1280x960", output="se"), (0.9, 0.8, 0.7)),
        (Case("torch", "engine"), (0.13, 0.12, 0.14)),
    ]
    contests = {"headline": headline(), "peers": [record(case, samples, contest="peers") for case, samples in peers]}
    older = {"headline": [dataclasses.replace(r, run="20250101T000000Z-a", machine={**MACHINE, "cpu": "Another"}) for r in headline()]}
    lines = table.short_table({"a": contests, "z": older}).splitlines()
    assert lines[0].startswith("The full-size network in FP32 on 2 cores of A CPU masks **4.5 images a second**")
    assert lines[4:] == [
        "| the original program | 5.0 |  |",
        "| PyTorch, channels-last | 4.0 | 1.3 |",
        "| OpenVINO's benchmark_app |  | 1.0 |",
    ]
    assert table.short_table({"a": {"peers": contests["peers"]}}) == table.NOTHING


def test_both_pages_are_held_to_the_records(tmp_path: Path) -> None:
    results, readme, long = tmp_path / "results", tmp_path / "README.md", tmp_path / "benchmarks" / "RESULTS.md"
    records.write(headline(), results)
    arguments = ["table", "--results", str(results), "--project", str(tmp_path)]

    def table_command(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*arguments, *more])
        return result.exit_code, result.output

    readme.write_text("before\n")
    long.parent.mkdir()
    code, said = table_command()
    assert code == 1 and table.BEGIN in said
    for page in (readme, long):
        page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert table_command("--check")[0] == 1 and "old" in readme.read_text()
    assert table_command()[0] == 0 and table_command("--check")[0] == 0
    for page, figure in ((readme, "| the original program | 5.0 |"), (long, "**5.00** (5.00 to 6.00)")):
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and figure in text
        page.write_text(text.replace(figure, figure.replace("5", "9")))
        code, said = table_command("--check")
        assert code == 1 and f"{page.name}'s table is not what the records say" in said
        page.write_text(text)


def test_summary_prints_json_alone(tmp_path: Path) -> None:
    records.write(headline(), tmp_path)
    result = CliRunner().invoke(main, ["summary", "--json", "--results", str(tmp_path)])
    assert json.loads(result.stdout)["cpu"]["end_to_end_vs_original"] == 5.0


def test_compare_flags_a_change_beyond_noise_only(tmp_path: Path) -> None:
    case, anchor = Case(OURS, "engine"), Case("openblas", "limit", "f32-2048", network="")

    def run(seconds: tuple[float, ...], peak: float, name: str) -> list[Record]:
        return [record(case, seconds, run=name), record(anchor, (peak, peak * 1.01, peak), unit="op/s", run=name)]

    before = run((0.100, 0.101, 0.102), 300e9, "20260101T000000Z-a")
    slower = run((0.120, 0.121, 0.122), 300e9, "20260102T000000Z-b")
    other_clock = run((0.200, 0.202, 0.204), 150e9, "20260103T000000Z-c")
    (change,) = compare(before, slower)
    assert change.beyond_noise and change.factor < 1
    (change,) = compare(before, other_clock)  # half the clock rate is not a change of the program
    assert change.anchored and not change.beyond_noise
    for found in (before, slower, other_clock):
        records.write(found, tmp_path)
    result = CliRunner().invoke(main, ["compare", "20260101", "20260102", "--results", str(tmp_path)])
    assert result.exit_code == 1 and "SLOWER" in result.output
    assert CliRunner().invoke(main, ["compare", "20260101", "20260103", "--results", str(tmp_path)]).exit_code == 0


def test_a_quick_run_is_held_against_the_committed_ratios() -> None:
    lines = quick.hold(headline(), {"2-cores-a": {"headline": headline()}})
    assert len(lines) == 6 and all("within its spread" in line for line in lines)
    for what in ("times the original", "share of the engine's rate", "share of the matrix product", "times OpenVINO's benchmark_app"):
        assert any(what in line for line in lines)
    slower = [dataclasses.replace(r, samples=tuple(2 * s for s in r.samples)) if r.case["who"] == OURS else r for r in headline()]
    lines = quick.hold(slower, {"2-cores-a": {"headline": headline()}})
    assert all("OUTSIDE its spread" in line for line in lines if "share of the engine's rate" not in line)  # twice as slow, both of them
    stolen = [dataclasses.replace(r, facts={**r.facts, "stolen": [0.0, 0.31]}) for r in headline()]
    assert "up to 31%" in quick.hold(stolen, {"2-cores-a": {"headline": headline()}})[-1]
    assert "no full run" in quick.hold(headline(), {})[0]


def test_the_committed_records_can_be_read_and_make_a_table() -> None:
    found = records.read(RESULTS)
    assert all(r.samples or r.absent for r in found)
    assert not any(r.samples and r.absent for r in found)
    for r in found:
        assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-z]{7,8}", r.run)
        assert r.machine and r.clock and r.commit
    assert table.tables(records.newest(found))
