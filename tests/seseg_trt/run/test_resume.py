"""What of an earlier run still holds: each test ends in the tree of a fresh run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunOptions, Summary, UsageError, segment_files
from seseg_trt.errors import ReasonCode
from seseg_trt.inputs.item import InputItem, RejectedInput
from seseg_trt.journal.journal import Journal
from seseg_trt.journal.row import Row
from seseg_trt.options import ResumePolicy
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.outputs.naming import Naming
from seseg_trt.run import resume as module
from seseg_trt.run.plan import WorkPlan
from seseg_trt.run.resume import Identity, Remaining, find_remaining, forget_mended, refused_rows
from tests.runs import make_inputs, make_tar, picture, records, tree


def run(tmp_path: Path, outputs: tuple[Any, ...], threshold: int = 50, out: str = "out", **options: Any) -> Summary:
    return segment_files(
        [tmp_path / "in"],
        tmp_path / out,
        masks=MaskOptions(outputs, threshold=threshold),
        options=RunOptions(**options),
        backend=FakeBackend(16),
    )


def test_an_output_of_other_options_that_was_not_asked_for_meanwhile_is_made_again(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 5)
    run(tmp_path, ("se", "mask"), 10)
    run(tmp_path, ("mask",), 90, on_change="redo")
    assert run(tmp_path, ("se", "mask"), 90).done == 5  # the se that is there is of the first threshold
    run(tmp_path, ("se", "mask"), 90, out="fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_an_output_that_was_not_asked_for_meanwhile_and_still_holds_is_kept(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 5)
    run(tmp_path, ("se", "mask"))
    (tmp_path / "in" / "image00000.png").write_bytes(picture(77))
    assert run(tmp_path, ("mask",)).done == 1
    assert run(tmp_path, ("se", "mask")).done == 1  # of the image that changed, the se is of the old pixels
    run(tmp_path, ("se", "mask"), out="fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("what", ["size", "mtime"])
def test_an_input_is_another_by_its_size_or_its_time_alone(tmp_path: Path, what: str) -> None:
    make_inputs(tmp_path / "in", 3)
    path = tmp_path / "in" / "image00000.png"
    path.write_bytes(picture(5, 20, 20) + b"0123")
    before = path.stat()
    run(tmp_path, ("se",))
    data = picture(6, 20, 20)
    path.write_bytes(data + b"0" * (before.st_size - len(data) + (what == "size")) if len(data) <= before.st_size else data)
    assert what == "size" or path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns + (what == "mtime")))
    assert run(tmp_path, ("se",)).done == 1


def test_what_was_quarantined_is_tried_again_with_other_options_or_another_file(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 4, bad_every=4)
    for expected, threshold in ((1, 50), (1, 50), (2, 60)):
        assert run(tmp_path, ("se",), threshold, on_change="redo").quarantined == 1
        (line,) = (tmp_path / "out" / ".seseg" / "quarantine.jsonl").read_text().splitlines()
        assert json.loads(line)["attempt"] == expected
    (bad,) = records(tmp_path / "out")
    (tmp_path / "in" / bad).write_bytes(picture(3))
    assert run(tmp_path, ("se",), 60).done == 1 and not records(tmp_path / "out")


def test_a_change_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 3)
    run(tmp_path, ("se",))
    before = tree(tmp_path / "out")
    with pytest.raises(UsageError, match="threshold 50 then, 60 now"):
        run(tmp_path, ("se",), 60)
    assert tree(tmp_path / "out") == before


NOW = Identity("options now", "b" * 64)
FINAL = {"empty", "truncated", "not_an_image", "unsupported", "decode_error", "not_a_file"}
"""Reasons that lie in the file's bytes, so that another try is of no use until they change."""


class Earlier:
    """Inputs in a folder, and the journal and the outputs of an earlier run over them."""

    def __init__(self, folder: Path, journal: Journal, kinds: tuple[Any, ...] = ("se",)) -> None:
        self.folder = folder
        self.journal = journal
        self.naming = Naming(kinds)
        self.outputs = OutputFolder(folder / "out")
        self.outputs.prepare()
        self.items: list[InputItem] = []

    def add(self, path: str, state: Any = None, *, made: bool = True, identity: Identity = NOW, **fields: Any) -> InputItem:
        """Write an input, and in what state the earlier run left it, if it had reached it; return it."""
        (self.folder / path).write_bytes(b"input")
        item = InputItem(str(self.folder), path)
        self.items.append(item)
        if state is not None:
            status = os.stat(item.source)
            outputs: dict[str, tuple[str, int] | None] = {}
            for name in self.naming.names(path).values():
                outputs[name] = self.outputs.write(name, b"made") if made and state == "done" else None
            row = Row(
                path=item.identity,
                source=os.fsencode(item.source),
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
                options=identity.options,
                artifact=identity.artifact,
                outputs=outputs,
                state=state,
                attempt=1 if state in ("done", "quarantined") else 0,
            )
            self.journal.put([dataclasses.replace(row, **fields)])
        return item

    def find(self, policy: ResumePolicy | None = None, identity: Identity = NOW) -> Remaining:
        return find_remaining(WorkPlan(self.items, 0, [], self.naming), self.journal, self.outputs, identity, policy or ResumePolicy())

    def row(self, item: InputItem) -> Row:
        return self.journal.get([item.identity])[item.identity]


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator[Earlier]:
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal:
        yield Earlier(tmp_path, journal)


