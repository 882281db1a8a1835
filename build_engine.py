"""From a Keras checkpoint to the graph that seseg_trt runs: ``python build_engine.py --checkpoint C.hdf5 --out DIR``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from seseg_trt.errors import ModelError


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="Keras 2 HDF5: model.save() or save_weights().")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for model.onnx; made if it is not there.")
@click.option("--network", help="Refuse a checkpoint of any other network, e.g. seresnet152.")
@click.option("--float-output", is_flag=True, help="Give the confidence as float32 too, as the graph's second output `p`.")
@click.option("--store", metavar="NAME", help="Keep the result in the cache as the model NAME, and make it the default.")
def main(checkpoint: Path, out: Path, network: str | None, float_output: bool, store: str | None) -> None:
    """Make the ONNX graph of a Keras checkpoint, checked against Keras before it is written."""
    from engine.quiet import quiet_tensorflow

    quiet_tensorflow()
    click.echo(f"reading {checkpoint}")
    model, info = _load(checkpoint, network)
    click.echo(f"{info.spec.name}: {model.count_params():,} parameters, sha256 {info.sha256[:12]}")
    click.echo("converting, and comparing the graph with Keras")
    from engine.export import export_onnx

    exported = export_onnx(model, out / "model.onnx", checkpoint_sha256=info.sha256, float_output=float_output)
    click.echo(f"graph against Keras: {exported.agreement}")
    click.echo(f"wrote {exported.path} ({exported.path.stat().st_size:,} bytes, {exported.nodes} nodes)")
    if store is not None:
        from seseg_trt import cache

        click.echo(f"stored as {store}, the default model, in {cache.store(store, out)}")


def _load(checkpoint: Path, network: str | None) -> tuple[Any, Any]:
    from engine.checkpoint import load_checkpoint

    model, info = load_checkpoint(checkpoint)
    if network is not None and info.spec.name.removeprefix("u-") != network.removeprefix("u-"):
        raise ModelError(f"{checkpoint} holds {info.spec.name}, not {network}", "leave --network out, or give the other checkpoint")
    return model, info


if __name__ == "__main__":
    from seseg_trt.cli import run

    sys.exit(run(main, name="build_engine.py"))
