"""One OCSP query, end to end: the endpoint that decides, and the sources it asks."""