def test_an_input_that_nobody_knew_is_left_and_pending(earlier: Earlier) -> None:
    item = earlier.add("a.png")
    assert earlier.find() == Remaining([item], 0, 0)
    assert earlier.row(item) == Row(
        path=b"a.png",
        source=os.fsencode(item.source),
        size=None,
        mtime_ns=None,
        options=NOW.options,
        artifact=NOW.artifact,
        outputs={"a_se.png": None},
        state="pending",
    )


def test_what_is_done_is_skipped_and_what_is_pending_is_left(earlier: Earlier) -> None:
    earlier.add("a.png", "done")
    earlier.add("b.png", "done")
    pending = earlier.add("c.png", "pending")
    earlier.add("d.png", "quarantined", reason="empty")
    assert earlier.find() == Remaining([pending], 2, 1)


def test_what_was_tried_before_comes_last(earlier: Earlier) -> None:
    items = [earlier.add("a.png", "pending", attempt=1), earlier.add("b.png"), earlier.add("c.png", "pending")]
    items += [earlier.add("d.png", "pending", attempt=2), earlier.add("e.png")]
    assert earlier.find().items == [items[1], items[2], items[4], items[0], items[3]]
    assert [earlier.row(item).attempt for item in items] == [1, 0, 0, 2, 0]


@pytest.mark.parametrize("reason", get_args(ReasonCode))
def test_what_was_quarantined_is_tried_again_unless_its_bytes_are_to_blame(earlier: Earlier, reason: str) -> None:
    item = earlier.add("a.png", "quarantined", reason=reason)
    assert earlier.find() == (Remaining([], 0, 1) if reason in FINAL else Remaining([item]))
    assert (earlier.row(item).state, earlier.row(item).attempt) == ("quarantined" if reason in FINAL else "pending", 1)


def test_what_was_quarantined_is_tried_again_on_request_or_where_anything_changed(earlier: Earlier) -> None:
    item = earlier.add("a.png", "quarantined", reason="empty")
    changed = earlier.add("b.png", "quarantined", reason="empty", size=99)
    later = earlier.add("c.png", "quarantined", reason="empty", mtime_ns=99)
    gone = earlier.add("d.png", "quarantined", reason="empty")
    os.unlink(gone.source)
    other = earlier.add("e.png", "quarantined", reason="empty", options="options then")
    model = earlier.add("f.png", "quarantined", reason="empty", artifact="a" * 64)
    assert earlier.find() == Remaining([changed, later, gone, other, model], 0, 1)
    assert earlier.find(ResumePolicy(retry=True)).items[-1] in (item, model)
    assert len(earlier.find(ResumePolicy(retry=True)).items) == 6


def test_what_is_done_is_made_again_where_anything_is_other_than_it_was(earlier: Earlier) -> None:
    earlier.naming = Naming(("se", "mask"))
    earlier.add("a.png", "done")
    larger = earlier.add("b.png", "done", size=99)
    later = earlier.add("c.png", "done", mtime_ns=99)
    gone = earlier.add("d.png", "done")
    (earlier.folder / "out" / "d_pred.png").unlink()
    cut = earlier.add("e.png", "done")
    (earlier.folder / "out" / "e_se.png").write_bytes(b"cut")
    grown = earlier.add("f.png", "done")
    (earlier.folder / "out" / "f_se.png").write_bytes(b"grown longer")
    unmade = earlier.add("g.png", "done", made=False)
    assert earlier.find() == Remaining([larger, later, gone, cut, grown, unmade], 1, 0)


