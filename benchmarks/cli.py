"""Define the command ``python -m benchmarks``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from . import records as store
from . import report, table
from .cases import CONTESTS, SUITES
from .records import RESULTS, Record

PROJECT = RESULTS.parent.parent


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Measure seseg_trt and its peers. Without a subcommand: run the full suite, print the table and draw the plots."""
    if context.invoked_subcommand is None:
        context.invoke(run_command)
        context.invoke(table_command)
        context.invoke(plots_command)


@main.command("list")
def list_command() -> None:
    """List the contests and their cases."""
    for contest in CONTESTS.values():
        rounds = ", ".join(f"{suite} {n}" for suite, n in contest.rounds.items())
        click.echo(f"{contest.name}: {contest.title} (rounds: {rounds}; {contest.device})")
        for case in contest.cases:
            click.echo(f"    {case.name}  x{case.count}")


@main.command("run")
@click.argument("contests", nargs=-1, type=click.Choice(list(CONTESTS)))
@click.option("--suite", type=click.Choice(SUITES), default="full", show_default=True)
@click.option(
    "--images",
    "own",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Use your own images in every case that reads images.",
)
@click.option("--only", multiple=True, help="Run only cases whose name contains this; may be repeated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the records. Default: benchmarks/results for full runs, the cache for others.",
)
def run_command(contests: tuple[str, ...], suite: str, own: Path | None, only: tuple[str, ...], out: Path | None) -> None:
    """Run CONTESTS and write a record for each case. Default: all contests whose device this machine has."""
    from . import runner
    from .contestant import Settings
    from .images import reader_set

    cache = runner.default_cache()
    partial = suite != "full" or bool(only) or own is not None
    out = out or (cache / "results" if partial else RESULTS)
    settings = Settings(suite, cache, reader_set(own) if own else None, only, _tell)
    name = runner.new_run()
    chosen = runner.select(contests, suite, CONTESTS)
    if not chosen:
        raise click.ClickException(f"none of these contests is in the {suite} suite")
    for contest in chosen:
        found = runner.run_contest(contest, settings, name)
        click.echo(f"wrote {store.write(found, out)}")
        _show(found)


@main.command("prepare")
@click.argument("contests", nargs=-1, type=click.Choice(list(CONTESTS)))
@click.option("--suite", type=click.Choice(SUITES), default="full", show_default=True)
def prepare_command(contests: tuple[str, ...], suite: str) -> None:
    """Make the images, models and environments of CONTESTS in advance (this takes minutes), and report what is not available."""
    from . import runner
    from .contestant import Settings

    settings = Settings(suite, runner.default_cache(), tell=_tell)
    for contest in runner.select(contests, suite, CONTESTS):
        for line in runner.prepare_contest(contest, settings):
            click.echo(line)


@main.command("quick")
def quick_command() -> None:
    """Run the quick suite and compare its ratios with the committed ones of this kind of machine."""
    from . import runner
    from .contestant import Settings
    from .quick import hold

    cache = runner.default_cache()
    settings = Settings("quick", cache, tell=_tell)
    found: list[Record] = []
    name = runner.new_run()
    for contest in runner.select((), "quick", CONTESTS):
        records = runner.run_contest(contest, settings, name)
        store.write(records, cache / "results")
        found += records
    _show(found)
    for line in hold(found, store.newest(store.read(RESULTS))):
        click.echo(line)


@main.command("growth")
@click.option("--what", type=click.Choice(["images", "megapixels", "both"]), default="both", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def growth_command(what: str, out: Path) -> None:
    """Measure how cost grows with the number and the size of images."""
    from . import growth, runner
    from .contestant import Settings

    settings = Settings("full", runner.default_cache(), tell=_tell)
    name = runner.new_run()
    for key, measure in (("images", growth.images), ("megapixels", growth.megapixels)):
        if what in (key, "both"):
            found = measure(settings, name)
            click.echo(f"wrote {store.write(found, out)}")
            _show(found)


@main.command("table")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
@click.option("--project", type=click.Path(path_type=Path), default=PROJECT, show_default=False, help="The folder that README.md lies in.")
@click.option("--check", is_flag=True, help="Write nothing; fail unless both files have the tables that the records give.")
def table_command(results: Path, project: Path, check: bool) -> None:
    """Write the tables of README.md and benchmarks/RESULTS.md."""
    kinds = store.newest(store.read(results))
    for name, make in table.PAGES.items():
        path = project / name
        try:
            text = table.put_into(path, make(kinds))
        except table.Markers as error:
            raise click.ClickException(str(error)) from error
        if not check:
            path.write_text(text, encoding="utf-8")
        elif text != path.read_text(encoding="utf-8"):
            raise click.ClickException(f"{name}'s table is not what the records say: python -m benchmarks table")


@main.command("plots")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def plots_command(results: Path) -> None:
    """Draw the plots of each kind of machine, as PNG and SVG, next to its records."""
    try:
        from .plots import draw_all
    except ImportError as error:
        raise click.ClickException(f"{error}; pip install matplotlib") from error
    for kind, contests in store.newest(store.read(results)).items():
        for path in draw_all(contests, results / kind / "plots"):
            click.echo(f"wrote {path}")


@main.command("summary")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def summary_command(as_json: bool, results: Path) -> None:
    """Print the headline figures."""
    found = report.summary(store.newest(store.read(results)))
    if as_json:
        click.echo(json.dumps(found))
        return
    for device, values in found.items():
        click.echo(f"{device}: {'not measured' if values is None else ''}")
        for key, value in (values or {}).items():
            click.echo(f"    {key}: {value}")


@main.command("compare")
@click.argument("before")
@click.argument("after")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def compare_command(before: str, after: str, results: Path) -> None:
    """Report what became faster or slower from BEFORE to AFTER: each a file of records, or the first letters of a run or a commit.

    The exit code is 1 if anything became slower by more than noise.
    """
    from .compare import compare

    changes = compare(_choose(before, results), _choose(after, results))
    if not changes:
        raise click.ClickException("the two have no case in common")
    slower = False
    for change in changes:
        verdict = "within noise"
        if change.beyond_noise:
            verdict = "FASTER" if change.factor > 1 else "SLOWER"
            slower = slower or change.factor < 1
        anchored = ", relative to each run's matrix product" if change.anchored else ""
        click.echo(f"{change.factor:6.3f} times as fast (noise {change.noise:.1%}{anchored})  {verdict:12}  {change.name}")
    sys.exit(1 if slower else 0)


def _choose(name: str, results: Path) -> list[Record]:
    if Path(name).exists():
        return store.read(Path(name))
    found = [r for r in store.read(results) if r.run.startswith(name) or str(r.commit.get("commit")).startswith(name)]
    if not found:
        raise click.ClickException(f"no file, run or commit {name}")
    return found


def _show(found: list[Record]) -> None:
    for record in found:
        if record.absent is not None:
            click.echo(f"  absent        {record.name}: {record.absent}")
            continue
        value: Any = f"{record.median * 1e3:.2f} ms" if record.unit == "s" else f"{record.median / 1e9:.1f} G{record.unit}"
        click.echo(f"  {value:>14} ±{record.spread:.1%}  {record.name}")


def _tell(line: str) -> None:
    click.echo(line, err=True)
