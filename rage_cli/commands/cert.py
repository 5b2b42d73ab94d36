"""rage cert: certificates, and the CA that signs them. Works on files alone, but for `revoke` and `renew`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from rage_cli.command import noun, page
from rage_cli.options import options
from rage_cli.output import Column, chosen_format, confirm, render, say
from rage_net.errors import EXIT_FINDINGS

app = noun("Make, sign, check and revoke certificates.")
ca = noun("The organisation's CA: make it, replace it, let it speak for others.")
app.add_typer(ca, name="ca", help="The organisation's CA: make it, replace it, let it speak for others.")

Org = Annotated[
    str, typer.Option("--org", metavar="ORG", help="The organisation; that of the configuration if left out.")
]
Out = Annotated[str, typer.Option("--out", "-o", metavar="FILE|-", help="Write the PEM to a file; - is stdout.")]
PassphraseFile = Annotated[
    str,
    typer.Option(
        metavar="FILE|-",
        help="The CA's passphrase: first line of a file or stdin [RAGE_CA_PASSPHRASE, RAGE_CA_PASSPHRASE_FILE].",
    ),
]
Capability = Annotated[
    list[str],
    typer.Option(metavar="NAME", help="One of admin, discovery, enrol, federation, search, storage; repeatable."),
]
CaFile = Annotated[list[str], typer.Option("--ca", metavar="FILE", help="A CA to trust; repeatable.")]
OneFile = Annotated[str, typer.Argument(metavar="[FILE|-]", help="A certificate; this home's if left out.")]

CERTIFICATE = (
    Column("serial", lambda it: it.serial),
    Column("what", lambda it: it.what),
    Column("peer id", lambda it: it.peer_id or it.name),
    Column("org", lambda it: it.organization),
    Column("region", lambda it: it.region),
    Column("capabilities", lambda it: it.capabilities),
    Column("from", lambda it: it.not_before, "time"),
    Column("until", lambda it: it.not_after, "time"),
    Column("renews until", lambda it: it.renew_until, "time"),
    Column("sha256", lambda it: it.sha256),
)
CA = (
    Column("org", lambda it: it.organization),
    Column("name", lambda it: it.name),
    Column("serial", lambda it: it.serial),
    Column("until", lambda it: it.not_after, "time"),
    Column("sha256", lambda it: it.sha256),
    Column("certificate", lambda it: it.certificate),
    Column("retired", lambda it: it.retired),
)


def _write_pem(result: Any, out: str, columns: tuple[Column, ...], identifier: Any) -> None:
    """The PEM is the answer, on stdout or in a file; `--json` holds it, and with a file or `-q` the rest is shown."""
    if out and out != "-":
        from rage_cli.files import FileSink

        with FileSink(out) as sink:
            sink.write(result.pem.encode())
    if (out and out != "-") or chosen_format() in ("json", "ndjson", "id"):
        render(result, columns, identifier=identifier)
    else:
        sys.stdout.write(result.pem)


# --- the CA -----------------------------------------------------------------------------------------------------------


@ca.command("init")
@page(
    examples=(
        "rage cert ca init --org acme",
        "rage cert ca init --org acme --passphrase-file ca.pass",
        "RAGE_CA_PASSPHRASE_FILE=$SECRETS/ca rage cert ca init --org acme -q    # in CI: prints the CA's SHA-256",
    ),
    exits=(4, 5, 9, 11),
)
def ca_init(
    org: Org = "",
    years: Annotated[float, typer.Option(metavar="N", help="Its life, 1 to 30 years.")] = 10,
    passphrase_file: PassphraseFile = "",
) -> None:
    """Make the organisation's CA in this home; its key is kept encrypted, and this home trusts it."""
    from rage_cli import authorities

    render(authorities.init(org, years, passphrase_file), CA, identifier=lambda it: it.sha256)
    say("keep a copy of certs/ca and its passphrase where this machine's fate is not shared")
    say(
        "next: rage cert request --capability storage --capability admin | rage cert sign - --yes | rage cert install -"
    )


