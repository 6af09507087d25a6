"""A CRL on a web server: asked for again only if it has changed, within bounds of size, time and redirects.

RFC 2585 §4 (CRLs over HTTP), RFC 9110 §13 (conditional requests), RFC 9111 §5.2.2.1 (max-age).
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx

from responder.crl.fetch import Fetched, FetchTerms, Incoming
from responder.errors import SourceUnavailable

MAX_REDIRECTS = 5
# RFC 9111 lets us keep a CRL for its max-age; but a CA whose server says a week must not have a revocation wait that long.
MAX_AGE_HEEDED_S = 3_600.0
USER_AGENT = "revocast"


class HTTPPlace:
    """A URL of http or https; asked with If-None-Match and If-Modified-Since."""

    def __init__(self, url: str, terms: FetchTerms, directory: Path) -> None:
        """Raises ValueError for a URL that is none."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{url!r} is no URL: {error}") from error
        if not parsed.host:
            raise ValueError(f"{url!r} names no host")
        self._url = parsed
        self.name = str(parsed.copy_with(username=None, password=None))
        self._terms = terms
        self._directory = directory
        self._trusted: ssl.SSLContext | None = None
        self._validators: dict[str, str] = {}
        self._sha256: str | None = None
        self.fresh_for_s = 0.0

    def forget(self) -> None:
        """Ask for all of it once more; see ``Place``."""
        self._validators, self._sha256 = {}, None

    def fetch(self) -> Fetched | None:
        """Ask for it; see ``Place``."""
        try:
            return asyncio.run(self._fetch())
        except TimeoutError as error:
            raise SourceUnavailable(f"{self.name}: not there within {self._terms.timeout_s:.0f} s") from error
        except httpx.TimeoutException as error:
            raise SourceUnavailable(f"{self.name}: no answer within {self._terms.idle_s:.0f} s") from error
        except httpx.TooManyRedirects as error:
            raise SourceUnavailable(f"{self.name}: more than {MAX_REDIRECTS} redirects") from error
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise SourceUnavailable(f"{self.name}: {_one_line(error)}") from error

    async def _fetch(self) -> Fetched | None:
        # A time limit over all, since a server may send an octet now and then for ever, also of its header.
        # Compression is not asked for: RFC 2585 and RFC 4387 §2 want the octets as they are, and a few could become very many.
        if self._trusted is None:  # made once: it reads all of the system's CAs
            trust = self._terms.ca_certificate
            self._trusted = ssl.create_default_context(cafile=None if trust is None else str(trust))
        async with (
            asyncio.timeout(self._terms.timeout_s),
            httpx.AsyncClient(
                verify=self._trusted,
                follow_redirects=True,
                max_redirects=MAX_REDIRECTS,
                timeout=self._terms.idle_s,
                headers={
                    "User-Agent": USER_AGENT,
                    "Accept": "application/pkix-crl, */*",
                    "Accept-Encoding": "identity",
                },
            ) as client,
            client.stream("GET", self._url, headers=self._validators) as response,
        ):
            self.fresh_for_s = _fresh_for(response.headers)
            if response.status_code == httpx.codes.NOT_MODIFIED and self._validators:
                return None
            if response.status_code != httpx.codes.OK:
                raise SourceUnavailable(f"{self.name}: HTTP status {response.status_code} {response.reason_phrase}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise SourceUnavailable(
                    f"{self.name}: Content-Encoding {response.headers['Content-Encoding']!r}: not asked for, and not taken"
                )
            with Incoming(self.name, self._directory, self._terms.max_bytes) as incoming:
                if response.headers.get("Content-Length", "").isdigit():
                    incoming.expect(int(response.headers["Content-Length"]))
                async for chunk in response.aiter_raw():
                    incoming.write(chunk)
                fetched = incoming.keep(self._sha256)
            # Only now: what broke off is to be asked for again as a whole.
            self._validators = {
                name: response.headers[theirs]
                for name, theirs in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified"))
                if theirs in response.headers
            }
        if fetched is not None:
            self._sha256 = fetched.sha256
        return fetched


def _fresh_for(headers: httpx.Headers) -> float:
    """Return max-age minus Age, in seconds and bounded; 0 where the server says nothing that can be read."""
    directives = [part.strip().lower() for part in headers.get("Cache-Control", "").split(",")]
    if "no-cache" in directives or "no-store" in directives:
        return 0.0
    age = headers.get("Age", "0")
    for directive in directives:
        name, _, value = directive.partition("=")
        if name == "max-age" and value.strip('"').isdigit() and age.isdigit():
            seconds = float(value.strip('"')) - float(age)
            return min(max(seconds, 0.0), MAX_AGE_HEEDED_S)
    return 0.0


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
