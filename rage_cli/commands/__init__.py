"""One Typer application for each noun; loaded only when the noun is entered."""