@ca.command("show")
@page(
    examples=(
        "rage cert ca show",
        "rage cert ca show --pem > acme-ca.crt    # what other nodes and organisations are given",
        "rage cert ca show --json | jq -r .sha256    # in CI",
    ),
    exits=(4, 5),
)
def ca_show(
    as_pem: Annotated[bool, typer.Option("--pem", help="Print the certificate itself.")] = False,
) -> None:
    """Show the CA that is kept here."""
    from rage_cli import authorities

    found = authorities.show()
    if as_pem:
        _write_pem(found, "", CA, lambda it: it.sha256)
    else:
        render(found, CA, identifier=lambda it: it.sha256)


@ca.command("rotate")
@page(
    examples=(
        "rage cert ca rotate --dry-run",
        "rage cert ca rotate",
        "rage cert ca rotate --withdraw    # once the nodes have renewed",
        "rage cert ca rotate --yes --passphrase-file ca.pass -q    # in CI",
    ),
    exits=(4, 5, 9, 11),
)
def ca_rotate(
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Trust the CA before this one no longer.")] = False,
    years: Annotated[float, typer.Option(metavar="N", help="The new one's life, 1 to 30 years.")] = 10,
    passphrase_file: PassphraseFile = "",
) -> None:
    """Replace the CA: both are trusted until the old one is withdrawn, and the passphrase stays."""
    from rage_cli import authorities

    plan, of = authorities.withdrawal_plan() if withdraw else authorities.rotation_plan()
    if options.dry_run:
        sys.stderr.write(f"dry run: {plan}\n")
        result = authorities.show()
    else:
        confirm(plan)
        result = authorities.withdraw(of) if withdraw else authorities.rotate(of, years, passphrase_file)  # type: ignore[arg-type]
    render(result, CA, identifier=lambda it: it.sha256)


ENROL = (
    Column("org", lambda it: it.organization),
    Column("name", lambda it: it.name),
    Column("serial", lambda it: it.serial),
    Column("gives", lambda it: it.capabilities),
    Column("until", lambda it: it.not_after, "time"),
    Column("key", lambda it: it.key),
    Column("certificate", lambda it: it.certificate),
)


@ca.command("enrol")
@page(
    examples=(
        "rage cert ca enrol",
        "rage cert ca enrol -o enrol-node --capability storage    # then copy both files into that node's certs/",
        "rage cert ca enrol --passphrase-file ca.pass --enrol-passphrase-file enrol.pass -q    # in CI",
    ),
    exits=(4, 5, 9, 11),
)
def ca_enrol(
    capability: Capability = ["storage", "search", "federation", "discovery", "enrol"],  # noqa: B006
    days: Annotated[float, typer.Option(metavar="N", help="Its life, 1 to 1095 days.")] = 365,
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Where; this home's certs/ if left out.")] = "",
    passphrase_file: PassphraseFile = "",
    enrol_passphrase_file: Annotated[
        str, typer.Option(metavar="FILE", help="The new CA's passphrase [RAGE_ENROL_PASSPHRASE, ..._FILE].")
    ] = "",
) -> None:
    """Make a CA with which a node renews others' certificates, with no more than these capabilities."""
    from rage_cli import authorities

    made = authorities.enrol(capability, days, out, (passphrase_file, enrol_passphrase_file))
    render(made, ENROL, identifier=lambda it: it.serial)
    say("that node's own certificate needs the capability enrol")


@ca.command("cross")
@page(
    examples=(
        "rage cert ca cross --ca globex.crt -o globex-by-acme.crt",
        "rage cert ca cross --ca globex.crt --path 2 -o globex-by-acme.crt    # and whom globex vouches for",
        "rage cert ca cross --ca globex.crt --yes --passphrase-file ca.pass > cross.crt    # in CI",
    ),
    exits=(4, 5, 11),
)
def ca_cross(
    ca_file: Annotated[str, typer.Option("--ca", metavar="FILE", help="The other organisation's CA.")],
    out: Out = "",
    path: Annotated[int, typer.Option(metavar="N", min=0, max=3, help="CAs that may stand beneath it.")] = 1,
    days: Annotated[float, typer.Option(metavar="N", help="For how long, 1 to 1095 days.")] = 365,
    passphrase_file: PassphraseFile = "",
) -> None:
    """Vouch for another organisation's CA, for nodes that trust ours by web-of-trust; its nodes install the answer."""
    from rage_cli import authorities

    theirs = authorities.foreign_ca(ca_file)
    confirm(f"Vouch for {theirs.name}, SHA-256 {theirs.fingerprint.hex()}, as the CA of {theirs.organization}?")
    _write_pem(authorities.cross(theirs, path, days, passphrase_file), out, CERTIFICATE, lambda it: it.serial)


