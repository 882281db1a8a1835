from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seseg_trt.errors import UsageError
from seseg_trt.inputs.item import InputItem
from seseg_trt.outputs.naming import Naming
from seseg_trt.run import plan as module
from seseg_trt.run.plan import WorkPlan, in_shard, make_plan
from seseg_trt.storage.local import LocalStorage
from tests.runs import make_tar


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


def paths(found: WorkPlan) -> list[str]:
    return [item.path for item in found.items]


def refusals(found: WorkPlan) -> dict[str, str]:
    return {entry.item.path: entry.reason for entry in found.refused}


def test_a_plan_counts_all_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg", ".dot", ".dots/x.jpg")
    for name in ("x.jpg", "y.jpg", "z.jpg", "u.jpg"):
        (tmp_path / name).symlink_to("nowhere")
    naming = Naming(("mask",))
    found = plan(tmp_path, naming=naming)
    assert paths(found) == ["a.jpg", "b.jpg", "c.jpg"] and found.ignored == 2
    assert refusals(found) == dict.fromkeys(("x.jpg", "y.jpg", "z.jpg", "u.jpg"), "missing")
    assert found.inputs == 9 and found.naming is naming


def test_inputs_and_lists_are_taken_together(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/b.jpg", "two/sub/c.jpg")
    assert paths(plan(tmp_path / "one", listed=[str(tmp_path / "two" / "b.jpg"), str(tmp_path / "two" / "sub")])) == [
        "a.jpg",
        "b.jpg",
        "sub/c.jpg",
    ]
    assert paths(plan(tmp_path / "one", listed=[])) == ["a.jpg"]


def test_neither_outputs_nor_the_state_are_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out/b.jpg", "state/c.jpg", "other/d.jpg")
    assert paths(plan(tmp_path, output=str(tmp_path / "out"), state_dir=str(tmp_path / "state"))) == ["a.jpg", "other/d.jpg"]
    touch(tmp_path, "photos/e.jpg", "photos/.seseg/f.jpg")
    assert plan(tmp_path / "photos", output="/nowhere/out").ignored == 1  # a folder of that name is ignored as any with a dot


def test_only_what_is_included_and_not_excluded_is_an_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.png", "sub/c.jpg", "sub/d.png", "sub/deep/a.jpg", "C.JPG", ".dot")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "gone.png").symlink_to("nowhere")

    def chosen(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> tuple[list[str], list[str], int]:
        found = plan(tmp_path, include=include, exclude=exclude)
        return paths(found), sorted(refusals(found)), found.ignored

    everything = ["C.JPG", "a.jpg", "b.png", "sub/c.jpg", "sub/d.png", "sub/deep/a.jpg"]
    assert chosen() == (everything, ["gone.jpg", "gone.png"], 1)
    assert chosen(("*.jpg",)) == (["a.jpg", "sub/c.jpg", "sub/deep/a.jpg"], ["gone.jpg"], 5)
    assert chosen((), ("*.jpg",)) == (["C.JPG", "b.png", "sub/d.png"], ["gone.png"], 5)
    assert chosen(("*.jpg",), ("gone*", "sub/*")) == (["a.jpg"], [], 8)
    assert chosen(("sub/*",)) == (["sub/c.jpg", "sub/d.png", "sub/deep/a.jpg"], [], 6)
    assert chosen(("a.jpg", "d.png")) == (["a.jpg", "sub/d.png", "sub/deep/a.jpg"], [], 6)
    assert chosen(("gone.*",)) == ([], ["gone.jpg", "gone.png"], 7)
    assert chosen(("sub/*.jpg",), ("sub/deep/*",)) == (["sub/c.jpg"], [], 8)


def test_patterns_that_choose_nothing_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    for name in ("gone.jpg", "lost.jpg"):
        (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(UsageError) as caught:
        plan(tmp_path, include=("*.png",), exclude=("a*",))
    assert caught.value.message == "none of 4 inputs is chosen by include ['*.png'] and exclude ['a*']"
    assert caught.value.hint.startswith("a pattern with a / is of the whole relative path")
    with pytest.raises(UsageError, match="none of 4"):
        plan(tmp_path, exclude=("*",))


def test_patterns_have_nothing_to_choose_from_where_nothing_is(tmp_path: Path) -> None:
    touch(tmp_path, ".dot")
    assert plan(tmp_path, include=("*.png",)).inputs == 1
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    with pytest.raises(UsageError, match="none of 1"):
        plan(tmp_path, include=("*.png",))


@pytest.mark.parametrize(("count", "more"), [(5, 0), (6, 1), (8, 3)])
def test_five_collisions_are_told_and_the_others_counted(tmp_path: Path, count: int, more: int) -> None:
    for number in range(count):
        touch(tmp_path, f"{number}.jpg", f"{number}.png")
    with pytest.raises(UsageError) as caught:
        plan(tmp_path)
    blocks = [
        f"two inputs have one output, {number}_se.png:\n    {tmp_path}/{number}.jpg\n    {tmp_path}/{number}.png" for number in range(5)
    ]
    tail = [f"    and {more} more such inputs"] if more else []
    assert caught.value.message == "\n".join(blocks + tail)
    assert caught.value.hint == "--keep_suffix keeps the suffix in the output's name and so tells them apart"


def test_the_way_out_of_a_collision_of_folders_is_the_base(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/a.jpg")
    with pytest.raises(UsageError) as caught:
        plan(tmp_path / "one", tmp_path / "two", naming=Naming(()))
    assert caught.value.message == f"two inputs have one name, a.jpg:\n    {tmp_path}/one/a.jpg\n    {tmp_path}/two/a.jpg"
    assert caught.value.hint == "give --base a folder that holds both inputs, so that their folders become part of the names"


def test_one_file_by_two_paths_is_done_once_and_two_by_one_name_collide(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "one/b.jpg", "other/b.jpg")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.jpg").symlink_to(tmp_path / "one" / "a.jpg")
    assert paths(plan(tmp_path / "one", tmp_path / "two")) == ["a.jpg", "b.jpg"]
    (tmp_path / "three").symlink_to("one")
    assert paths(plan(tmp_path / "one", tmp_path / "three")) == ["a.jpg", "b.jpg"]
    with pytest.raises(UsageError, match="two inputs have one output"):
        plan(tmp_path / "one", tmp_path / "other")


def test_links_of_two_names_to_one_file_collide_by_their_outputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "a.png").symlink_to("a.jpg")
    with pytest.raises(UsageError, match=r"a_se\.png"):
        plan(tmp_path)


def test_names_whose_hashes_meet_are_no_collision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{number}.jpg" for number in range(9)))
    monkeypatch.setattr(module, "hash", lambda name: 7, raising=False)
    assert plan(tmp_path).inputs == 9
    touch(tmp_path, "3.png")
    with pytest.raises(UsageError, match=r"3\.png"):
        plan(tmp_path)


def test_an_item_of_a_refused_name_is_an_error_only_for_files(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "one/b.jpg", "two/c.jpg")
    (tmp_path / "two" / "b.jpg").symlink_to("nowhere")
    with pytest.raises(UsageError) as caught:
        plan(tmp_path / "one", tmp_path / "two")
    assert caught.value.message == f"two inputs have one name, b.jpg:\n    {tmp_path}/two/b.jpg\n    {tmp_path}/one/b.jpg"


def test_what_is_refused_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / name).symlink_to("nowhere")
    found = plan(tmp_path / "x.jpg", tmp_path / "y.jpg", tmp_path)
    assert refusals(found) == {"x.jpg": "missing", "y.jpg": "missing"} and len(found.refused) == 2


@pytest.mark.parametrize("folder", ["a_se.png", "a_se.png/deep/deeper"])
def test_a_folder_in_the_place_of_an_output_is_told_with_what_is_in_it(tmp_path: Path, folder: str) -> None:
    touch(tmp_path, "a.jpg", f"{folder}/b.jpg", f"{folder}/c.jpg")
    with pytest.raises(UsageError) as caught:
        plan(tmp_path)
    assert caught.value.message == (
        f"two inputs have one output, a_se.png:\n    {tmp_path}/a.jpg, whose output it is\n"
        f"    {tmp_path}/{folder}/b.jpg, whose outputs go into it"
    )
    assert caught.value.hint == "mask them into two output folders"


def test_a_folder_is_in_the_way_of_the_outputs_of_its_format_alone(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.jpg", "sub/a_se.webp/b.jpg", "sub/c.jpg")
    assert plan(tmp_path).inputs == 3
    with pytest.raises(UsageError, match=r"sub/a_se\.webp"):
        plan(tmp_path, naming=Naming(("nse", "se"), "webp"))
    assert plan(tmp_path, naming=Naming(("nse",), "webp")).inputs == 3
    touch(tmp_path, "x.jpg", "x_pred.png/y.jpg")
    with pytest.raises(UsageError, match=r"x_pred\.png"):
        plan(tmp_path, naming=Naming(("mask",), "webp"))


def test_outputs_must_not_lie_in_any_input_folder(tmp_path: Path) -> None:
    touch(tmp_path, *(f"away{number}/{number}.jpg" for number in range(9)), "out/photos/photos/a.jpg")
    folders = [tmp_path / f"away{number}" for number in range(9)]
    with pytest.raises(UsageError) as caught:
        plan(*folders, tmp_path / "out" / "photos", output=str(tmp_path / "out"))
    source = f"{tmp_path}/out/photos/photos/a.jpg"
    assert caught.value.message == f"the output photos/a_se.png of {source} would lie in the input folder {tmp_path}/out/photos"
    assert caught.value.hint == "choose another output folder"


def test_an_output_whose_name_only_begins_as_an_input_folder_is_none_in_it(tmp_path: Path) -> None:
    touch(tmp_path, "photos/photos2/a.jpg", "photos/photo/b.jpg")
    assert plan(tmp_path / "photos", output=str(tmp_path)).inputs == 2


def test_an_output_in_a_store_lies_in_no_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Store(LocalStorage):
        remote = True

    touch(tmp_path, "photos/photos/a.jpg")
    item = InputItem(str(tmp_path / "photos"), "photos/a.jpg")
    with pytest.raises(UsageError):
        module._refuse_outputs_in_inputs([item], str(tmp_path), Naming())
    monkeypatch.setattr(module, "storage_of", lambda name: Store() if name == str(tmp_path) else LocalStorage())
    module._refuse_outputs_in_inputs([item], str(tmp_path), Naming())
    monkeypatch.setattr(module, "storage_of", lambda name: LocalStorage() if name == str(tmp_path) else Store())
    module._refuse_outputs_in_inputs([item], str(tmp_path), Naming())


def tars(tmp_path: Path, *names: str, entries: tuple[str, ...] = ("a.jpg", "b.jpg")) -> list[Path]:
    touch(tmp_path / "content", *entries)
    return [make_tar(tmp_path / name, tmp_path / "content") for name in names]


def test_entries_of_tars_that_collide_are_refused_by_their_numbers(tmp_path: Path) -> None:
    one, two = tars(tmp_path, "in/one.tar", "in/two.tar")
    found = plan(one, two)
    assert [item.source for item in found.items] == [f"{one}/a.jpg", f"{one}/b.jpg"]
    assert [(entry.item.source, entry.reason) for entry in found.refused] == [
        (f"{two}#1/a.jpg", "collision"),
        (f"{two}#2/b.jpg", "collision"),
    ]
    assert [entry.item.path for entry in found.refused] == ["two.tar#1/a.jpg", "two.tar#2/b.jpg"]
    assert found.refused[0].message == (
        f"two inputs have one output, a_se.png: {one}/a.jpg {two}/a.jpg; "
        "give --base a folder that holds both inputs, so that their folders become part of the names"
    )
    assert found.inputs == 4
    based = plan(one, two, base=str(tmp_path / "in"))
    assert paths(based) == ["one.tar/a.jpg", "one.tar/b.jpg", "two.tar/a.jpg", "two.tar/b.jpg"]


def test_entries_of_one_tar_that_collide_keep_their_own_names(tmp_path: Path) -> None:
    (tar,) = tars(tmp_path, "in/one.tar", entries=("a.jpg", "a.png", "b.jpg"))
    found = plan(tar)
    assert paths(found) == ["a.jpg", "b.jpg"] and refusals(found) == {"a.png": "collision"}
    based = plan(tar, base=str(tmp_path))
    assert paths(based) == ["in/one.tar/a.jpg", "in/one.tar/b.jpg"] and refusals(based) == {"in/one.tar/a.png": "collision"}


def test_an_entry_collides_with_a_file_without_ending_the_run(tmp_path: Path) -> None:
    (tar,) = tars(tmp_path, "in/one.tar")
    touch(tmp_path, "photos/a.jpg")
    found = plan(tmp_path / "photos", tar)
    assert [item.source for item in found.items] == [f"{tmp_path}/photos/a.jpg", f"{tar}/b.jpg"]
    assert refusals(found) == {"one.tar#1/a.jpg": "collision"}
    with pytest.raises(UsageError):  # the other way round it is the file that has to go
        plan(tar, tmp_path / "photos")


def test_a_based_entry_that_needs_its_number_keeps_the_base(tmp_path: Path) -> None:
    (tar,) = tars(tmp_path, "in/one.tar", entries=("a.jpg",))
    touch(tmp_path, "in/one.tar.d/a.jpg")
    item = InputItem(str(tmp_path), "in/one.tar/a.jpg")
    assert module._by_number(item) == InputItem(str(tmp_path), "in/one.tar#1/a.jpg")
    assert module._by_number(InputItem(str(tar), "a.jpg")) == InputItem(str(tmp_path / "in"), "one.tar#1/a.jpg")


def test_an_entry_that_is_a_folder_of_another_s_output_is_refused(tmp_path: Path) -> None:
    (tar,) = tars(tmp_path, "in/one.tar", entries=("a.jpg", "a_se.png/b.jpg", "c.jpg"))
    found = plan(tar)
    assert paths(found) == ["a_se.png/b.jpg", "c.jpg"] and refusals(found) == {"a.jpg": "collision"}
    assert found.refused[0].message.endswith("; mask them into two output folders")


def test_damaged_tars_of_one_name_are_told_apart_by_their_whole_paths(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tar,) = tars(tmp_path, f"{folder}/x.tar")
        tar.write_bytes(tar.read_bytes()[:700])
    found = plan(tmp_path / "one" / "x.tar", tmp_path / "two" / "x.tar")
    whole = [entry.item for entry in found.refused if entry.item.path.endswith("x.tar")]
    assert [item.path for item in whole] == ["x.tar", f"{tmp_path}/two/x.tar"[1:]]
    assert [item.source for item in whole] == [f"{tmp_path}/one/x.tar", f"{tmp_path}/two/x.tar"]


def test_a_whole_address_keeps_its_bucket() -> None:
    assert module._in_full(InputItem("s3://bucket/folder", "x.tar")) == InputItem("s3://bucket", "folder/x.tar")
    assert module._in_full(InputItem("/in/folder", "x.tar")) == InputItem("", "in/folder/x.tar")


def test_a_tar_in_a_folder_is_a_file_as_any_other(tmp_path: Path) -> None:
    touch(tmp_path, "one/x.tar", "two/x.tar")
    with pytest.raises(UsageError, match="two inputs have one output"):
        plan(tmp_path / "one", tmp_path / "two")


def test_a_tar_whose_name_an_input_has_is_refused_by_its_whole_path(tmp_path: Path) -> None:
    (tar,) = tars(tmp_path, "in/x.tar")
    with tarfile.open(tar) as opened:
        assert len(opened.getmembers()) == 2
    tar.write_bytes(tar.read_bytes()[:700])
    touch(tmp_path, "photos/x.tar")
    found = plan(tmp_path / "photos", tar)
    assert "x.tar" in paths(found)
    assert f"{tar}"[1:] in refusals(found)


@pytest.mark.parametrize("shard", [(1, 2), (2, 2)])
def test_a_shard_has_its_own_of_all_that_is_refused_and_the_first_what_is_ignored(tmp_path: Path, shard: tuple[int, int]) -> None:
    touch(tmp_path, ".dot", ".other")
    for number in range(20):
        (tmp_path / f"{number}.jpg").symlink_to("nowhere")
    found = plan(tmp_path, shard=shard)
    assert found.ignored == (2 if shard[0] == 1 else 0)
    assert sorted(refusals(found)) == sorted(f"{number}.jpg" for number in range(20) if in_shard(f"{number}.jpg", shard))
    assert 0 < len(found.refused) < 20


def test_a_shard_counts_from_one() -> None:
    shards: list[Any] = [[name for name in map(str, range(50)) if in_shard(name, (index, 2))] for index in (0, 1, 2, 3)]
    assert not shards[0] and not shards[3] and sorted(shards[1] + shards[2]) == sorted(map(str, range(50)))
