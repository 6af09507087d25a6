"""The processes of a running Revocast and the supervisor that keeps them up."""