# --- certificates -----------------------------------------------------------------------------------------------------

REQUEST = (
    Column("peer id", lambda it: it.peer_id),
    Column("org", lambda it: it.organization),
    Column("region", lambda it: it.region),
    Column("capabilities", lambda it: it.capabilities),
)


@app.command()
@page(
    examples=(
        "rage cert request -o node.csr",
        "rage cert request --capability storage --capability admin -o node.csr",
        "rage cert request | ssh ca.acme.example rage cert sign - --yes > node.crt    # in CI",
    ),
    exits=(4, 5, 11),
)
def request(
    org: Org = "",
    region: Annotated[str, typer.Option(metavar="REGION", help="Where this node stands.")] = "",
    capability: Capability = ["storage"],  # noqa: B006
    read_only: Annotated[bool, typer.Option("--read-only", help="Ask for no capability: it writes nothing.")] = False,
    out: Out = "",
) -> None:
    """Ask for a certificate of this home's identity; --capability says what it shall do."""
    from rage_cli import certificates

    made = certificates.request(org, region, () if read_only else capability)
    _write_pem(made, out, REQUEST, lambda it: it.peer_id)


@app.command()
@page(
    examples=(
        "rage cert sign node.csr -o node.crt",
        "rage cert sign node.csr --days 30 --capability storage -o node.crt",
        "rage cert request | rage cert sign - --yes --passphrase-file ca.pass | rage cert install -    # in CI",
    ),
    exits=(4, 5, 11),
)
def sign(
    csr: Annotated[str, typer.Argument(metavar="CSR|-", help="A CSR, or - for stdin.")],
    out: Out = "",
    days: Annotated[float, typer.Option(metavar="N", help="Its life, 1 to 90 days.")] = 7,
    renew_days: Annotated[float, typer.Option(metavar="N", help="For how long the node may renew by itself.")] = 365,
    capability: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Instead of what is asked for; repeatable.")
    ] = None,
    passphrase_file: PassphraseFile = "",
) -> None:
    """Sign a CSR with the CA that is kept here, once you have seen what it certifies."""
    from rage_cli import authorities

    wished = authorities.wish(csr, capability or None, days, renew_days)
    if options.dry_run:
        render(authorities.unsigned(wished), CERTIFICATE, identifier=lambda it: it.peer_id)
        return
    if options.yes:
        sys.stderr.write(str(wished).removesuffix("?") + ".\n")
    confirm(str(wished))
    made = authorities.sign(wished, passphrase_file, stdin_is_free=csr != "-")
    _write_pem(made, out, CERTIFICATE, lambda it: it.serial)


INSTALLED = (
    Column("what", lambda it: it.what),
    Column("serial", lambda it: it.serial),
    Column("org", lambda it: it.organization),
    Column("certificate", lambda it: it.certificate),
    Column("ca", lambda it: it.ca),
    Column("keys set", lambda it: it.config),
)


