"""The ``revocast`` command: its sub-commands, and the one place that turns an error into an exit code.

The loaders' commands are found through the entry-point groups ``revocast.commands`` (public: load) and
``revocast.roles`` (started by the supervisor: follow), because the responder never imports the loaders.
"""

from __future__ import annotations

import sys

from responder.errors import RevocastError

EXIT_USAGE = 2


def main() -> None:
    """Run the command line; a RevocastError becomes one line on standard error and exit code 2."""
    from responder.cli.app import build_app  # imported late: a role needs only its own modules

    try:
        build_app(sys.argv[1:])()
    except RevocastError as error:
        print(f"revocast: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        sys.exit(130)
