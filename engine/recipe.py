"""Parse recipes: TOML files that say which graph and plan build_engine.py makes. Most keys have defaults; errors name the key."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal, get_args

from seseg_trt.errors import UsageError
from seseg_trt.models.plan_identity import DEFAULT_PROFILES, BuildOptions

from .precision import Rest
from .qdq import Activations
from .rewrite import REWRITES

RecipePrecision = Literal["fp32", "fp16", "int8", "fp8"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What build_engine.py makes of a checkpoint.

    Attributes:
        precision: the precision of the graph.
        rewrites: names in :data:`engine.rewrite.REWRITES`, applied in this order; None: the default for this precision, chosen by
            measurement.
        activations: the type of ``int8`` activations: ``s8`` runs in every runtime; ``u8`` has half the step, and is for CPUs only.
        rest: for ``int8`` and ``fp8``, the precision of what is not quantised; ``fp16`` is for GPUs.
        keep: the names of layers that are never quantised.
        min_iou, min_worst_iou: the gate: the least pooled IoU and the least IoU of an image, 0..1.
        plan: the options of a TensorRT plan to build from the graph; None: no plan is built.
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
        UsageError: the file can't be read, is not TOML, or has an unknown key or a wrong value; the message names it.
    """
    toml: Any
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the recipe {path} can't be read: {error.strerror}", "the folder engine/recipes has recipes") from error
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe {path} is not TOML: {error}") from error
    return parse_recipe(content, str(path))


def parse_recipe(content: dict[str, Any], name: str = "the recipe") -> Recipe:
    """Make a recipe of the tables of a TOML file.

    Args:
        content: the parsed file.
        name: what error messages call it.

    Raises:
        UsageError: there is an unknown key or a wrong value; the message names it.
    """
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
        raise UsageError(f"{name}: [quantisation] is for int8 and fp8, but graph.precision is {precision!r}", "remove the table")
    if precision == "fp8" and "activations" in content.get("quantisation", {}):
        raise UsageError(f"{name}: quantisation.activations is for int8; fp8 activations are always E4M3", "remove the key")
    reader.finish()
    return recipe


def _plan(reader: _Reader) -> BuildOptions:
    runtime = reader.choice("plan", "runtime", ("tensorrt", "rtx"), None)
    targets = reader.names("plan", "targets", None)
    batches = reader.names("plan", "batches", None)
    try:
        profiles = tuple(_profile(text) for text in batches) or DEFAULT_PROFILES
    except ValueError:
        raise reader.wrong("plan", "batches", 'a list of strings of three numbers: ["1:1:1", "1:32:128"]') from None
    return BuildOptions(runtime=runtime, targets=targets, profiles=profiles)


def _profile(text: str) -> tuple[int, int, int]:
    low, best, high = (int(part) for part in text.split(":"))
    return low, best, high


class _Reader:
    """A reader that takes values out of a recipe's tables; keys that are left at the end are unknown keys."""

    def __init__(self, name: str, content: dict[str, Any]) -> None:
        self._name = name
        self._tables: dict[str, dict[str, Any]] = {}
        self._known: dict[str, list[str]] = {}
        for key, table in content.items():
            if not isinstance(table, dict):
                raise UsageError(f"{name}: {key} is not a table", f"write it inside a table such as [graph]: [graph]\n  {key} = ...")
            self._tables[key] = dict(table)

    def wrong(self, table: str, key: str, wanted: str) -> UsageError:
        """Return the error for a wrong value; `wanted` says what it must be."""
        return UsageError(f"{self._name}: {table}.{key} has a wrong value", f"it must be {wanted}")

    def take(self, table: str, key: str) -> Any:
        """Remove and return a value; None if it is not given."""
        self._known.setdefault(table, []).append(key)
        return self._tables.get(table, {}).pop(key, None)

    def choice(self, table: str, key: str, choices: tuple[str, ...], default: str | None) -> Any:
        """Take a string that must be one of `choices`."""
        value = self.take(table, key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(table, key, f"one of {', '.join(choices)}; it is {value!r}")
        return value

    def names(self, table: str, key: str, choices: tuple[str, ...] | None) -> tuple[str, ...]:
        """Take a list of strings, each one of `choices` unless that is None; an empty list if it is not given."""
        value = self.take(table, key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(table, key, f"a list of strings; it is {value!r}")
        unknown = [v for v in value if choices is not None and v not in choices]
        if unknown:
            raise self.wrong(table, key, f"a list of names from {', '.join(choices or ())}; unknown: {', '.join(unknown)}")
        return tuple(value)

    def share(self, table: str, key: str, default: float) -> float:
        """Take a number from 0 to 1."""
        value = self.take(table, key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise self.wrong(table, key, f"a number from 0 to 1; it is {value!r}")
        return float(value)

    def finish(self) -> None:
        """Raise UsageError if a table or a key is left that nothing has taken."""
        for table, left in self._tables.items():
            if table not in self._known:
                raise UsageError(f"{self._name}: there is no table [{table}]", f"the tables are {', '.join(self._known)} and plan")
            for key in left:
                raise UsageError(f"{self._name}: there is no key {table}.{key}", f"the keys there are {', '.join(self._known[table])}")
