from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seseg_trt.errors import UsageError
from seseg_trt.outputs.naming import Naming
from seseg_trt.run.plan import WorkPlan, in_shard, make_plan


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def plan(*inputs: object, output: str = "/nowhere/out", naming: Naming | None = None, **options: object) -> WorkPlan:
    return make_plan([str(i) for i in inputs], output, naming or Naming(), **options)  # type: ignore[arg-type]


def test_names_are_the_original_programs_with_only_the_last_suffix_lost() -> None:
    naming = Naming(("se", "nse", "mask"))
    assert naming.names("x/a.b.jpg") == {"se": "x/a.b_se.png", "nse": "x/a.b_nse.png", "mask": "x/a.b_pred.png"}
    assert naming.names("x.y/a") == {"se": "x.y/a_se.png", "nse": "x.y/a_nse.png", "mask": "x.y/a_pred.png"}
    assert Naming(("se", "mask"), "jpg", keep_suffix=True).names("a.png") == {"se": "a.png_se.jpg", "mask": "a.png_pred.png"}


def test_two_inputs_with_one_output_are_refused_with_both_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png", "b.jpg")
    with pytest.raises(UsageError) as caught:
        plan(tmp_path)
    text = str(caught.value)
    assert f"{tmp_path}/a.jpg" in text and f"{tmp_path}/a.png" in text and "a_se.png" in text and "--keep_suffix" in text
    assert plan(tmp_path, naming=Naming(keep_suffix=True)).inputs == 3


def test_the_same_name_from_two_folders_is_refused_and_base_resolves_it(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/a.jpg")
    with pytest.raises(UsageError, match="--base"):
        plan(tmp_path / "one", tmp_path / "two")
    assert [i.path for i in plan(tmp_path / "one", tmp_path / "two", base=str(tmp_path)).items] == ["one/a.jpg", "two/a.jpg"]


def test_without_outputs_only_equal_names_collide(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "one/a.png", "two/a.jpg")
    assert plan(tmp_path / "one", naming=Naming(())).inputs == 2
    with pytest.raises(UsageError, match="one name"):
        plan(tmp_path / "one", tmp_path / "two", naming=Naming(()))


def test_a_file_named_twice_is_done_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    assert plan(tmp_path / "a.jpg", tmp_path / "a.jpg", tmp_path).inputs == 3


def test_an_output_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a_se.png/b.jpg")
    with pytest.raises(UsageError, match=r"a_se\.png") as caught:
        plan(tmp_path)
    assert "a_se.png/b.jpg" in str(caught.value)
    assert plan(tmp_path, naming=Naming(("nse",))).inputs == 2


def test_a_name_that_can_be_read_and_one_that_cannot_collide_as_well(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/b.jpg")
    (tmp_path / "two" / "a.jpg").symlink_to("nowhere")
    with pytest.raises(UsageError, match="--base"):
        plan(tmp_path / "one", tmp_path / "two")


def test_an_output_that_would_land_in_the_input_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "photos/photos/a.jpg")
    with pytest.raises(UsageError, match="would lie in the input folder"):
        plan(tmp_path / "photos", output=str(tmp_path))
    touch(tmp_path, "pictures/b.jpg")
    assert plan(tmp_path / "pictures", output=str(tmp_path)).inputs == 1


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), max_size=40), st.integers(1, 9))
def test_every_path_is_in_exactly_one_shard(names: list[str], count: int) -> None:
    for name in names:
        assert sum(in_shard(name, (index, count)) for index in range(1, count + 1)) == 1


def test_shards_are_the_same_everywhere() -> None:
    # BLAKE2b-64 of the path's bytes, modulo n: fixed for ever, since schedulers restart shards on other machines
    assert [next(i for i in (1, 2, 3) if in_shard(name, (i, 3))) for name in ("a.jpg", "sub/b.png", "\udcff.jpg")] == SHARDS


def test_shards_part_the_inputs_and_collisions_are_seen_across_them(tmp_path: Path) -> None:
    touch(tmp_path, ".dot", *(f"{n}.jpg" for n in range(30)))
    parts = [plan(tmp_path, shard=(i, 3)) for i in (1, 2, 3)]
    assert sum(part.inputs for part in parts) == 31
    assert len({item.path for part in parts for item in part.items}) == 30
    touch(tmp_path, "7.png")
    for i in (1, 2, 3):
        with pytest.raises(UsageError, match=r"7\.png"):
            plan(tmp_path, shard=(i, 3))


SHARDS = [1, 2, 2]  # b2sum -l 64, modulo 3
