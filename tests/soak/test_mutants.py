from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="the [mutation] extra is not installed")

from tests.soak.mutants import ROOMS, ROOT, Mutant, draw, harmless, is_killed, mirrored


def test_a_seed_draws_the_same_mutants_of_the_rooms() -> None:
    found = draw(12, 3)
    assert found == draw(12, 3) != draw(12, 4) and len(set(found)) == 12
    for mutant in found:
        assert mutant.path.parts[1] in ROOMS and all((ROOT / tests).exists() for tests in mirrored(mutant.path))


def test_a_mutant_that_the_tests_notice_is_killed_and_the_file_is_as_before(tmp_path: Path) -> None:
    package, tests = tmp_path / "seseg_trt" / "masks", tmp_path / "tests" / "seseg_trt" / "masks"
    for folder in (package, tests):
        folder.mkdir(parents=True)
    text = "def seen(x):\n    return x + 1\n\n\ndef unseen(x):\n    return x + 1\n"
    (package / "host.py").write_text(text)
    (tests / "test_host.py").write_text(
        "import pathlib\n\ndef test_it():\n    space = {}\n"
        f"    exec(pathlib.Path({str(package / 'host.py')!r}).read_text(), space)\n    assert space['seen'](2) == 3\n"
    )
    path = Path("seseg_trt/masks/host.py")
    assert is_killed(Mutant(path, "core/ReplaceBinaryOperator_Add_Mul", 0), tmp_path) == (True, "return x + 1  ->  return x * 1")
    assert is_killed(Mutant(path, "core/ReplaceBinaryOperator_Add_Mul", 1), tmp_path)[0] is False
    assert (package / "host.py").read_text() == text


def test_the_harmless_mutants_are_named_of_code_that_is_there() -> None:
    pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    assert len(harmless()) > 100
    for (file, change), reason in harmless().items():
        before, arrow, after = change.partition("  ->  ")
        assert arrow and before != after and reason
        assert before in map(str.strip, (ROOT / file).read_text(encoding="utf-8").splitlines()), f"{file}: {before}"
