"""Recipes: what to make of a checkpoint, as TOML. Every key has a default; a wrong one is named."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal, get_args

from seseg_trt.errors import UsageError
from seseg_trt.plan_identity import DEFAULT_PROFILES, BuildOptions

from .precision import Rest
from .qdq import Activations
from .rewrite import REWRITES

RecipePrecision = Literal["fp32", "fp16", "int8", "fp8"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to make.

    Attributes:
        precision: of the graph.
        rewrites: names of :data:`engine.rewrite.REWRITES`, applied in this order; None: what pays for this precision, by measurement.
        activations: of ``int8``: ``s8`` runs on every runtime; ``u8`` is finer, and for CPUs alone.
        rest: of ``int8`` and ``fp8``: what is not quantised; ``fp16`` is for GPUs.
        keep: layers that are not quantised in any case.
        min_iou, min_worst_iou: the gate, 0..1.
        plan: how a TensorRT plan is built of it; None: none is.
    """

    precision: RecipePrecision = "fp16"
    rewrites: tuple[str, ...] | None = None
    activations: Activations = "s8"
    rest: Rest = "fp32"
    keep: tuple[str, ...] = ()
    min_iou: float = 0.999
    min_worst_iou: float = 0.99
    plan: BuildOptions | None = None


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: the file can't be read, is no TOML, or has a key or a value that is not one (the message names it).
    """
    toml: Any
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the recipe {path} can't be read: {error.strerror}", "engine/recipes has some") from error
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe {path} is no TOML: {error}") from error
    return parse_recipe(content, str(path))


def parse_recipe(content: dict[str, Any], name: str = "the recipe") -> Recipe:
    """Check a recipe's tables, as :func:`load_recipe` does."""
    reader = _Reader(name, content)
    precision = reader.choice("graph", "precision", get_args(RecipePrecision), "fp16")
    strict = precision in ("fp32", "fp16")
    recipe = Recipe(
        precision=precision,
        rewrites=reader.names("graph", "rewrites", tuple(REWRITES)) if "rewrites" in content.get("graph", {}) else None,
        activations=reader.choice("quantisation", "activations", ("s8", "u8"), "s8"),
        rest=reader.choice("quantisation", "rest", get_args(Rest), "fp16" if precision == "fp8" else "fp32"),
        keep=reader.names("quantisation", "keep", None),
        min_iou=reader.share("gate", "min_iou", 0.999 if strict else 0.99),
        min_worst_iou=reader.share("gate", "min_worst_iou", 0.99 if strict else 0.0),
        plan=_plan(reader) if "plan" in content else None,
    )
    if strict and "quantisation" in content:
        raise UsageError(f"{name}: [quantisation] is for int8 and fp8, and graph.precision is {precision!r}", "leave the table out")
    if precision == "fp8" and "activations" in content.get("quantisation", {}):
        raise UsageError(f"{name}: quantisation.activations is for int8; those of fp8 are E4M3", "leave the key out")
    reader.finish()
    return recipe


def _plan(reader: _Reader) -> BuildOptions:
    runtime = reader.choice("plan", "runtime", ("tensorrt", "rtx"), None)
    targets = reader.names("plan", "targets", None)
    batches = reader.names("plan", "batches", None)
    try:
        profiles = tuple(_profile(text) for text in batches) or DEFAULT_PROFILES
    except ValueError:
        raise reader.wrong("plan", "batches", 'texts of three numbers: ["1:1:1", "1:32:128"]') from None
    return BuildOptions(runtime=runtime, targets=targets, profiles=profiles)


def _profile(text: str) -> tuple[int, int, int]:
    low, best, high = (int(part) for part in text.split(":"))
    return low, best, high


class _Reader:
    """Takes values out of a recipe's tables; what is left in the end is unknown."""

    def __init__(self, name: str, content: dict[str, Any]) -> None:
        self._name = name
        self._tables: dict[str, dict[str, Any]] = {}
        self._known: dict[str, list[str]] = {}
        for key, table in content.items():
            if not isinstance(table, dict):
                raise UsageError(f"{name}: {key} is no table", f"write it below [graph] or the like: [graph]\n  {key} = ...")
            self._tables[key] = dict(table)

    def wrong(self, table: str, key: str, wanted: str) -> UsageError:
        """Return the error for a value."""
        return UsageError(f"{self._name}: {table}.{key} is not what it must be", f"it must be {wanted}")

    def take(self, table: str, key: str) -> Any:
        """Return a value and forget it; None where it is not given."""
        self._known.setdefault(table, []).append(key)
        return self._tables.get(table, {}).pop(key, None)

    def choice(self, table: str, key: str, choices: tuple[str, ...], default: str | None) -> Any:
        """Return one of some texts."""
        value = self.take(table, key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(table, key, f"one of {', '.join(choices)}, and is {value!r}")
        return value

    def names(self, table: str, key: str, choices: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self.take(table, key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(table, key, f"a list of texts, and is {value!r}")
        unknown = [v for v in value if choices is not None and v not in choices]
        if unknown:
            raise self.wrong(table, key, f"of {', '.join(choices or ())}, and has {', '.join(unknown)}")
        return tuple(value)

    def share(self, table: str, key: str, default: float) -> float:
        """Return a number of 0 to 1."""
        value = self.take(table, key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise self.wrong(table, key, f"a number of 0 to 1, and is {value!r}")
        return float(value)

    def finish(self) -> None:
        """Raise for a key that nobody asked for."""
        for table, left in self._tables.items():
            if table not in self._known:
                raise UsageError(f"{self._name}: there is no table [{table}]", f"there are {', '.join(self._known)} and plan")
            for key in left:
                raise UsageError(f"{self._name}: there is no key {table}.{key}", f"[{table}] has {', '.join(self._known[table])}")
