"""Test the harness on tiny cases: images, counting, workers, contests, the peers' loop. No test asserts a time."""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import agreement, environment, growth, images, macs, plots, records, runner
from benchmarks.cases import CONTESTS, OURS, SUITES, Case, Contest, files, ours
from benchmarks.cli import main
from benchmarks.contestant import Settings
from benchmarks.environment import Absent, find_python, interpreter
from benchmarks.peers import FOLDER, PEERS, Peer
from benchmarks.process import WORKERS, Worker, WorkerError
from seseg_trt.models.cache import demo_path

PEERS_OF_PYTHON_36 = [*FOLDER.glob("original/*.py"), WORKERS / "protocol.py", WORKERS / "pillow_loop.py"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings("tiny", tmp_path_factory.mktemp("cache"))


def test_the_same_seed_draws_the_same_picture() -> None:
    assert np.array_equal(images.draw(64, 48, 3, 1), images.draw(64, 48, 3, 1))
    assert not np.array_equal(images.draw(64, 48, 3, 1), images.draw(64, 48, 3, 2))
    assert not np.array_equal(images.draw(64, 48, 3, 1), images.draw(64, 48, 4, 1))


def test_a_set_takes_the_bits_of_photographs_and_states_them(tmp_path: Path) -> None:
    prepared = images.prepare(images.ImageSet("some", ((512, 384), (320, 240)), 4, seed=1), tmp_path)
    facts = prepared.facts
    assert facts["count"] == len(prepared.paths) == 4 and facts["bad"] == 0
    assert facts["megapixels"] == pytest.approx(2 * (512 * 384 + 320 * 240) / 1e6, abs=1e-4)
    assert 1.0 < facts["bits_per_pixel"] < 3.5
    again = images.prepare(images.ImageSet("some", ((512, 384), (320, 240)), 4, seed=1), tmp_path / "other")
    assert again.facts == facts


def test_a_changed_set_is_drawn_anew(tmp_path: Path) -> None:
    first = images.prepare(images.ImageSet("some", ((32, 24),), 3, seed=1), tmp_path)
    second = images.prepare(images.ImageSet("some", ((32, 24),), 2, seed=2), tmp_path)
    assert len(second.paths) == 2 and second.facts["sha256"] != first.facts["sha256"]


def test_a_set_with_bad_files_has_a_file_in_twenty_of_them(tmp_path: Path) -> None:
    prepared = images.prepare(images.ImageSet("bad", ((64, 48),), 80, bad_every=20, seed=5, unique=4), tmp_path)
    assert (prepared.facts["count"], prepared.facts["bad"]) == (80, 4)
    assert images.SETS["bad5"].bad_every == 20


def test_macs_are_counted_from_the_graph(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [8, 3, 3, 3], np.zeros(216, np.float32).tobytes(), raw=True)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])
    signature = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c, s, s]) for n, c, s in (("x", 3, 16), ("y", 8, 8))]
    graph = helper.make_graph([node], "g", signature[:1], signature[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "g.onnx")
    counted = macs.count(tmp_path / "g.onnx")
    assert counted.macs == 8 * 8 * 8 * 3 * 9
    assert counted.parameters == 216
    assert counted.bytes_moved == 4 * (216 + 3 * 256 + 8 * 64)


def test_the_count_of_the_demonstration_network_is_that_of_its_layers() -> None:
    import onnx

    layers = {i.name: i.dims for i in onnx.load(str(demo_path())).graph.initializer}
    assert macs.count(demo_path()).parameters == sum(int(np.prod(d)) for d in layers.values() if d)
    assert macs.count(demo_path()).macs > 1e6


def test_every_case_names_what_there_is_and_no_two_are_the_same() -> None:
    for contest in CONTESTS.values():
        names = [case.name for case in contest.cases]
        assert len(set(names)) == len(names)
        assert set(contest.rounds) <= set(SUITES)
        for case in contest.cases:
            assert case.who in {OURS, *PEERS}
            assert not case.images or case.images in images.SETS
            assert (case.figure in ("end_to_end", "stages")) == bool(case.images) == bool(case.output)
            assert case.lane == contest.device
    for key in CONTESTS["headline"].quick or ():
        assert any(f"{c.who}:{c.figure}:{c.what}" == key for c in CONTESTS["headline"].cases)


def test_peers_have_their_files() -> None:
    for peer in PEERS.values():
        assert (FOLDER / peer.script).resolve().is_file()
        assert peer.requirements is None or (FOLDER / peer.requirements).is_file()


@pytest.mark.parametrize("path", PEERS_OF_PYTHON_36, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_runs_under_python_36_is_written_in_it(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_gpu_contests_are_run_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.machine, "gpus", list)
    assert all(c.device == "cpu" for c in runner.select((), "full", CONTESTS))
    monkeypatch.setattr(runner.machine, "gpus", lambda: [{"name": "a GPU"}])
    assert CONTESTS["gpu"] in runner.select((), "full", CONTESTS)


def test_a_contest_gives_a_record_for_every_case(settings: Settings, tmp_path: Path) -> None:
    contest = Contest(
        "some",
        "some",
        (
            ours("end_to_end", network="fake", images="tiny", count=4),
            ours("end_to_end", network="fake", images="tiny", output="mask", count=4),
            ours("stages", what="1", network="fake", images="tiny", count=4),
            Case("openblas", "limit", "f32-256", network=""),
            Case("openblas", "limit", "nonsense", network=""),
            Case("trtexec", "engine", network="fake"),
        ),
        {"tiny": 2},
    )
    found = runner.run_contest(contest, settings, "20260101T000000Z-0000000")
    assert [r.name for r in found] == [c.name for c in contest.cases]
    se, mask, stages, limit, failed, absent = found
    assert len(se.samples) == len(mask.samples) == len(limit.samples) == 2 and min(se.samples) > 0
    assert se.facts["images"]["count"] == 4 and se.facts["bytes_out"] > mask.facts["bytes_out"] > 0
    assert se.versions["seseg_trt"] and se.machine["cores"] >= 1 and "stolen_share" in se.clock
    assert set(stages.facts["stage_seconds"]) == {"read", "decode", "composite", "encode", "write", "disk"}
    assert limit.unit == "op/s"
    assert not failed.samples and failed.absent
    assert absent.absent == "trtexec is not installed"
    assert records.read(records.write(found, tmp_path)) == found
    assert not list((settings.cache / "outputs").iterdir())  # outputs are removed after each round


def test_what_was_measured_while_the_machine_was_taken_away_is_measured_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []

    def asked(self: Worker, do: str, real: Any = Worker.ask, **fields: Any) -> Any:
        answers.append(real(self, do, **fields))
        return answers[-1]

    states = iter([(0, 0), (1, 1), *[(100, 0), (200, 50)], *[(200, 50), (300, 60)], *[(300, 60), (400, 90)], *[(400, 90), (500, 91)]])
    monkeypatch.setattr(runner.machine, "ticks", lambda: next(states))
    monkeypatch.setattr(Worker, "ask", asked)
    contest = Contest("some", "some", (Case("openblas", "limit", "f32-256", network=""),), {"full": 2})
    (record,) = runner.run_contest(contest, dataclasses.replace(settings, suite="full"), "20260101T000000Z-0000000")
    assert record.facts["stolen"] == [0.1, 0.01] and record.facts["retaken"] == 2
    _, _, *rounds = answers  # without loading and the warm-up
    rates = [answer["work"] / answer["seconds"] for answer in rounds]
    assert record.samples == pytest.approx((rates[1], rates[3]), rel=1e-5)


def test_the_demonstration_network_runs_and_its_work_is_counted(settings: Settings) -> None:
    contest = Contest("some", "some", (ours("engine", network="demo", count=1),), {"tiny": 1})
    (record,) = runner.run_contest(contest, settings, "20260101T000000Z-0000000")
    assert record.absent is None
    assert record.facts["model"]["macs"] == macs.count_macs(demo_path())


def test_bad_files_are_counted_and_not_hidden(tmp_path: Path) -> None:
    prepared = images.prepare(images.ImageSet("bad", ((64, 48),), 8, bad_every=4, seed=5), tmp_path)
    with Worker([sys.executable, "-m", "benchmarks.workers.ours"], tmp_path / "log") as worker:
        worker.ask("load", model_path="fake")
        answer = worker.ask("files", inputs=list(prepared.paths), output_dir=str(tmp_path / "out"), output="se")
        assert (answer["count"], answer["quarantined"]) == (8, 2)
        with pytest.raises(WorkerError, match="KeyError"):
            worker.ask("nothing that it knows")
        assert worker.ask("files", inputs=list(prepared.paths[:1]), output_dir=str(tmp_path / "two"), output="mask")["count"] == 1


def test_a_worker_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; input(); sys.exit('no luck')"]
    with Worker(command, tmp_path / "log") as worker, pytest.raises(WorkerError, match="no luck"):
        worker.ask("load")


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    with (
        Worker([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log") as worker,
        pytest.raises(WorkerError, match="ended"),
    ):
        worker.ask("load", timeout=0.5)


def test_growth_measures_each_point_in_its_own_process(settings: Settings) -> None:
    counted = growth.images(settings, "20260101T000000Z-0000000", counts=(2, 4), network="fake")
    sized = growth.megapixels(settings, "20260101T000000Z-0000000", sizes=(0.01, 0.04), network="fake")
    assert [r.facts["images"]["count"] for r in counted] == [2, 4]
    assert [round(r.facts["images"]["megapixels"] / r.facts["count"], 2) for r in sized] == [0.01, 0.04]
    assert all(r.facts["peak_rss"] > 1e7 for r in (*counted, *sized))


def test_slopes() -> None:
    assert plots.slope([1, 10, 100], [3, 30, 300]) == pytest.approx(1)
    assert plots.slope([1, 10, 100], [5, 5, 5]) == pytest.approx(0)


def test_an_environment_that_can_not_be_made_is_an_absent_peer(tmp_path: Path) -> None:
    assert find_python(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert find_python("2.99") is None
    with pytest.raises(Absent, match=r"no Python 2\.99"):
        interpreter(Peer("old", "old", "x.py", "mkl/requirements.txt", python="2.99"), tmp_path)
    with pytest.raises(Absent, match="ERROR: no such package"):
        environment._run([sys.executable, "-c", "print('ERROR: no such package'); raise SystemExit(1)"], tmp_path / "log")


def test_a_quantised_graph_without_a_certificate_is_not_reported(tmp_path: Path) -> None:
    from benchmarks import models

    folder = tmp_path / "models" / "seresnet152"
    folder.mkdir(parents=True)
    (folder / "model.int8.onnx").write_bytes(demo_path().read_bytes())
    with pytest.raises(Absent, match="no valid certificate"):
        models.find(ours("engine", precision="int8"), "graph", tmp_path)


def test_pooled_iou() -> None:
    one, two = np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8)
    assert agreement.pooled_iou([one], [two]) == 1.0
    one[0], two[0, :2] = 255, 255
    assert agreement.pooled_iou([one], [two]) == 0.5


def _loop() -> Any:
    sys.path.insert(0, str(WORKERS))
    try:
        import pillow_loop
    finally:
        sys.path.remove(str(WORKERS))
    return pillow_loop


def test_the_peers_loop_writes_the_original_programs_pixels(keras224: Path, tmp_path: Path) -> None:
    """Run the original loop on stored confidences, so that only its own steps are tested: thresholds, opacity, both covers."""
    from PIL import Image

    from seseg_trt.masks.reference import resize_map

    loop, stored = _loop(), np.load(keras224 / "reference.npz")
    for path in sorted((keras224 / "inputs").glob("*.png")):
        name = path.name.split(".")[0]
        for run, threshold, color in (("none", None, (127, 127, 127)), ("t50", 50, (127, 127, 127)), ("t25_red", 25, (255, 0, 0))):
            for output, suffix in (("mask", "pred"), ("se", "se"), ("nse", "nse")):
                loop.run_folder(lambda image, p=stored[f"{name}__pred"]: p, [str(path)], str(tmp_path), output, threshold, color)
                ours_, theirs = (np.asarray(Image.open(f / f"{name}_{suffix}.png")) for f in (tmp_path, keras224 / run))
                if output == "mask" and threshold is None:
                    confidence = (stored[f"{name}__pred"].reshape(256, 256) * 255).astype(np.uint8)
                    height, width = theirs.shape
                    # A current Pillow may do the two passes of a resize in the other order and differ by one.
                    assert np.array_equal(resize_map(confidence, width, height), theirs)
                assert np.percentile(np.abs(ours_.astype(int) - theirs), 99) <= 1, (name, run, output)


def test_list_and_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESEG_BENCH_CACHE", str(tmp_path / "cache"))
    assert files("original").name in CliRunner().invoke(main, ["list"]).output
    own = tmp_path / "mine"
    own.mkdir()
    (own / "a.jpg").write_bytes(images.jpeg(images.draw(40, 30, 1, 1)))
    arguments = ["run", "tiny", "--suite", "tiny", "--only", "end_to_end/fake", "--images", str(own), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (line,) = next((tmp_path / "out").rglob("*.jsonl")).read_text().splitlines()
    assert json.loads(line)["facts"]["images"]["set"] == "own:mine"
