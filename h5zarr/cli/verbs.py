"""What all verbs share: how errors become one line on stderr and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from typing import Any, NoReturn

import click

from h5zarr.cli.help import Sectioned
from h5zarr.cli.terminal import is_coloured
from h5zarr.errors import H5zarrError
from h5zarr.text import printable

EXIT_DONE = 0
EXIT_INCOMPLETE = 1
EXIT_FAILED = 2
EXIT_INTERRUPTED = 130

_FAILURES = (H5zarrError, OSError, MemoryError, ImportError)


class Verbs(click.Group):
    """Commands that Ctrl-C ends with the exit code that shells expect."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which one needs them."""
        return list(self.commands)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the program; what verbs write, they catch themselves, but not --help and --version."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            sys.stdout = None  # what is left in it would be told of at the end
            tell(f"stdout: cannot be written: {error.strerror or error}", failed=True)
            raise SystemExit(EXIT_FAILED) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("interrupted; run it again to have a result", failed=True)
            raise SystemExit(EXIT_INTERRUPTED) from None


class Verb(Sectioned):
    """A command that turns what h5zarr raises into one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Run the command; what it returns is the exit code."""
        debug = bool(ctx.params.pop("debug"))
        try:
            status = super().invoke(ctx)
        except BrokenPipeError:
            raise
        except _FAILURES as error:
            if debug:
                from h5zarr.prefetch.redact import redact

                click.echo(redact(traceback.format_exc()), err=True, nl=False)
            tell(str(error) or type(error).__name__, failed=True)
            status = EXIT_FAILED
        ctx.exit(status)


def tell(message: str, *, failed: bool = False) -> None:
    """Write one line to stderr; on a terminal, that of a failure begins in red."""
    prefix = "h5zarr:"
    if failed and is_coloured(sys.stderr):
        prefix = click.style(prefix, fg="red", bold=True)
    click.echo(f"{prefix} {printable(' '.join(message.split()))}", err=True)


def tell_all(findings: Iterable[object]) -> None:
    """Write one line to stderr for each."""
    for finding in findings:
        tell(str(finding))
