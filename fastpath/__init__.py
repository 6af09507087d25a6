"""Cython modules that turn bytes into values and back. No sockets, clock, configuration, keys or logging."""
