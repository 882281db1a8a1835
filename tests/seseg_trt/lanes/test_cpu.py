"""Test that the CPU lane with DALI and with Pillow writes identical files and quarantines the same inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seseg_trt import FakeBackend, MaskOptions, RunOptions, Summary, UsageError, segment_files
from seseg_trt.errors import BadImage
from seseg_trt.lanes.base import Source
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.options import DecodeOptions, Decoder, LaneOptions

from ...conftest import KERAS224
from ...corpus import make_corpus, make_images
from ...runs import tree

pytestmark = pytest.mark.dali

ALL = MaskOptions(("se", "nse", "mask"), threshold=50)
IMAGES = {name: data for name, (data, _) in make_images().items() if len(data) < 70_000}


def run(inputs: Path, target: Path, decoder: Decoder, *, exif: bool = True) -> Summary:
    decoding = DecodeOptions(decoder=decoder, exif_orientation=exif)
    return segment_files([inputs], target, masks=ALL, decoding=decoding, options=RunOptions(workers=2), backend=FakeBackend(32))


def quarantine(target: Path) -> dict[str, tuple[str, str]]:
    lines = (target / ".seseg" / "quarantine.jsonl").read_text(encoding="ascii").splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["path"] for record in records}) == len(records)
    return {record["path"]: (record["reason"], record["message"]) for record in records}


@pytest.mark.parametrize("exif", [True, False], ids=["turned", "as_stored"])
def test_the_corpus_gives_the_same_tree_and_the_same_quarantine(tmp_path: Path, exif: bool) -> None:
    expected = make_corpus(tmp_path / "in")
    shutil.copytree(KERAS224 / "inputs", tmp_path / "in" / "photographs")
    summaries = {decoder: run(tmp_path / "in", tmp_path / decoder, decoder, exif=exif) for decoder in ("pillow", "dali")}
    assert tree(tmp_path / "dali") == tree(tmp_path / "pillow")
    assert quarantine(tmp_path / "dali") == quarantine(tmp_path / "pillow")
    assert {name: reason for name, (reason, _) in quarantine(tmp_path / "dali").items()} == {
        name: reason for name, reason in expected.items() if reason != "mask"
    }
    by = summaries["dali"].decoded_by
    assert sum(by.values()) == summaries["dali"].done == summaries["pillow"].done
    assert set(by) == {"dali", "nvimgcodec", "pillow"} or set(by) == {"nvimgcodec", "pillow"}


def test_a_clean_folder_is_dalis(tmp_path: Path) -> None:
    shutil.copytree(KERAS224 / "inputs", tmp_path / "in")
    summary = run(tmp_path / "in", tmp_path / "out", "dali")
    assert "nvimgcodec" not in summary.decoded_by
    assert summary.decoded_by["dali"] >= 5


def lanes(decoding: DecodeOptions) -> tuple[CPULane, CPULane]:
    backend = FakeBackend(32)
    return CPULane(backend, LaneOptions(ALL)), CPULane(backend, LaneOptions(ALL, decoding))


@pytest.fixture(scope="module")
def both() -> tuple[CPULane, CPULane]:
    return lanes(DecodeOptions(decoder="dali"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(IMAGES)), min_size=1, max_size=20))
def test_any_mix_in_a_batch_gives_what_pillow_gives(both: tuple[CPULane, CPULane], names: list[str]) -> None:
    sources = [Source(f"{index}/{name}".encode(), IMAGES[name]) for index, name in enumerate(names)]
    expected, found = (lane.decode(sources) for lane in both)
    for source, one, other in zip(sources, expected, found, strict=True):
        if isinstance(one, BadImage):
            assert isinstance(other, BadImage) and (other.reason, other.message) == (one.reason, one.message)
            continue
        assert not isinstance(other, BadImage), other
        assert other.identity == one.identity == source.identity
        assert (other.width, other.height) == (one.width, one.height)
        assert np.array_equal(np.asarray(other.image), np.asarray(one.image))
        assert np.array_equal(other.network_input, one.network_input)
        assert both[1].pixels(source) == both[0].pixels(source)


def test_a_filter_changes_the_networks_input_alone(both: tuple[CPULane, CPULane]) -> None:
    lane = lanes(DecodeOptions(decoder="dali", resample="linear"))[1]
    sources = [Source(name.encode(), IMAGES[name]) for name in ("good.jpg", "palette_transparent_gif.gif", "damaged.png", "rgba.png")]
    for exact, filtered in zip(both[1].decode(sources), lane.decode(sources), strict=True):
        if isinstance(exact, BadImage):
            assert isinstance(filtered, BadImage)
            continue
        assert not isinstance(filtered, BadImage)
        assert np.array_equal(np.asarray(exact.image), np.asarray(filtered.image))
        assert filtered.network_input.shape == exact.network_input.shape == (32, 32, 3)
        assert not np.array_equal(filtered.network_input, exact.network_input)
    lane.close()


def test_a_filter_needs_dali() -> None:
    with pytest.raises(UsageError, match="DALI"):
        DecodeOptions(resample="cubic")
    with pytest.raises(UsageError, match="no filter"):
        DecodeOptions(resample="nearer", decoder="dali")  # type: ignore[arg-type]
