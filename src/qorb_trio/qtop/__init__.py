"""qtop: watch the pools of a running program, in a terminal or in a browser.

    pip install 'qorb-trio[qtop]'

The program serves its pools, by default to this machine only::

    nursery.start_soon(qtop.serve, [pool], "127.0.0.1", 42069)

People watch them with ``qtop ws://127.0.0.1:42069/qtop/stats`` in a terminal, or at
``http://127.0.0.1:42069/`` in a browser.
"""

from __future__ import annotations

try:
    from ._server import serve
except ImportError as _error:
    _package = (_error.name or "").partition(".")[0]
    if _package not in {"h11", "wsproto"}:
        raise
    raise ImportError(
        f"qorb_trio.qtop needs the package {_package}: pip install 'qorb-trio[qtop]'",
        name=_package,
    ) from _error

__all__ = ["serve"]

serve.__module__ = __name__
