"""rage init."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rage_cli import session
from rage_cli.command import noun, page
from rage_cli.output import Column, render, say
from rage_cli.profiles import PROFILES, settings_of

app = noun("Make a home: identity, configuration, store.")


@dataclass(frozen=True, slots=True)
class Init:
    """A home. `created` and `kept` are paths within it."""

    home: str
    peer_id: str
    config: str
    created: tuple[str, ...]
    kept: tuple[str, ...]


COLUMNS = (
    Column("peer id", lambda made: made.peer_id),
    Column("home", lambda made: made.home),
    Column("config", lambda made: made.config),
)


@app.command()
@page(
    examples=(
        "rage init",
        "rage init --org acme --region eu-west",
        "rage init --org acme --profile spoke --hub /dns4/hub.acme.example/tcp/4001/p2p/12D3KooW...",
        'RAGE_HOME="$PWD/.rage" rage init -q    # in CI: prints the peer id; a second run changes nothing',
    ),
    exits=(4, 9, 11),
)
def init(
    org: Annotated[str, typer.Option("--org", metavar="ORG", help="Identifier of your organisation.")] = "",
    region: Annotated[str, typer.Option("--region", metavar="REGION", help="Where this node stands.")] = "",
    profile: Annotated[
        str, typer.Option("--profile", metavar="PROFILE", help=f"A role in a topology: {', '.join(PROFILES)}.")
    ] = "",
    hub: Annotated[str, typer.Option("--hub", metavar="MULTIADDR", help="Of a spoke: where its hub listens.")] = "",
    tag: Annotated[
        list[str], typer.Option("--tag", metavar="TAG", help="Of a selective spoke: what it takes; repeatable.")
    ] = [],  # noqa: B006
) -> None:
    """Make a home with an identity, a configuration and an empty store; what exists is left as it is."""
    from rage_net import home as homes
    from rage_net.libp2p.peer_id import PeerId

    place = session.home()
    settings = settings_of(profile, hub, tag) if profile or hub or tag else {}
    made = homes.init(place, organization_id=org, region=region, settings=settings, templates=templates())
    peer_id = str(PeerId.from_public_key(homes.load_identity(place.identity).public_key()))
    result = Init(str(place.root), peer_id, str(place.network_yaml), made.created, made.kept)
    render(result, COLUMNS, identifier=lambda it: it.peer_id)
    say("next: rage cert request -o node.csr" if org else "next: rage chunk put FILE  |  rage node start")


def templates() -> dict[str, str]:
    """The commented configuration files that rage ships, by file name."""
    package = Path(__file__).parent.parent
    shipped = package / "_data" / "config"
    directory = shipped if shipped.is_dir() else package.parent / "config"
    return {path.name: path.read_text("utf-8") for path in sorted(directory.glob("*.yaml"))}
