"""State that commands leave on a connection: pure bookkeeping, without I/O.

A command that is in no table here leaves nothing behind. Flags are set before a command is
sent and cleared by its reply, so that a command whose fate is unknown counts as executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, final

from ._errors import RedisError

Argument: TypeAlias = "str | bytes | memoryview | int | float"
Command: TypeAlias = Sequence[Argument]

#: Commands whose effects end with RESET (https://redis.io/docs/latest/commands/reset/).
_UNTIL_RESET: Final = frozenset(
    {"SELECT", "AUTH", "HELLO", "READONLY", "READWRITE", "ASKING", "RESET"}
)
#: Subcommands of CLIENT whose effects end with RESET. Others may outlive it, as NO-EVICT does
#: before Redis 7.2.
_CLIENT_UNTIL_RESET: Final = frozenset({"SETNAME", "TRACKING", "CACHING"})
#: Subcommands of CLIENT that change nothing about the connection which sends them.
_HARMLESS_CLIENT: Final = frozenset(
    {"ID", "INFO", "LIST", "GETNAME", "GETREDIR", "TRACKINGINFO", "KILL", "PAUSE", "UNPAUSE"}
    | {"UNBLOCK", "HELP"}
)
SUBSCRIPTIONS: Final = frozenset(
    {"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"}
)
#: Commands that break the rule of one reply per command.
_REFUSED: Final = frozenset({"SYNC", "PSYNC"})
#: Commands that may keep the server from reading what follows on the same connection.
_BLOCKING: Final = frozenset(
    {"BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP"}
    | {"XREAD", "XREADGROUP", "WAIT", "WAITAOF"}
)
_TRANSACTION: Final = frozenset({"MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"})
_NOTABLE: Final = (
    _UNTIL_RESET
    | SUBSCRIPTIONS
    | _REFUSED
    | _BLOCKING
    | _TRANSACTION
    | {"CLIENT", "SCRIPT", "MONITOR", "QUIT"}
)


def word(argument: Argument) -> str:
    """Return a word of a command in the form in which the tables have it."""
    if isinstance(argument, str):
        return argument.upper()
    if isinstance(argument, bytes | memoryview):
        return bytes(argument).decode("ascii", "replace").upper()
    return ""


@final
class Session:
    """State that one connection has on the server because of the commands it was sent."""

    __slots__ = (
        "_altered",
        "_in_transaction",
        "_protocol",
        "_watches",
        "is_exclusive",
        "must_close",
        "receives",
    )

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        #: True if a command has changed something that only RESET undoes.
        self._altered = False
        self._in_transaction = False
        self._watches = False
        #: True if the connection must not be lent again.
        self.must_close = False
        #: True if the server may send messages that are no replies.
        self.receives = False
        #: True if such messages look like replies, so that only subscriptions may be sent.
        self.is_exclusive = False

    @property
    def needs_reset(self) -> bool:
        """True if something would reach the next claimant."""
        return self._altered or self._in_transaction or self._watches

    def begin(self, command: Command) -> str | None:
        """Take note of a command that is about to be sent.

        Returns:
          The command's name if its reply matters or it may block, otherwise `None`.

        Raises:
          ValueError: if the command is empty, or breaks the rule of one reply each.
          RuntimeError: if its reply could not be told from a message.
        """
        if not command:
            raise ValueError("a command must not be empty")
        name = word(command[0])
        if self.is_exclusive and name not in SUBSCRIPTIONS:
            raise RuntimeError(
                f"{name} cannot be sent on a connection that receives messages; use another"
                " claim, or protocol=3 for subscriptions"
            )
        if name not in _NOTABLE:
            return None
        self._note(name, word(command[1]) if len(command) > 1 else "")
        return name

    def _note(self, name: str, subcommand: str) -> None:
        if name in _REFUSED or (name, subcommand) == ("CLIENT", "REPLY"):
            raise ValueError(
                f"{name} {subcommand}".strip() + " is not supported: the server would not send"
                " one reply for each command"
            )
        if name == "CLIENT":
            self._note_client(subcommand)
        elif name in _UNTIL_RESET:
            self._altered = True
        elif name in SUBSCRIPTIONS or name == "MONITOR":
            self.must_close = self.receives = True
            self.is_exclusive = self._protocol == 2 or name == "MONITOR"
        elif name == "QUIT" or (name, subcommand) == ("SCRIPT", "DEBUG"):
            self.must_close = True
        elif name == "MULTI":
            self._in_transaction = True
        elif name == "WATCH":
            self._watches = True

    def _note_client(self, subcommand: str) -> None:
        if subcommand in _CLIENT_UNTIL_RESET:
            self._altered = True
            self.receives = self.receives or subcommand == "TRACKING"
        elif subcommand not in _HARMLESS_CLIENT:
            self.must_close = True

    def end(self, name: str, reply: object) -> None:
        """Take note of the reply to a command for which `begin` returned a name."""
        aborted = isinstance(reply, RedisError) and reply.code == "EXECABORT"
        if isinstance(reply, RedisError) and not aborted:
            return
        if name in {"EXEC", "DISCARD"}:
            self._in_transaction = self._watches = False
        elif name == "UNWATCH":
            self._watches = False


def may_block(command: Command) -> bool:
    """Return true if the server may delay the reply to a command until something happens."""
    return word(command[0]) in _BLOCKING
