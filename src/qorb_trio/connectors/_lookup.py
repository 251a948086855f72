"""Look up host names, in a few threads of the package's own.

`trio.socket.getaddrinfo` runs in Trio's default thread limiter, which the whole program
shares. A system call that hangs cannot be cancelled, so a few dozen names whose nameserver
does not answer would stop every other use of threads in the program.
"""

from __future__ import annotations

import socket
import weakref
from typing import Any, Final, TypeAlias, cast, final

import idna
import trio

#: One address to try: family, kind of socket, protocol, and the address itself.
Target: TypeAlias = "tuple[int, int, int, tuple[Any, ...]]"

_AddressInfo: TypeAlias = "tuple[int, int, int, str, tuple[Any, ...]]"

#: Maximum number of threads for look-ups in one run of Trio. One name uses one of them, so
#: it takes this number of names that hang to delay the look-up of another.
MAX_THREADS: Final = 16


async def lookup(host: str, port: int) -> list[Target]:
    """Return the addresses of a host name, in the order of `socket.getaddrinfo`.

    Concurrent look-ups of one name share one thread and its answer. Cancelled, it returns at
    once; the thread ends when the system's resolver does. A resolver that was set by
    `trio.socket.set_custom_hostname_resolver` is asked in its place.

    Raises:
      OSError: if the name cannot be resolved (`socket.gaierror`).
      UnicodeError: if the host is no valid name under IDNA 2008.
    """
    # Trio has no function that only tells the custom resolver.
    custom = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(custom)
    found: list[Any]
    if custom is not None:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    else:
        found = await _ask_system(host)
    return [(info[0], info[1], info[2], (info[4][0], port, *info[4][2:])) for info in found]


async def _ask_system(host: str) -> list[_AddressInfo]:
    # As Trio does: Python's own codec is IDNA 2003, which can lead to another host.
    encoded = host.encode() if host.isascii() else idna.encode(host, uts46=True)
    name = _lookups().name(encoded)
    return await trio.to_thread.run_sync(
        name.look_up,
        name.answers,
        abandon_on_cancel=True,
        # Trio's annotation is narrower than what it documents.
        limiter=cast("trio.CapacityLimiter", name),
    )


@final
class _Lookups:
    """The look-ups of one run of Trio: their threads, and the names that are in use."""

    def __init__(self) -> None:
        self.threads = trio.CapacityLimiter(MAX_THREADS)
        # A name is kept alive by the tasks that wait for it, and by its thread.
        self.names: weakref.WeakValueDictionary[bytes, _Name] = weakref.WeakValueDictionary()

    def name(self, host: bytes) -> _Name:
        """Return the entry of a host name, which others may be looking up already."""
        name = self.names.get(host)
        if name is None:
            name = self.names[host] = _Name(host, self.threads)
        return name


@final
class _Name:
    """One host name that is being looked up, by one thread at a time.

    It is the limiter of its threads. Trio keeps a limiter's token until the thread has ended,
    even if its task was cancelled long before. A name that hangs therefore holds one thread,
    however often it is dialled meanwhile.
    """

    def __init__(self, host: bytes, threads: trio.CapacityLimiter) -> None:
        self.answers = 0
        self._host = host
        self._threads = threads
        self._turn = trio.CapacityLimiter(1)
        self._answer: list[_AddressInfo] | OSError = []

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for the turn of this name, then for a thread."""
        await self._turn.acquire_on_behalf_of(borrower)
        try:
            await self._threads.acquire_on_behalf_of(borrower)
        except BaseException:
            self._turn.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        """Let the next look-up of this name begin, because the thread has ended."""
        self._threads.release_on_behalf_of(borrower)
        self._turn.release_on_behalf_of(borrower)

    def look_up(self, seen: int) -> list[_AddressInfo]:
        """Ask the system, unless an answer has come since there were `seen`. In a thread."""
        if self.answers == seen:
            try:
                self._answer = _getaddrinfo(self._host)
            except OSError as exc:
                self._answer = exc.with_traceback(None)  # its frames would keep this entry
            self.answers += 1
        if isinstance(self._answer, OSError):
            # One exception object must not be raised in several tasks.
            raise type(self._answer)(*self._answer.args)
        return self._answer


def _getaddrinfo(host: bytes) -> list[_AddressInfo]:
    found: list[Any] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return found


_run_lookups: Final[trio.lowlevel.RunVar[_Lookups]] = trio.lowlevel.RunVar("qorb_trio lookups")


def _lookups() -> _Lookups:
    """Return the look-ups of this run."""
    try:
        return _run_lookups.get()
    except LookupError:
        lookups = _Lookups()
        _run_lookups.set(lookups)
        return lookups
