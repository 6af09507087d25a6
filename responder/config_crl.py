"""The ``[ca.crl]`` table: whether a CA's CRLs are issued or mirrored, by which key, how often, in how many parts.

What a profile's standards bound or forbid is refused here, each by its clause. config.py puts the table into a CA's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from responder.config_types import (
    DAY_S,
    HOUR_S,
    Duration,
    FilePath,
    Section,
    SignerConfig,
    existing,
    key_reference,
    relative_to_file,
)

FULL = "full"  # the slot of a CA's one complete CRL; the complete CRL of a shard has the shard's number
DELTA = "delta"
SHARD = "{shard}"
MOST_SHARDS = 4096
MOST_CRL_BYTES = 4 * 1024 * 1024 * 1024
MIRROR_EVERY = "15m"

# By profile, and whether the CRL is of CA certificates alone: the most that nextUpdate may be after thisUpdate, and the
# most from one to the next, of webpki where certificates name OCSP.
_MOST_S = {
    ("webpki", False): (10 * DAY_S, 7 * DAY_S, "BR §7.2, §4.9.7"),
    ("webpki", True): (365 * DAY_S, 365 * DAY_S, "BR §7.2, §4.9.7"),
    ("etsi", False): (366 * DAY_S, DAY_S, "EN 319 411-1 CSS-6.3.9-05"),
    ("etsi", True): (365 * DAY_S, 365 * DAY_S, "EN 319 411-1 CSS-6.3.9-12"),
    ("private", False): (366 * DAY_S, 366 * DAY_S, ""),
    ("private", True): (366 * DAY_S, 366 * DAY_S, ""),
}


class CRLSignerConfig(SignerConfig):
    """The key of a CA's CRLs, in the shape in which every key is opened."""

    table: ClassVar[str] = "crl"


