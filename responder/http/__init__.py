"""The HTTP/1.1 server: parsing, connections, caching headers. Knows no OCSP."""
