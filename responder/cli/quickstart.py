"""``revocast quickstart``: a CA, its certificates, a signer, a responder and a CRL, in one command."""

from __future__ import annotations

from base64 import b64encode
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from responder.cli.demo_ca import DemoCA, find_demo_ca, make_demo_ca
from responder.cli.operate import supervise
from responder.config import load_config, parse_listen
from responder.config_crl import FULL
from responder.errors import OperatorError
from responder.log import configure_logging
from responder.roles.presign import presign_all
from responder.roles.publish import publish_all
from responder.roles.supervisor import ALL_ROLES
from responder.store.embedded import connect_or_start

MAX_CERTIFICATES = 1_000_000


def quickstart(
    directory: Annotated[Path, typer.Option("--dir", help="Where the CA is made.")] = Path("quickstart"),
    certificates: Annotated[int, typer.Option(min=1, max=MAX_CERTIFICATES, help="How many certificates.")] = 1000,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to serve.")] = "127.0.0.1:8080",
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve when all is signed.")] = True,
) -> None:
    """Make a CA in OpenSSL's layout, load it, sign every answer, issue its CRL, and serve."""
    configure_logging("quickstart", "warning", "console")
    try:
        parse_listen(listen)
    except ValueError as error:
        raise OperatorError(f"--listen {listen}: {error}") from error
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        demo = _made_or_found(directory, certificates, listen, progress)
        config = load_config(demo.config)
        with connect_or_start(config.data_dir):
            loading = progress.add_task("Loading index.txt", total=None)
            (load_all,) = entry_points(group="revocast.services", name="load")
            report = load_all.load()(demo.config, lambda done: progress.update(loading, completed=done))
            progress.update(loading, total=report.listed, completed=report.listed)
            signing = progress.add_task("Signing every answer", total=report.listed)
            presign_all(demo.config, lambda done: progress.update(signing, completed=min(done, report.listed)))
            progress.update(signing, completed=report.listed)
            listed = progress.add_task("Issuing the CRL", total=None)
            crls = publish_all(demo.config, lambda _, done: progress.update(listed, completed=done))
            entries = sum(crl.entries for crl in crls)
            progress.update(listed, total=entries, completed=entries)
    crl = config.ca[0].crl
    address = listen if not config.http.listen else _spell(config.http.listen[0])
    _print_commands(demo, address, crl.url_of(FULL) if crl is not None else None)
    if serve:
        supervise(demo.config, ALL_ROLES)


def _made_or_found(directory: Path, certificates: int, listen: str, progress: Progress) -> DemoCA:
    """Make the CA, or go on with the one that is there: `make run` twice must not fail."""
    if (directory / "revocast.toml").is_file():
        progress.console.print(f"Going on with the CA in {directory}; remove it to start anew.")
        return find_demo_ca(directory)
    if directory.exists() and any(directory.iterdir()):
        raise OperatorError(f"--dir {directory}: is not empty and holds no quickstart; name another")
    task = progress.add_task("Making certificates", total=certificates)
    return make_demo_ca(directory, certificates, listen, lambda done: progress.update(task, completed=done))


def _spell(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _print_commands(demo: DemoCA, address: str, crl_url: str | None) -> None:
    """Print what to paste into another terminal. ``crl_url`` None: a CA made before there were CRLs."""
    certificates = demo.directory / "newcerts"
    ask = f"openssl ocsp -issuer {demo.directory}/ca.pem -CAfile {demo.directory}/ca.pem -url http://{address}/ -cert"
    read = f"openssl crl -inform DER -in quickstart.crl -CAfile {demo.directory}/ca.pem -noout -crlnumber -nextupdate"
    fetch = (
        f"\n  # the CRL: every revoked certificate\n  curl -sS -o quickstart.crl {crl_url} && {read}\n"
        if crl_url
        else ""
    )
    path = get_path(demo.directory / "ca.pem", certificates / f"{demo.good_serial}.pem")
    print(
        f"""
Everything is signed. Ask in another terminal:

  # says good
  {ask} {certificates}/{demo.good_serial}.pem

  # says revoked
  {ask} {certificates}/{demo.revoked_serial}.pem

  # the same question as a GET
  curl -sS -o answer.der http://{address}/{path} && openssl ocsp -respin answer.der -resp_text -noverify
{fetch}""",
        flush=True,
    )


def get_path(issuer_file: Path, certificate_file: Path) -> str:
    """Return the path of a GET query (RFC 6960 App. A.1) with a SHA-1 CertID, as most clients send."""
    issuer = x509.load_pem_x509_certificate(issuer_file.read_bytes())
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1()).build()  # noqa: S303
    return quote(b64encode(request.public_bytes(serialization.Encoding.DER)), safe="")
