"""Change the code at random, one place at a time, and see whether the mirrored tests notice.

``python -m tests.soak.mutants COUNT SEED [ROOM ...]`` draws that many mutants (cosmic-ray's operators) of the rooms below and runs for each, in a copy of this checkout, the
tests that mirror its module: ``tests/seseg_trt/ROOM/test_MODULE.py`` first, then the room's other tests. It prints what lives. ``mutants.toml`` names the mutants
that change nothing that anybody could notice, each with its reason. It ends with 1 if fewer than :data:`KILLED_AT_LEAST` were killed, or if one lives
that is not named there.
"""

from __future__ import annotations

import ast
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from seseg_trt.cores import usable_cores

ROOT = Path(__file__).parents[2]
ROOMS = ("masks", "codecs", "journal", "inputs", "outputs", "lanes", "run")
KILLED_AT_LEAST = 0.88
SECONDS_EACH = 240
LEFT_OUT = ("AddNot", "RemoveDecorator")
"""Operators left out of the draw: they make mutants that nothing could survive, or that change no behaviour."""


class Mutant(NamedTuple):
    """A change: the file, cosmic-ray's operator, and which of the places where it applies."""

    path: Path
    operator: str
    occurrence: int


def places(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file, but for those of annotations, which nothing evaluates."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = (ROOT / path).read_text(encoding="utf-8")
    silent = annotations(text)
    tree = get_ast(text)
    nodes = list(ast_nodes(tree))
    for name in operator_names():
        if any(part in name for part in LEFT_OUT):
            continue
        try:
            operator = get_operator(name)()
        except TypeError:  # it wants arguments
            continue
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(positions):
            if not any(first <= start and end <= last for first, last in silent):
                yield Mutant(path, name, occurrence)


def annotations(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where a module's annotations begin and end, as (line, column) each."""
    found = []
    for node in ast.walk(ast.parse(text)):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if part is not None:
                found.append(((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)))
    return found


def draw(count: int, seed: int, rooms: Sequence[str] = ROOMS) -> list[Mutant]:
    """Return mutants, drawn from all files alike, then from the operators that apply, then from their places."""
    rng = random.Random(seed)
    files = sorted(path.relative_to(ROOT) for room in rooms for path in (ROOT / "seseg_trt" / room).rglob("*.py"))
    by_file = {path: list(places(path)) for path in files}
    lines = [len((ROOT / path).read_text(encoding="utf-8").splitlines()) if by_file[path] else 0 for path in files]
    found: list[Mutant] = []
    while len(found) < count:
        path = rng.choices(files, lines)[0]
        kinds: dict[str, list[Mutant]] = {}
        for mutant in by_file[path]:
            kinds.setdefault(mutant.operator.partition("_")[0], []).append(mutant)
        mutant = rng.choice(kinds[rng.choice(sorted(kinds))])
        if mutant not in found:
            found.append(mutant)
    return found


def mirrored(path: Path) -> list[str]:
    """Return the tests of a module, its own first."""
    room = Path("tests") / path.parent
    own = room / f"test_{path.stem}.py"
    folder = room if (ROOT / room).is_dir() else room.parent
    return [str(own)] * (ROOT / own).is_file() + [str(folder)]


def is_killed(mutant: Mutant, copy: Path) -> tuple[bool, str]:
    """Apply a mutant in a copy of the checkout; return whether a test failed, and the change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    target = copy / mutant.path
    before = target.read_text(encoding="utf-8")
    after = mutate_code(before, get_operator(mutant.operator)(), mutant.occurrence)
    if after is None or after == before:
        return True, ""
    change = next(
        (
            f"{one.strip()}  ->  {other.strip()}"
            for one, other in zip(before.splitlines(), after.splitlines(), strict=False)
            if one != other
        ),
        "",
    )
    target.write_text(after, encoding="utf-8")
    try:
        for tests in mirrored(mutant.path):
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-n0",
                "-p",
                "no:cacheprovider",
                "--timeout",
                "60",
                "-m",
                "not slow and not gpu",
                tests,
            ]
            done = subprocess.run(
                command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, timeout=SECONDS_EACH, check=False
            )
            if done.returncode not in (0, 5):
                return True, change
        return False, change
    except subprocess.TimeoutExpired:
        return True, change
    finally:
        target.write_text(before, encoding="utf-8")


def harmless() -> dict[tuple[str, str], str]:
    """Return the reason of each mutant that changes nothing, by its file and its change."""
    import tomllib

    with (ROOT / "tests" / "soak" / "mutants.toml").open("rb") as file:
        return {(one["file"], one["change"]): one["reason"] for one in tomllib.load(file)["harmless"]}


def main(count: int, seed: int, rooms: Sequence[str] = ROOMS) -> int:
    """Draw and try mutants, one on each core; return the exit code."""
    named = harmless()
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()

    def attempt(mutant: Mutant) -> tuple[Mutant, bool, str]:
        copy = copies.get()
        try:
            return mutant, *is_killed(mutant, copy)
        finally:
            copies.put(copy)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(usable_cores()) as pool:
        for number in range(usable_cores()):
            copy = Path(folder) / f"checkout-{number}"
            shutil.copytree(
                ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", ".azurite", "*.sqlite", "__pycache__", ".hypothesis")
            )
            copies.put(copy)
        killed = unnamed = 0
        for mutant, dead, change in pool.map(attempt, draw(count, seed, rooms)):
            killed += dead
            if not dead:
                reason = named.get((str(mutant.path), change))
                unnamed += reason is None
                print(f"lives: {mutant.path}: {change}: {reason or 'NOT NAMED'} ({mutant.operator.removeprefix('core/')})", flush=True)
    print(f"{killed} of {count} mutants killed, {count - killed - unnamed} harmless, {unnamed} not named (seed {seed})")
    return int(unnamed > 0 or killed < KILLED_AT_LEAST * count)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or ROOMS))
