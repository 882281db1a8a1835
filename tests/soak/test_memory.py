from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.memory import MIB, large_image, many_images


@pytest.mark.timeout(250)
def test_many_images_take_no_more_memory_than_few(tmp_path: Path) -> None:
    many_images(tmp_path, 50, 800)


def test_memory_for_a_large_image_is_bounded(tmp_path: Path) -> None:
    large_image(tmp_path, 3200, 205 * MIB, ("se,nse,mask",))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_for_many_images_and_for_a_hundred_megapixels(tmp_path: Path) -> None:
    many_images(tmp_path, 500, 20_000)
    large_image(tmp_path, 10_000, 2048 * MIB)
