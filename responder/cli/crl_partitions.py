"""``revocast crl partitions``: the CCADB field "JSON Array of Partitioned CRLs" of a sharded CA (Mozilla §6.1.2)."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from responder.cli.crl_named import crl_named
from responder.cli.named import open_config
from responder.config_crl import CRLConfig
from responder.errors import OperatorError, RevocastError
from responder.process import ConfigFile


def partitions(
    config: ConfigFile,
    ca: Annotated[str, typer.Option("--ca", help="The CA, by its name in the configuration.")],
    check: Annotated[
        bool, typer.Option("--check", help="Fetch each CRL, and see that it names its URL. Exit code 1: one does not.")
    ] = False,
) -> None:
    """Print the URLs of a CA's CRLs, which together are its full CRL, as the JSON array that CCADB asks for."""
    _, issuers = open_config(config)
    issuer = issuers.by_name(ca)
    if issuer is None:
        raise OperatorError(f"--ca {ca}: no such CA; there are {', '.join(one.name for one in issuers)}")
    crl = issuer.config.crl
    if crl is None or not crl.issue:
        raise OperatorError(
            f"--ca {ca}: its CRLs are not issued here (crl.issue), so nothing is known of their partitions"
        )
    urls = _urls(crl)
    if crl.shards == 1:
        raise OperatorError(
            f"--ca {ca}: has one full CRL (crl.shards is 1); disclose {urls[0] if urls else 'its URL'} itself"
        )
    typer.echo(json.dumps(urls, indent=1))
    if check and [url for url in urls if not _is_named(url)]:
        raise typer.Exit(1)


def _urls(crl: CRLConfig) -> list[str]:
    return [url for slot in crl.complete_slots if (url := crl.url_of(slot)) is not None]


def _is_named(url: str) -> bool:
    """Say whether the CRL at a URL names it, octet by octet, in its issuingDistributionPoint; complain where not."""
    try:
        with crl_named(url) as crl:
            if url in crl.urls:
                return True
            problem = f"its issuingDistributionPoint names {', '.join(crl.urls) or 'no URL'}"
    except RevocastError as error:
        problem = str(error)
    typer.echo(f"{url}: {problem.removeprefix(f'{url}: ')}", err=True)
    return False
