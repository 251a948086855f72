"""The entry point of the command ``qtop``. Without the extra it says what is missing."""

from __future__ import annotations

import sys

#: The packages that the extra brings.
_EXTRA = frozenset({"h11", "rich", "wsproto"})


def main() -> int:
    """Run the command, or print which package is missing and return 1."""
    try:
        from .qtop._command import main as run  # noqa: PLC0415 - see above
    except ImportError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        hint = f"qtop: the package {package} is missing: pip install 'qorb-trio[qtop]'"
        print(hint, file=sys.stderr)  # noqa: T201 - a command's output
        return 1
    return run()
