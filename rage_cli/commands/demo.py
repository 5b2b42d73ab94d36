"""Later."""

from rage_cli.command import noun, page

app = noun("later")


@app.command()
@page(examples=("rage",))
def later() -> None:
    """Come later."""