@app.command()
@page(
    examples=(
        "rage cert install node.crt --ca acme-ca.crt",
        "rage cert install --ca acme-new-ca.crt    # a CA that replaces another",
        "rage cert install acme-by-globex.crt    # a cross-signature, shown to globex's nodes from then on",
        "ssh ca.acme.example rage cert sign - --yes < node.csr | rage cert install - -q    # in CI",
    ),
    exits=(4, 5, 9, 10, 11),
)
def install(
    crt: Annotated[str, typer.Argument(metavar="[CRT|-]", help="This node's certificate, or - for stdin.")] = "",
    ca_file: CaFile = [],  # noqa: B006
) -> None:
    """Make a certificate this node's own, trust its CA, and say so in network.yaml."""
    from rage_cli import certificates

    done = certificates.install(crt, ca_file)
    render(done, INSTALLED, identifier=lambda it: it.serial)
    if not options.dry_run:
        say("a running node takes new certificates up by itself; keys of network.yaml need: rage node stop, then start")


@app.command()
@page(
    examples=(
        "rage cert show",
        "rage cert show node.crt",
        "rage cert show --json | jq .not_after    # in CI",
    ),
    exits=(4, 5),
)
def show(path: OneFile = "") -> None:
    """Show what a certificate says; whether it is believed says rage cert verify."""
    from rage_cli import certificates
    from rage_net import certfiles

    _, _, files = certificates.here()
    chain = certificates.read_pem(path) if path else certfiles.read_certificates(files.certificate)
    render(certificates.view(chain), CERTIFICATE, identifier=lambda it: it.serial)


CHECK = (
    Column("ok", lambda it: it.ok),
    Column("serial", lambda it: it.serial),
    Column("org", lambda it: it.organization),
    Column("peer id", lambda it: it.peer_id),
    Column("by", lambda it: it.anchor),
    Column("problems", lambda it: tuple(f"{one.id}: {one.message}; {one.why}" for one in it.problems), "prose"),
    Column("mend", lambda it: tuple(line for one in it.problems for line in one.mend), "prose"),
)


@app.command()
@page(
    examples=(
        "rage cert verify",
        "rage cert verify node.crt --ca acme-ca.crt --peer 12D3KooW...",
        "rage cert verify node.crt -q || echo 'not believed'    # in CI: prints the id of each problem",
    ),
    exits=(4, 5, 6, 8),
)
def verify(
    path: OneFile = "",
    ca_file: CaFile = [],  # noqa: B006
    peer: Annotated[str, typer.Option(metavar="PEER", help="Whose it must be.")] = "",
) -> None:
    """Say whether a certificate is believed here: its chain, its time, its revocation; --ca instead of our own CAs."""
    from rage_cli import certificates

    found = certificates.check(path, ca_file, peer)
    render(found, CHECK, identifier=lambda it: " ".join(one.id for one in it.problems) or "ok")
    if not found.ok:
        raise typer.Exit(EXIT_FINDINGS)


RENEWAL = (
    Column("needs", lambda it: it.needs),
    Column("serial", lambda it: it.serial),
    Column("due", lambda it: it.due_at, "time"),
    Column("until", lambda it: it.not_after, "time"),
    Column("left", lambda it: max(it.left_s, 0.0), "seconds"),
)


@app.command("needs-renewal")
@page(
    examples=(
        "rage cert needs-renewal",
        "rage cert needs-renewal node.crt --within 2d",
        "rage cert needs-renewal -q || rage cert renew    # in CI: 0 is nothing to do, 6 is renew now",
    ),
    exits=(4, 5, 6),
)
def needs_renewal(
    path: OneFile = "",
    within: Annotated[
        str, typer.Option(metavar="33%|DURATION", help="Due when less is left; a third of the life if left out.")
    ] = "",
) -> None:
    """Say whether a certificate is due to be renewed: exit 0 is nothing to do, 6 is renew now."""
    from rage_cli import certificates

    found = certificates.renewal(path, within)
    render(found, RENEWAL, identifier=lambda it: "renew" if it.needs else "ok")
    if found.needs:
        raise typer.Exit(EXIT_FINDINGS)


RENEWED = (
    Column("renewed", lambda it: it.renewed),
    Column("serial", lambda it: it.serial),
    Column("org", lambda it: it.organization),
    Column("until", lambda it: it.not_after, "time"),
    Column("renews until", lambda it: it.renew_until, "time"),
    Column("by", lambda it: it.by),
)