def test_a_change_of_the_model_or_the_options_is_told(earlier: Earlier) -> None:
    item = earlier.add("a.png", "done", identity=Identity("options then", "a" * 64))
    with pytest.raises(UsageError) as caught:
        earlier.find()
    assert (
        caught.value.message == f"{item.source} was masked into this output folder with another model (aaaaaaaaaaaa then, bbbbbbbbbbbb now)"
    )
    assert caught.value.hint == "choose another output folder, or --on-change redo to make such outputs again"
    earlier.journal.put([dataclasses.replace(earlier.row(item), artifact=NOW.artifact)])
    with pytest.raises(UsageError) as caught:
        earlier.find()
    assert caught.value.message.endswith("with other options (threshold, colour, seed, format, decoder or orientation)")
    with pytest.raises(UsageError, match=r"with other options \(threshold 5 then, 6 now\)"):
        earlier.find(identity=dataclasses.replace(NOW, changes="threshold 5 then, 6 now"))
    assert earlier.row(item).state == "done"
    assert earlier.find(ResumePolicy(on_change="redo")) == Remaining([item])
    assert (earlier.row(item).state, earlier.row(item).options, earlier.row(item).artifact) == ("pending", NOW.options, NOW.artifact)


def test_a_change_is_no_matter_for_what_is_not_done(earlier: Earlier) -> None:
    then = Identity("options then", "a" * 64)
    items = [earlier.add("a.png", "pending", identity=then), earlier.add("b.png", "quarantined", identity=then, reason="empty")]
    assert earlier.find() == Remaining(items)
    assert [earlier.row(item).options for item in items] == [NOW.options] * 2


@pytest.mark.parametrize(
    ("measured", "wanted", "done"),
    [
        (None, None, True),
        (None, "stats", False),
        (None, "rle", False),
        ({"share": 0.5}, None, True),
        ({"share": 0.5}, "stats", True),
        ({"share": 0.5}, "rle", False),
        ({"share": 0.5, "rle": "x"}, "stats", True),
        ({"share": 0.5, "rle": "x"}, "rle", True),
    ],
)
def test_what_was_not_measured_as_asked_is_done_again(earlier: Earlier, measured: Any, wanted: Any, done: bool) -> None:
    item = earlier.add("a.png", "done", measured=measured)
    assert earlier.find(ResumePolicy(measured=wanted)) == (Remaining([], 1) if done else Remaining([item]))


def test_an_output_that_no_journal_knows_is_told_and_nothing_is_written(earlier: Earlier) -> None:
    earlier.naming = Naming(("se", "mask"))
    first, item = earlier.add("a.png"), earlier.add("b.png")
    (earlier.folder / "out" / "b_pred.png").write_bytes(b"mine")
    with pytest.raises(UsageError) as caught:
        earlier.find()
    assert caught.value.message == "b_pred.png is there already in the output folder, and no journal knows it"
    assert caught.value.hint.startswith("choose another output folder, or --overwrite skip (keep such files)")
    assert earlier.journal.get([first.identity, item.identity]) == {}


def test_what_no_journal_knows_is_kept_or_replaced(earlier: Earlier) -> None:
    earlier.naming = Naming(("se", "mask"))
    free, item = earlier.add("a.png"), earlier.add("b.png")
    (earlier.folder / "out" / "b_pred.png").write_bytes(b"mine")
    assert earlier.find(ResumePolicy(overwrite="skip")) == Remaining([free], 1)
    assert earlier.row(item).state == "skipped" and earlier.row(item).outputs == {"b_se.png": None, "b_pred.png": None}
    assert earlier.find() == Remaining([free], 1)  # it stays left alone while any of its outputs is there
    (earlier.folder / "out" / "b_pred.png").unlink()
    assert earlier.find() == Remaining([free, item])
    assert earlier.row(item).state == "pending"


def test_what_no_journal_knows_is_replaced_on_request(earlier: Earlier) -> None:
    item = earlier.add("b.png")
    (earlier.folder / "out" / "b_se.png").write_bytes(b"mine")
    assert earlier.find(ResumePolicy(overwrite="redo")) == Remaining([item])
    assert earlier.find() == Remaining([item])  # now it is known


