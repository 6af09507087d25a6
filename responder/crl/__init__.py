"""CRLs: issued or mirrored, checked before publication, kept as files in the depot, and served from there.

Only the publisher's side imports signing; the endpoint knows the depot alone. RFC 5280 §5; docs/crl.md.
"""
