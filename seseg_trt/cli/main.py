"""Run the ``seseg-trt`` command. Each verb is a module of this package, imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from .. import __version__
from ..errors import SesegError, StoppedError, UsageError
from .terminal import open_standard_streams, say

VERBS = {
    "segment": "Mask images: files, folders, globs, tars or a list.",
    "status": "Show how far runs are.",
    "retry": "Run the quarantined inputs of a run again.",
    "demo": "Mask the pictures that come with the program.",
    "verify": "Compare two models' masks on the same images, and write a certificate.",
    "evaluate": "Score a model's masks against true masks.",
    "build": "Build a TensorRT plan from a graph.",
    "doctor": "Show what this machine can run, and how to mend the rest.",
    "fetch": "Download the original checkpoint.",
}


class LazyGroup(click.Group):
    """List commands in a help text without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs, in the order in which a user needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb; return None where there is none of that name."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"{__package__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their one-line descriptions."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="seseg-trt")
def group() -> None:
    """Mask the sexually explicit part of images, by the million.

    \b
    Exit codes:
      0  all inputs are done
      1  the arguments can't be used as they are
      2  some inputs are in quarantine
      3  a device or a model is missing or failed
      4  a measured quality is under its gate
      5  the run stopped early: a full disk, or too many failures
      130 or 143 after SIGINT or SIGTERM
    """


def run(command: click.Command, args: list[str] | None = None, name: str | None = None) -> int:
    """Run a Click command, print its error, and return the exit code."""
    try:
        result: Any = command.main(args, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except SesegError as error:
        say(f"{click.style('error: ', fg='red', bold=True)}{error}")
        return error.exit_code
    except BrokenPipeError:  # the reader of standard output has gone
        return 141
    except OSError as error:  # standard output is full, or what nobody foresaw
        say(f"error: {error}")
        return StoppedError.exit_code
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run the command as a script."""
    open_standard_streams()
    code = run(group, name="seseg-trt")
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            # What is left can't be written. Without this, Python says so once more as it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            code = code or (141 if descriptor == 1 else 0)
    sys.exit(code)


if __name__ == "__main__":
    main()
