"""The command line's options: none gets lost, each has one meaning, and their help can be read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import get_args

import click
import pytest

from seseg_trt.cli import main as cli
from seseg_trt.cli import option_groups
from seseg_trt.cli.option_groups import Inputs, Report, decoding, encoding, inputs, masks, report, run
from seseg_trt.cli.segment import command as segment
from seseg_trt.cli.verb import OptionGroup, verb
from seseg_trt.options import BackendName, DecodeOptions, EncodeOptions, ImageFormat, MaskOptions, OnChange, Overwrite, Resample, RunOptions

FLAGS_OF_SEGMENT = """
    --input-dir --output-dir --files-from --null -0 --include --exclude --base --model --output-type --mask-color --threshold --seed --format --quality
    --subsampling --keep-suffix --exif-orientation --no-exif-orientation --max-pixels --frames --decoder --resample --device --backend --threads
    --processes     --workers --memory --state --on-change --overwrite --retry-quarantined --durable --max-failures --timeout --shard --tar-entries
    --results --rle --report --report-images --require-certificate --dry-run --json --quiet -q
"""
FLAGS = FLAGS_OF_SEGMENT.split()

HEADINGS = [
    "Inputs and outputs:",
    "Masks:",
    "Reading images:",
    "Writing images:",
    "Network and device:",
    "Resuming and failures:",
    "Results and progress:",
    "Options:",
]


def _options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def test_the_flags_of_segment_are_these() -> None:
    found = [name for option in _options(segment) for name in (*option.opts, *option.secondary_opts)]
    assert sorted(found) == sorted(FLAGS)


def test_without_flags_the_command_does_what_the_library_does_without_options() -> None:
    made = []

    @verb("segment")
    @click.argument("paths", nargs=-1)
    @inputs
    @masks
    @decoding
    @encoding
    @run
    @report
    def command(
        inputs: Inputs, masks: MaskOptions, decoding: DecodeOptions, encoding: EncodeOptions, run: RunOptions, report: Report
    ) -> int:
        made.extend([inputs, masks, decoding, encoding, run, report])
        return 0

    assert cli.run(command, ["a", "b", "out", "--device", "cpu"]) == 0
    assert made == [
        Inputs(["a", "b"], "out", None),
        MaskOptions(),
        DecodeOptions(),
        EncodeOptions(),
        RunOptions(device="cpu"),
        Report(as_json=False, quiet=False, page=None, images="blurred", dry_run=False),
    ]
    assert (
        cli.run(command, ["in", "out", "--device", "cuda:0", "--backend", "rtx", "--timeout", "0", "--memory", "3", "--shard", "2/5"]) == 0
    )
    assert made[8] == DecodeOptions(decoder="dali")
    assert made[10] == RunOptions(device="cuda:0", backend="rtx", timeout=None, memory=3 << 20, shard=(2, 5))
    assert cli.run(command, ["in", "out", "--device", "cuda"]) == 0
    assert made[16].memory == 8 << 30


def test_a_flag_may_be_written_with_underscores() -> None:
    values = {"--max-pixels": "9", "--max-failures": "5%", "--mask-color": "random", "--output-type": "nse", "--on-change": "redo"}
    values |= {"--include": "*.jpg", "--exclude": "*.png"}
    values |= {"--report-images": "clear", "--tar-entries": "7", "--files-from": "a_file", "--input-dir": "a_b", "--output-dir": "c_d"}
    flags = [flag for flag in FLAGS if "-" in flag.lstrip("-")]

    def parse(spell: Callable[[str], str]) -> dict[str, object]:
        words = [word for flag in flags for word in [spell(flag), *([values[flag]] if flag in values else [])]]
        return segment.make_context("segment", ["an_input", *words]).params

    found = parse(lambda flag: "--" + flag[2:].replace("-", "_"))
    assert found == parse(lambda flag: flag) and found["paths"] == ("an_input",) and found["files_from"] == "a_file"
    assert found["max_pixels"] == 9 and found["dry_run"] and found["retry"] and found["images"] == "clear"


@pytest.mark.parametrize(
    ("name", "literal"),
    [("backend", BackendName), ("format", ImageFormat), ("on_change", OnChange), ("overwrite", Overwrite), ("resample", Resample)],
)
def test_a_choice_is_the_type_s(name: str, literal: object) -> None:
    (option,) = [option for option in _options(segment) if option.name == name]
    assert isinstance(option.type, click.Choice) and tuple(option.type.choices) == get_args(literal)


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_option_of_a_verb_is_read(name: str) -> None:
    module = importlib.import_module(f"seseg_trt.cli.{name}")
    groups = [value for home in (module, option_groups) for value in vars(home).values() if isinstance(value, OptionGroup)]
    innermost = module.command.callback
    while hasattr(innermost, "__wrapped__"):
        innermost = innermost.__wrapped__
    read = {*innermost.__annotations__, *(taken for group in groups if group.name in innermost.__annotations__ for taken in group.takes)}
    assert {option.name for option in _options(module.command)} <= read


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_option_says_what_it_does(name: str) -> None:
    command = importlib.import_module(f"seseg_trt.cli.{name}").command
    for option in _options(command):
        assert option.help and option.help[0].isupper() and option.help.endswith("."), option.name


def test_the_help_has_headings_in_their_order_and_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.run(cli.group, ["segment", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in HEADINGS] == HEADINGS
    assert max(map(len, lines)) <= 100
    text = " ".join(line.strip() for line in lines)
    assert "[default: the cache's default]" in text and "[default: 127,127,127]" in text and "x>=1" not in text
    assert all(flag in text for flag in FLAGS)
