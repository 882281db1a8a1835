"""What a verb of the command line is made of: flags under headings, in groups that parse themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import click

FIRST_COLUMN = 27
"""The most columns of a help text for a flag's names and value; longer ones get a line of their own."""

Kind = Mapping[str, Any]
"""What a flag takes, as attributes of :func:`click.option`."""

SWITCH: Kind = {"is_flag": True}


def text(metavar: str, parse: Callable[[str], Any] | None = None) -> Kind:
    """Take a text, and return its value by ``parse``."""
    if parse is None:
        return {"metavar": metavar}
    return {"metavar": metavar, "callback": lambda ctx, parameter, given: None if given is None else parse(given)}


def count(metavar: str = "N", least: int = 1, most: int | None = None) -> Kind:
    """Take a whole number."""
    return {"metavar": metavar, "type": click.IntRange(least, most)}


def number(metavar: str, most: float | None = None) -> Kind:
    """Take a number from 0."""
    return {"metavar": metavar, "type": click.FloatRange(0, most)}


def choice(literal: Any) -> Kind:
    """Take one of the values of a Literal type."""
    return {"type": click.Choice(get_args(literal))}


def place(metavar: str, **attributes: Any) -> Kind:
    """Take the name of something on a disk or in a store, as a text."""
    return {"metavar": metavar, "type": click.Path(**attributes)}


FILE = place("FILE", path_type=Path)


class HeadedOption(click.Option):
    """An option with the heading that it stands under in its command's help."""

    def __init__(self, *arguments: Any, heading: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.heading = heading

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the names and the text, with the default in brackets: its value, or its words (``show_default="all cores"``)."""
        record = super().get_help_record(ctx)
        if record is None or not (self.required or self.show_default):
            return record and (record[0], self.help or "")
        default = self.show_default if isinstance(self.show_default, str) else self.get_default(ctx)
        return record[0], f"{self.help}  [{'required' if self.required else f'default: {default}'}]"


class Flag:
    """An option that waits for its heading; :func:`under` adds it to a command.

    Args:
        names: its names, and perhaps its parameter's, with blanks between.
        kind: what it takes.
        help: what it does.
        default: the value without the flag.
        shown: the help text's word for the default, where that is not its value.
        attributes: more, as for :func:`click.option`.

    Attributes:
        name: its parameter's name.
    """

    def __init__(self, names: str, kind: Kind, help: str, default: Any = None, *, shown: str | None = None, **attributes: Any) -> None:
        if default is not None:
            attributes["default"] = default
        shows = shown or default is not None
        self.add = functools.partial(click.option, *names.split(), cls=HeadedOption, help=help, show_default=shows, **kind, **attributes)
        self.name = click.Option(names.split()).name


def under(heading: str, *flags: Flag) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds flags to a command: ``@under("Network and device", THREADS)``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for flag in reversed(flags):
            function = flag.add(heading=heading)(function)
        return function

    return decorate


class OptionGroup:
    """Some flags of a command, and the one value that they make together.

    As a decorator it adds its flags to a command, and hands the value to the command's parameter of the group's name.

    Args:
        name: the parameter.
        make: makes the value: takes its flags, and other groups' where it has parameters of their names. A dataclass is one.
        flags: by their headings. Several groups may have flags under one heading.
    """

    def __init__(self, name: str, make: Callable[..., Any], flags: Mapping[str, tuple[Flag, ...]]) -> None:
        self.name = name
        self._make = make
        self._flags = flags
        self.takes = {flag.name for group in flags.values() for flag in group} | set(inspect.signature(make).parameters)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Add the group to a command."""
        parameters = inspect.signature(function).parameters  # of the command itself, whatever groups are around it

        @functools.wraps(function)
        def parsed(**values: Any) -> Any:
            given = click.get_current_context().params
            values[self.name] = self._make(**{name: value for name, value in given.items() if name in self.takes})
            return function(**{name: value for name, value in values.items() if name in parameters})

        decorated: Callable[..., Any] = parsed
        for heading in reversed(list(self._flags)):
            decorated = under(heading, *self._flags[heading])(decorated)
        return decorated


class Verb(click.Command):
    """A command whose help lists its options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each heading, in the order of their first options; the first column is as wide in all."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        width = min(FIRST_COLUMN, max(len(names) for records in sections.values() for names, _ in records))
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(names.ljust(width), text) for names, text in records], col_max=width)


def with_hyphens(name: str) -> str:
    """Return a flag's name as it is declared: users may write underscores, as the original program's flags have them."""
    return name.replace("_", "-")


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120, "token_normalize_func": with_hyphens}


def verb(name: str) -> Callable[[Callable[..., Any]], Verb]:
    """Make a command of a function that returns its exit code."""
    return click.command(name=name, cls=Verb, context_settings=SETTINGS)
