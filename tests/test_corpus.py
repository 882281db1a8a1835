from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from seseg_trt.errors import ReasonCode

from .corpus import make_corpus


def test_the_folder_holds_what_is_promised(tmp_path: Path) -> None:
    expected = make_corpus(tmp_path / "corpus")
    found = {
        os.path.relpath(os.path.join(folder, name), tmp_path / "corpus")
        for folder, _, names in os.walk(tmp_path / "corpus")
        for name in names
    }
    assert found == set(expected)
    assert set(expected.values()) <= {"mask", *get_args(ReasonCode)}
    stems = [os.path.splitext(name)[0] for name in expected]
    assert len(set(stems)) == len(stems)
