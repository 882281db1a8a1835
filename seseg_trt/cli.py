"""The ``seseg-trt`` command. Each verb lives in :mod:`seseg_trt.commands` and is imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from . import __version__
from .errors import SesegError, UsageError

VERBS = {
    "segment": "Mask images: files, folders, globs or a list.",
    "status": "Say what the journals of runs hold.",
    "retry": "Run what was quarantined again.",
    "demo": "Try the program on the pictures that ship with it.",
    "verify": "Compare two models' masks on the same images, and write a certificate.",
    "evaluate": "Score a model's masks against true masks.",
    "build": "Build a TensorRT plan from a graph.",
    "doctor": "Say what this machine can run, and what mends the rest.",
    "fetch": "Bring the original checkpoint from its published address.",
}


class LazyGroup(click.Group):
    """A group whose help needs none of its commands to be imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which a user meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"{__package__}.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from their one-line descriptions."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="seseg-trt")
def group() -> None:
    """Mark and mask the sexually explicit part of images, by the million.

    Exit codes: 0 all done; 1 usage; 2 some inputs quarantined; 3 device or model; 4 a gate not met; 5 stopped early (disk, too many
    failures); 130, 143 signals.
    """


def run(command: click.Command, args: list[str] | None = None, name: str | None = None) -> int:
    """Run a Click command under this project's exit codes, and return the code."""
    try:
        result: Any = command.main(args, prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return UsageError.exit_code
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except SesegError as error:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(str(error), err=True)
        return error.exit_code
    except BrokenPipeError:
        # the reader of our output has gone; Python would complain again when it closes stdout
        sys.stderr.close()
        return 141
    return result if isinstance(result, int) else 0


def main() -> None:
    """The console script."""
    sys.exit(run(group, name="seseg-trt"))


if __name__ == "__main__":
    main()
