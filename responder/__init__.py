"""Revocast's responder: the roles that keep, sign and serve certificate status (docs/architecture.md)."""

__version__ = "0.1.0"
