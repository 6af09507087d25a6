"""The first source: may we speak about this certificate at all?

Recognises the issuer of every CertID in a request by both hashes, and brings the CertIDs into their canonical form.
Called by the endpoint for every well-formed request. RFC 6960 §4.1.1, RFC 9919 §3.2.3.
"""

from __future__ import annotations

from fastpath.ocsp_request import OCSPRequest
from fastpath.ocsp_response import encode_cert_id
from responder.issuers import Issuer, Issuers
from responder.ocsp.answer import Outcome, Question
from responder.store.layout import serial_hash


class Authority:
    """Whose certificates this responder answers for. Immutable."""

    def __init__(self, issuers: Issuers) -> None:
        self._issuers = issuers

    def questions_of(self, request: OCSPRequest) -> list[Question] | Outcome:
        """Return a request's CertIDs as Questions of one CA, each once and in order; or why it has to be refused."""
        questions: dict[bytes, Question] = {}
        first: tuple[Issuer, str] | None = None
        for cert_id in request.cert_ids:
            hash_name = cert_id.hash_name
            if hash_name is None:
                # Without the hash we cannot tell whose certificate it is, so we are not authoritative.
                return Outcome.UNKNOWN_HASH
            # RFC 6960 §4.1.1: name hash and key hash name the issuer together; one alone may be another CA's.
            issuer = self._issuers.find(hash_name, cert_id.issuer_name_hash, cert_id.issuer_key_hash)
            if issuer is None:
                return Outcome.UNKNOWN_ISSUER
            if first is None:
                first = (issuer, hash_name)
            elif issuer is not first[0]:
                # RFC 6960 §4.2.2.2: the signer of an answer is authorised by one CA (docs/adr/0005).
                return Outcome.SEVERAL_ISSUERS
            elif hash_name != first[1]:
                return Outcome.SEVERAL_HASHES
            # RFC 5754 §2: parameters absent or NULL mean the same; one form for table, store and comparison.
            cert_id_der = encode_cert_id(
                hash_name, cert_id.issuer_name_hash, cert_id.issuer_key_hash, cert_id.serial_octets
            )
            if cert_id_der not in questions:
                questions[cert_id_der] = Question(
                    issuer, hash_name, cert_id.serial_octets, cert_id_der, serial_hash(cert_id.serial_octets)
                )
        return list(questions.values())
