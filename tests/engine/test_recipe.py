"""Test that the recipes that ship are valid, and that errors name the wrong key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seseg_trt.errors import UsageError

pytestmark = pytest.mark.engine  # Python 3.10 has no tomllib; the extra installs tomli

RECIPES = Path(__file__).parents[2] / "engine" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_right(path: Path) -> None:
    from engine.recipe import load_recipe

    recipe = load_recipe(path)
    assert recipe.precision == path.stem.split("-")[0]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"graph": {"precision": "fp4"}}, "graph.precision"),
        ({"graph": {"precison": "fp16"}}, "graph.precison"),
        ({"graph": {"rewrites": ["faster"]}}, "faster"),
        ({"graph": {"rewrites": "fold-pads"}}, "graph.rewrites"),
        ({"grahp": {}}, r"\[grahp\]"),
        ({"precision": "fp16"}, "precision is not a table"),
        ({"graph": {"precision": "int8"}, "quantisation": {"activations": "s4"}}, "quantisation.activations"),
        ({"graph": {"precision": "fp16"}, "quantisation": {"rest": "fp16"}}, r"\[quantisation\] is for int8"),
        ({"graph": {"precision": "fp8"}, "quantisation": {"activations": "u8"}}, "quantisation.activations"),
        ({"gate": {"min_iou": 99}}, "gate.min_iou"),
        ({"gate": {"min_worst_iou": "0.9"}}, "gate.min_worst_iou"),
        ({"gate": {"min_iou": True}}, "gate.min_iou"),
        ({"plan": {}}, "plan.runtime"),
        ({"plan": {"runtime": "rtx", "batches": ["1-2-3"]}}, "plan.batches"),
        ({"plan": {"runtime": "rtx", "targets": ["sm90"]}}, "sm90"),
        ({"plan": {"runtime": "rtx", "target": ["sm86"]}}, "plan.target"),
    ],
    ids=str,
)
def test_a_wrong_key_is_named(content: dict[str, Any], named: str) -> None:
    from engine.recipe import parse_recipe

    with pytest.raises(UsageError, match=named):
        parse_recipe(content)


def test_what_is_no_toml_or_not_there_is_said(tmp_path: Path) -> None:
    from engine.recipe import load_recipe

    with pytest.raises(UsageError, match="can't be read"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[graph")
    with pytest.raises(UsageError, match="is not TOML"):
        load_recipe(tmp_path / "bad.toml")