@app.command()
@page(
    examples=(
        "rage cert renew",
        "rage cert renew --if-needed",
        "rage cert renew --if-needed -q    # in CI, once a day: prints the serial that holds",
    ),
    exits=(4, 5, 7),
)
def renew(
    if_needed: Annotated[bool, typer.Option("--if-needed", help="Only when two thirds of its life are over.")] = False,
    passphrase_file: PassphraseFile = "",
) -> None:
    """Replace this node's certificate: signed by the CA kept here, else by a node that enrols, asked by ours."""
    from rage_cli import certificates

    found = certificates.renew(if_needed, passphrase_file)
    render(found, RENEWED, identifier=lambda it: it.serial)


REVOKED = (
    Column("serial", lambda it: it.serial),
    Column("peer id", lambda it: it.peer_id),
    Column("reason", lambda it: it.reason),
    Column("published", lambda it: it.published),
)


@app.command()
@page(
    examples=(
        "rage cert revoke 8f3a2c1d00e5b7a9",
        "rage cert revoke 12D3KooW... --reason key-compromise    # all of a peer, for good",
        "rage cert revoke 8f3a2c1d00e5b7a9 --yes -q    # in CI",
    ),
    exits=(4, 5, 7, 11),
)
def revoke(
    target: Annotated[str, typer.Argument(metavar="SERIAL|PEER", help="A certificate, or all of a peer for good.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why: key-compromise, superseded, or your words.")] = "",
    publish: Annotated[bool, typer.Option("--publish/--no-publish", help="Tell the organisation's nodes.")] = True,
) -> None:
    """Withdraw a certificate, or a peer: remembered by the CA kept here, and published to the organisation's nodes."""
    from rage_cli import authorities, revoking

    serial, peer_id = authorities.target_of(target)
    what = (
        f"the certificate {serial}" + (f" of {peer_id}" if peer_id else "") if serial else f"all of {peer_id}, for good"
    )
    if not options.dry_run:
        confirm(f"Revoke {what}?")
    render(revoking.revoke(serial, peer_id, reason, publish), REVOKED, identifier=lambda it: it.serial or it.peer_id)


ISSUED = (
    Column("serial", lambda it: it.serial),
    Column("what", lambda it: it.what),
    Column("name", lambda it: it.name),
    Column("state", lambda it: it.state),
    Column("until", lambda it: it.not_after, "time"),
    Column("org", lambda it: it.organization, wide=True),
    Column("region", lambda it: it.region, wide=True),
    Column("capabilities", lambda it: it.capabilities, wide=True),
    Column("by", lambda it: it.by, wide=True),
)


@app.command("list")
@page(
    examples=(
        "rage cert list",
        "rage cert list --json | jq '.items[] | select(.state == \"revoked\")'",
        "rage cert list -q | wc -l    # in CI",
    ),
    exits=(4, 5),
)
def list_() -> None:
    """List what was signed here, newest first."""
    import time

    from rage_cli import certificates
    from rage_net import certfiles

    _, _, files = certificates.here()
    found = certificates.listed(files, certfiles.read_issued(files), time.time())
    render(found, ISSUED, items=found.items, identifier=lambda it: it.serial)


CRL = (
    Column("org", lambda it: it.organization),
    Column("number", lambda it: it.number),
    Column("revoked", lambda it: it.revoked, "count"),
    Column("next", lambda it: it.next_update, "time"),
)


@app.command()
@page(
    examples=(
        "rage cert crl -o acme.crl",
        "rage cert crl --days 1 | openssl crl -text -noout",
        "rage cert crl --passphrase-file ca.pass -o /var/www/acme.crl -q    # in CI, once a day",
    ),
    exits=(4, 5, 11),
)
def crl(
    out: Out = "",
    days: Annotated[float, typer.Option(metavar="N", min=0.01, max=365, help="When the next one comes.")] = 7,
    passphrase_file: PassphraseFile = "",
) -> None:
    """Write the CA's list of revoked certificates, for programs that read X.509; nodes need none."""
    from rage_cli import authorities

    _write_pem(authorities.crl(days, passphrase_file), out, CRL, lambda it: str(it.number))