def test_a_kind_of_output_that_is_new_may_be_unknown_too(earlier: Earlier) -> None:
    item = earlier.add("a.png", "done")
    earlier.naming = Naming(("se", "mask"))
    (earlier.folder / "out" / "a_pred.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"a_pred\.png is there already"):
        earlier.find()
    assert earlier.find(ResumePolicy(overwrite="skip")) == Remaining([], 1)
    assert earlier.row(item).state == "skipped"
    assert earlier.row(item).outputs == {"a_se.png": None, "a_pred.png": None}


def test_rows_are_looked_up_and_written_in_pieces(earlier: Earlier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ITEMS_AT_ONCE", 2)
    items = [earlier.add(f"{number}.png") for number in range(5)]
    (earlier.folder / "out" / "3_se.png").write_bytes(b"mine")
    sizes: list[int] = []
    real = earlier.journal.put

    def put(rows: Any) -> None:
        rows = list(rows)
        sizes.append(len(rows))
        real(rows)

    monkeypatch.setattr(earlier.journal, "put", put)
    assert earlier.find(ResumePolicy(overwrite="skip")) == Remaining(items[:3] + items[4:], 1)
    assert sizes == [2, 2, 1]
    assert [earlier.row(item).state for item in items] == ["pending", "pending", "pending", "skipped", "pending"]
    sizes.clear()
    earlier.find()
    assert sizes == [0, 0]  # nothing is written that is there already


def test_outputs_that_were_not_asked_for_stay_known_and_hold_as_long_as_nothing_changed(earlier: Earlier) -> None:
    earlier.naming = Naming(("se", "mask"))
    same = earlier.add("a.png", "done")
    changed = earlier.add("b.png", "done", size=99)
    options = earlier.add("c.png", "done", options="options then")
    model = earlier.add("d.png", "done", artifact="a" * 64)
    made = {item.path: dict(earlier.row(item).outputs) for item in earlier.items}
    earlier.naming = Naming(("nse",))
    assert len(earlier.find(ResumePolicy(on_change="redo")).items) == 4
    assert earlier.row(same).outputs == {**made["a.png"], "a_nse.png": None} and None not in made["a.png"].values()
    for item in (changed, options, model):
        stem = item.path[0]
        assert earlier.row(item).outputs == {f"{stem}_se.png": None, f"{stem}_pred.png": None, f"{stem}_nse.png": None}


def test_what_the_plan_refused_gets_a_quarantined_row(earlier: Earlier) -> None:
    known = earlier.add("a.png", "done", attempt=3)
    new = InputItem(str(earlier.folder), "b.png")
    plan = WorkPlan([], 0, [RejectedInput(known, "missing", "it is gone"), RejectedInput(new, "link_loop", "a circle")], earlier.naming)
    first, second = refused_rows(plan, earlier.journal, NOW, 77.5)
    assert (first.path, first.state, first.reason, first.message, first.finished) == (
        b"a.png",
        "quarantined",
        "missing",
        "it is gone",
        77.5,
    )
    assert first.attempt == 3 and first.outputs == earlier.row(known).outputs and None not in first.outputs.values()
    assert (second.path, second.state, second.reason, second.message, second.finished) == (
        b"b.png",
        "quarantined",
        "link_loop",
        "a circle",
        77.5,
    )
    assert second.attempt == 0 and second.outputs == {} and (second.options, second.artifact) == (NOW.options, NOW.artifact)


@pytest.mark.parametrize(
    ("reason", "whole", "refused", "forgotten"),
    [
        ("empty", True, False, True),
        ("truncated", True, False, True),
        ("unreadable", True, False, True),
        ("changed", True, False, True),
        ("missing", True, False, False),
        ("truncated", False, False, False),
        ("truncated", True, True, False),
        ("truncated", None, False, False),
    ],
)
def test_a_tar_that_is_whole_again_loses_its_row(earlier: Earlier, reason: str, whole: bool | None, refused: bool, forgotten: bool) -> None:
    item = earlier.add("a.png")
    (earlier.folder / "content").mkdir()
    (earlier.folder / "content" / "a.png").write_bytes(b"input")
    item = earlier.add("x.tar", "quarantined", reason=reason)
    other = earlier.add("other.png", "quarantined", reason=reason)
    done = earlier.add("y.tar", "done", reason=reason)
    for name in ("x.tar", "y.tar"):
        make_tar(earlier.folder / name, earlier.folder / "content")
    if whole is False:
        (earlier.folder / "x.tar").write_bytes((earlier.folder / "x.tar").read_bytes()[:700])
    if whole is None:
        (earlier.folder / "x.tar").unlink()
    plan = WorkPlan([], 0, [RejectedInput(item, "truncated", "cut")] if refused else [], earlier.naming)
    forget_mended(plan, earlier.journal)
    left = earlier.journal.get([item.identity, other.identity, done.identity])
    assert set(left) == {b"other.png", b"y.tar"} | (set() if forgotten else {b"x.tar"})


def test_a_tar_within_a_tar_keeps_its_row(earlier: Earlier) -> None:
    (earlier.folder / "content").mkdir()
    (earlier.folder / "content" / "inner.tar").write_bytes(b"input")
    make_tar(earlier.folder / "x.tar", earlier.folder / "content")
    earlier.journal.put(
        [Row(b"inner.tar", os.fsencode(f"{earlier.folder}/x.tar/inner.tar"), None, None, "", "", {}, "quarantined", "truncated")]
    )
    forget_mended(WorkPlan([], 0, [], earlier.naming), earlier.journal)
    assert b"inner.tar" in earlier.journal.get([b"inner.tar"])


def test_an_identity_never_changes_and_knows_of_no_change_at_first() -> None:
    assert NOW.changes == ""
    with pytest.raises(dataclasses.FrozenInstanceError):
        NOW.options = "others"  # type: ignore[misc]
