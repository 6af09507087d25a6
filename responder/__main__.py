"""``python -m responder``: what the supervisor starts its roles with; the same as the ``revocast`` command."""

from responder.cli import main

main()
