"""A private slapd for one session: a directory with CRLs in it, on a free loopback port. Fixture: slapd.

Its folder is its own, entries are put there with ldap3, and it is ended by its process id.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components import need
from tests.ports import free_port

SLAPD = "/usr/sbin/slapd"
SCHEMA = Path("/etc/ldap/schema/core.schema")
READY_WITHIN_S = 20.0
SUFFIX = "o=Example"
READER, READER_PASSWORD = "cn=reader,o=Example", "readers-word"
ADMIN, _ADMIN_PASSWORD = "cn=admin,o=Example", "admins-word"
PUBLIC = "everybody may read it"


class Slapd:
    """One server: what lies below ``ou=public`` anybody may read, all else the reader."""

    def __init__(self, schema: str = "") -> None:
        """``schema``: further attribute types and object classes, as slapd.conf spells them."""
        self.directory = Path(tempfile.mkdtemp(prefix="rc-slapd-"))
        (self.directory / "db").mkdir()
        self.port = free_port()
        (self.directory / "slapd.conf").write_text(
            f"include {SCHEMA}\n{schema}\npidfile {self.directory}/slapd.pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n"
            f'database mdb\nsuffix "{SUFFIX}"\nrootdn "{ADMIN}"\nrootpw {_ADMIN_PASSWORD}\n'
            f"directory {self.directory}/db\nmaxsize 67108864\n"
            f'access to dn.subtree="ou=public,{SUFFIX}" by * read\n'
            f'access to attrs=userPassword by anonymous auth\naccess to * by dn.exact="{READER}" read by * none\n'
        )
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [SLAPD, "-d", "0", "-f", str(self.directory / "slapd.conf"), "-h", self.url],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Wait until it answers, and put in what every directory has."""
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"slapd did not start: {(self.directory / 'log').read_text()}") from None
                time.sleep(0.01)
        self.add(SUFFIX, "organization", o="Example")
        self.add(f"ou=public,{SUFFIX}", "organizationalUnit", ou="public")
        self.add(READER, ["person"], cn="reader", sn="reader", userPassword=READER_PASSWORD)

    def add(self, dn: str, classes: str | list[str], **attributes: object) -> None:
        """Put an entry in; ``__`` in a name of an attribute stands for ``;``."""
        import ldap3

        connection = ldap3.Connection(
            ldap3.Server("127.0.0.1", self.port, get_info=ldap3.NONE), ADMIN, _ADMIN_PASSWORD, check_names=False
        )
        assert connection.bind()
        if connection.search(dn, "(objectClass=*)", ldap3.BASE):
            connection.delete(dn)
        added = connection.add(dn, classes, {name.replace("__", ";"): value for name, value in attributes.items()})
        opened, result = connection.socket, connection.result
        connection.unbind()
        opened.close()  # ldap3 does not where the server was quicker
        assert added, result

    def replace_below(self, base: str, kind: str, entries: dict[str, dict[str, object]]) -> None:
        """Have an organizational unit hold exactly these entries of one class, by cn; what is the same is not touched."""
        import ldap3

        connection = ldap3.Connection(
            ldap3.Server("127.0.0.1", self.port, get_info=ldap3.NONE), ADMIN, _ADMIN_PASSWORD, check_names=False
        )
        assert connection.bind()
        if not connection.search(base, "(objectClass=*)", ldap3.BASE):
            assert connection.add(base, "organizationalUnit", {"ou": base.split(",")[0].split("=")[1]})
        connection.search(base, f"(objectClass={kind})", ldap3.LEVEL, attributes=["*"])
        held = {str(one["raw_attributes"]["cn"][0], "ascii"): one["raw_attributes"] for one in connection.response}
        for name in held.keys() - entries.keys():
            assert connection.delete(f"cn={name},{base}")
        for name, attributes in entries.items():
            wanted = {key: [as_octets(value)] for key, value in attributes.items()}
            dn = f"cn={name},{base}"
            if name not in held:
                assert connection.add(dn, kind, wanted), connection.result
                continue
            known = {key: list(value) for key, value in held[name].items() if key != "objectClass"}
            if known != wanted:
                changes = {key: [(ldap3.MODIFY_REPLACE, wanted.get(key, []))] for key in known | wanted if key != "cn"}
                assert connection.modify(dn, changes), connection.result
        opened = connection.socket
        connection.unbind()
        opened.close()

    def put_crl(self, name: str, crl: bytes, delta: bytes | None = None, public: bool = True) -> str:
        """Put a cRLDistributionPoint in; returns its URL without an attribute."""
        dn = f"cn={name},ou=public,{SUFFIX}" if public else f"cn={name},{SUFFIX}"
        more = {} if delta is None else {"deltaRevocationList__binary": delta}
        self.add(dn, "cRLDistributionPoint", cn=name, certificateRevocationList__binary=crl, **more)
        return f"{self.url}/{dn.replace(' ', '%20')}"

    def stop(self) -> None:
        """End it, and remove its folder."""
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def as_octets(value: object) -> bytes:
    """A value as LDAP carries it."""
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="session")
def slapd() -> Iterator[Slapd]:
    """Return the session's server."""
    need(SLAPD)
    server = Slapd()
    try:
        server.wait()
        yield server
    finally:
        server.stop()
