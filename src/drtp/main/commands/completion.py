"""Shell completion."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script: `eval "$(datumctl completion bash)"`."""
    from click.shell_completion import get_completion_class

    root = context.find_root()
    program = root.info_name or "drtp"
    maker = get_completion_class(shell)
    assert maker is not None, "click knows the three shells of the choice"
    # click names the variable so for each program.
    click.echo(maker(root.command, {}, program, f"_{program.upper().replace('-', '_')}_COMPLETE").source())
