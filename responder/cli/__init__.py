"""The revocast command."""
