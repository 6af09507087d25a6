"""The serving benchmark: Revocast beside its rivals on one machine, under one load generator (docs/performance.md)."""
