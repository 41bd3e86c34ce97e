"""Shell completion: of paths, and the verb `completion`, which prints the script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

_PROGRAM = "h5zarr"
_VARIABLE = "_H5ZARR_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")


def complete_path(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a path; URLs are taken as they are, which `click.Path` would refuse."""
    return [CompletionItem(incomplete, type="file")]


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion_verb(context: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands.

    Put it where the shell looks (make the folder if it is missing), then start a new shell:

    \b
    bash  cd ~/.local/share/bash-completion/completions
          h5zarr completion bash > h5zarr
    zsh   cd ~/.zfunc, and in ~/.zshrc, before compinit: fpath+=~/.zfunc
          h5zarr completion zsh > _h5zarr
    fish  h5zarr completion fish > ~/.config/fish/completions/h5zarr.fish

    For this shell only:

    \b
    bash  eval "$(h5zarr completion bash)"
    zsh   eval "$(h5zarr completion zsh)"
    fish  h5zarr completion fish | source
    """
    chosen = get_completion_class(shell)
    assert chosen is not None
    root = context.find_root().command
    click.echo(chosen(root, {}, _PROGRAM, _VARIABLE).source())
