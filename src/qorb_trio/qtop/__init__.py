"""qtop: watch the pools of a running program, in a terminal or in a browser.

The program serves its pools, on this machine unless it says otherwise::

    nursery.start_soon(qtop.serve, [pool], "127.0.0.1", 42069)

and somebody watches: ``qtop ws://127.0.0.1:42069/qtop/stats`` in a terminal, or
``http://127.0.0.1:42069/`` in a browser. It needs ``pip install 'qorb-trio[qtop]'``.
"""

from __future__ import annotations

from ._server import serve

__all__ = ["serve"]

serve.__module__ = __name__