def mirror_reference(value: str, info: ValidationInfo) -> str:
    """Take a URL as it is, anything else as a path relative to the configuration file; nothing need be there yet."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
        if not value.startswith(("http://", "https://", "ldap://")):
            raise ValueError("must be a file, or a URL that starts with http://, https:// or ldap://")
        return value
    return str(relative_to_file(Path(value.removeprefix("file:")), info))


def previous_reference(value: str, info: ValidationInfo) -> str:
    """Take a URL as it is, anything else as a file that exists."""
    found = mirror_reference(value, info)
    return found if "://" in found else str(existing(Path(found)))


Mirror = Annotated[str, AfterValidator(mirror_reference)]


class CRLConfig(Section):
    """A CA's CRLs: issued here, where the CA itself has stopped issuing them, or mirrored from where it puts them."""

    issue: bool = Field(
        False,
        description="true: the CA itself issues no CRLs any more, and they are issued here, above its last number (`previous`). Otherwise `mirror` names where it puts them.",
    )
    key: Annotated[str, AfterValidator(key_reference)] | None = Field(
        None,
        description="PEM file of the key that signs CRLs, or a pkcs11: URI (RFC 7512): the CA's own key, unless `certificate` names another. Required with `issue`.",
    )
    certificate: FilePath | None = Field(
        None,
        description="PEM of the key's own certificate, where the CA lets another key sign its CRLs: its keyUsage must assert cRLSign; with another subject than the CA's, the CRLs are indirect ones. Absent: the CA's. Not in webpki (BR §7.2.2.1).",
    )
    pin_file: FilePath | None = Field(
        None, description="File whose first line is the token's user PIN or the PEM key's passphrase."
    )
    pin_env: str | None = Field(None, description="Environment variable that holds it.")
    rsa_padding: Literal["pkcs1", "pss"] | None = Field(
        None, description="How an RSA key signs CRLs; as in ocsp. Other keys refuse it."
    )
    validity: Duration = Field(7 * DAY_S, ge=60, description="nextUpdate - thisUpdate of full CRLs; profiles bound it.")
    every: Duration = Field(
        12 * HOUR_S,
        ge=1,
        description="How often a full CRL is issued, whether or not anything changed; profiles bound it. With `mirror`, how often it is looked for, by default every 15m.",
    )
    delta_every: Duration | None = Field(
        None,
        ge=1,
        description="How often a delta CRL is issued between full ones, less than `every`; absent: there are none.",
    )
    shards: int = Field(
        1,
        ge=1,
        le=MOST_SHARDS,
        description="CRLs that share a CA's certificates, by serial number modulo `shards`, each with its critical issuingDistributionPoint. It can never change once the first was published: a certificate names its shard's URL.",
    )
    url: str | None = Field(
        None,
        max_length=1024,
        description="Where clients fetch the CRL: exactly the URL in the certificates' cRLDistributionPoints. With more than one shard it holds `{shard}`. Required with `shards`, with `scope` and with `delta_every`.",
    )
    delta_url: str | None = Field(
        None,
        max_length=1024,
        description="Where clients fetch the delta CRL, for freshestCRL; absent: `url` with -delta before its .crl.",
    )
    scope: Literal["all", "users", "cas"] = Field(
        "all",
        description="Which certificates the CA issues: users or cas alone says so in the issuingDistributionPoint (onlyContainsUserCerts, onlyContainsCACerts) and lets CRLs of CA certificates last longer; all says nothing.",
    )
    expired: Literal["drop", "keep"] = Field(
        "drop",
        description="What becomes of a revoked certificate that has expired: drop after one more full CRL, or keep for ever, with expiredCertsOnCRL (EN 319 411-2 CSS-6.3.10-04). Not keep in webpki.",
    )
    next_publish: bool = Field(
        False,
        description="Whether CRLs say when the next one comes, in Microsoft's Next CRL Publish (1.3.6.1.4.1.311.21.4).",
    )
    on_revocation: bool = Field(
        True,
        description="Whether a revocation is published at once, by a delta CRL where there are any, else a full one.",
    )
    debounce: Duration = Field(
        10,
        le=HOUR_S,
        description="How long after a revocation others are waited for, so that many become one CRL; a CRL that takes long to make is made at most once in twenty times as long.",
    )
    previous: Annotated[str, AfterValidator(previous_reference)] | None = Field(
        None, description="File or URL of the last CRL that the CA itself issued: numbers go on above its cRLNumber."
    )
    share: bool = Field(
        True,
        description="Whether CRLs are put into an external Redis too, from where the machines that run `revocast serve` fetch them.",
    )
    mirror: Mirror | None = Field(
        None, description="Where the CA puts its full CRL: a file, or a URL with http://, https:// or ldap://."
    )
    mirror_delta: Mirror | None = Field(None, description="Where the CA puts its delta CRL, if it issues any.")
    max_bytes: int = Field(
        512 * 1024 * 1024, ge=1024, le=MOST_CRL_BYTES, description="Largest CRL that is taken from `mirror`."
    )

    large_bytes: int = Field(
        10_000_000,
        ge=1024,
        description="Size of a published CRL above which a log line, a metric and `revocast check` say so; 10 MB is the most that Microsoft's programme wants without OCSP (3.2.3).",
    )
    certificates_name_ocsp: bool = Field(
        False,
        description="Whether every certificate that the CA issues names an OCSP responder in its authorityInfoAccess: then `every` may be 7 days in webpki, else 4 (BR §4.9.7).",
    )

    @model_validator(mode="before")
    @classmethod
    def _mirror_looks_often(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "mirror" in raw and "every" not in raw:
            return {**raw, "every": MIRROR_EVERY}
        return raw

    @model_validator(mode="after")
    def _fits_together(self) -> CRLConfig:
        if self.issue == (self.mirror is not None):
            raise ValueError(
                "either issue = true, which says that the CA issues no CRLs itself any more, or mirror, where it puts them; not both: two issuers would number under one name (RFC 5280 §5.2.3)"
            )
        if self.mirror is not None:
            return self
        if self.key is None:
            raise ValueError("key is required where issue = true: the CA's own key, or that of certificate")
        if self.every >= self.validity:
            raise ValueError(f"every must be less than validity ({self.validity} s), and is {self.every} s")
        if self.delta_every is not None and self.delta_every >= self.every:
            raise ValueError(f"delta_every must be less than every ({self.every} s), and is {self.delta_every} s")
        self._check_urls()
        return self

    def _check_urls(self) -> None:
        if self.url is None:
            for key, needs in (("shards", self.shards > 1), ("scope", self.scope != "all")):
                if (
                    needs
                ):  # RFC 5280 §5.2.5; Mozilla §6.1.2 asks for the URL on each CRL that is not of all certificates
                    raise ValueError(f"url is required with {key}: the issuingDistributionPoint names it")
            if self.delta_every is not None and self.delta_url is None:
                raise ValueError("url or delta_url is required with delta_every: freshestCRL names it")
        for key, url in (("url", self.url), ("delta_url", self.delta_url)):
            if url is None:
                continue
            if not re.fullmatch(r"(https?|ldap)://[!-~]+", url) or not urlsplit(url).netloc:
                raise ValueError(f"{key} must be a URL that starts with http://, https:// or ldap://, and is {url!r}")
            if (SHARD in url) != (self.shards > 1):
                raise ValueError(f"{key} must hold {SHARD} where shards is more than 1, and only there, and is {url!r}")
        if self.delta_every is not None and self.delta_url is None and not str(self.url).endswith(".crl"):
            raise ValueError(
                f"delta_url is required with delta_every where url does not end with .crl (got {self.url!r})"
            )

    @property
    def signer(self) -> CRLSignerConfig:
        """The key, as signing/open.py takes it; only where CRLs are issued."""
        assert self.key is not None  # noqa: S101 - issue = true has one
        return CRLSignerConfig.model_construct(
            certificate=self.certificate,
            key=self.key,
            pin_file=self.pin_file,
            pin_env=self.pin_env,
            sessions=1,
            rsa_padding=self.rsa_padding,
        )

    @property
    def complete_slots(self) -> tuple[str, ...]:
        """The slots of complete CRLs in the depot: ``full``, or each shard's number."""
        return (FULL,) if self.shards == 1 else tuple(map(str, range(self.shards)))

    def url_of(self, slot: str) -> str | None:
        """Return where the CRL of a slot is fetched, complete or delta; None where nothing says so."""
        shard = slot.removesuffix(f"-{DELTA}")
        if slot == DELTA or slot.endswith(f"-{DELTA}"):
            template = self.delta_url
            if template is None and self.url is not None and self.url.endswith(".crl"):
                template = self.url.removesuffix(".crl") + f"-{DELTA}.crl"
        else:
            template = self.url
        return template.replace(SHARD, shard) if template is not None else None


def delta_slot(slot: str) -> str:
    """Return the slot of the delta CRLs that belong to a slot of complete ones."""
    return DELTA if slot == FULL else f"{slot}-{DELTA}"


def longest_validity(crl: CRLConfig, profile: str) -> int:
    """Return the most seconds that nextUpdate may be after thisUpdate."""
    return _MOST_S[profile, crl.scope == "cas"][0]


def check_profile(crl: CRLConfig, profile: str) -> None:
    """Refuse what a profile's standards forbid, by a ValueError that names the key; a mirrored CA answers for its own."""
    if not crl.issue:
        return
    got = f"in profile {profile}"
    longest, most_apart, clause = _MOST_S[profile, crl.scope == "cas"]
    said = f" ({clause})" if clause else ""
    if crl.validity > longest:
        raise ValueError(f"crl.validity must be at most {longest // DAY_S}d {got}{said}, and is {crl.validity} s")
    apart, key = crl.every, "every"
    if profile == "etsi" and crl.delta_every is not None:
        apart, key = crl.delta_every, "delta_every"  # CSS-6.3.9-05: a CRL, or a delta CRL
    if profile == "webpki" and crl.scope != "cas" and not crl.certificates_name_ocsp and apart > 4 * DAY_S:
        raise ValueError(
            f"crl.every must be at most 4d {got}, or at most 7d with certificates_name_ocsp = true, where every certificate names an OCSP responder (BR §4.9.7), and is {apart} s"
        )
    if apart > most_apart:
        raise ValueError(f"crl.{key} must be at most {most_apart // DAY_S}d {got}{said}, and is {apart} s")
    # A delta CRL is none of the CRLs of BR §7.2, and what reads those reads no deltas.
    apart, key = (
        (crl.every, "every") if profile == "webpki" or crl.delta_every is None else (crl.delta_every, "delta_every")
    )
    is_full_at_once = crl.on_revocation and (crl.delta_every is None or profile != "webpki")
    if profile != "private" and apart > DAY_S and not is_full_at_once:
        because = "delta_every" if crl.on_revocation else "on_revocation = false"
        clause = "BR §4.9.7" if profile == "webpki" else "EN 319 411-1 CSS-6.3.9-12 to -14"
        raise ValueError(
            f"crl.{key} must be at most 24h with {because} {got}, since a revocation is on a CRL within that time ({clause}), and is {apart} s"
        )
    if profile != "webpki":
        return
    if crl.certificate is not None:
        raise ValueError(f"crl.certificate must be absent {got}: the CA itself signs its CRLs (BR §7.2, §7.2.2.1)")
    if crl.expired == "keep":
        raise ValueError(f'crl.expired must be "drop" {got} (BR §7.2), and is "keep"')
    for name, url in (("url", crl.url), ("delta_url", crl.delta_url)):
        if url is not None and not url.startswith("http://"):
            raise ValueError(f"crl.{name} must start with http:// {got} (BR §7.1.2.11.2), and is {url!r}")
