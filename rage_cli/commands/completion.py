"""rage completion."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rage_cli.command import noun, page
from rage_cli.complete import SCRIPTS, script
from rage_net.errors import UsageError

app = noun("Print the completion script of a shell.")


@app.command()
@page(
    examples=(
        "rage completion bash > ~/.local/share/bash-completion/completions/rage",
        'rage completion zsh > "${fpath[1]}/_rage"',
        "rage completion fish > ~/.config/fish/completions/rage.fish    # in an image's build too",
    ),
)
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell, always named: nothing is guessed.")],
) -> None:
    """Print the script that completes commands, options, documents, peers and files."""
    if shell not in SCRIPTS:
        raise UsageError(f"{shell!r} is not one of {', '.join(SCRIPTS)}", mend=["rage completion bash"])
    sys.stdout.write(script(shell))
