"""Helpers of every room: exceptions and what they keep alive, texts from elsewhere, and classes
that users must not construct."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

T = TypeVar("T")


def unwrap_single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the only exception of a group, or the group if it has several.

    One layer is removed at most: that of one nursery. A group that the user's code has raised
    keeps its own layers, message and notes.
    """
    return group.exceptions[0] if len(group.exceptions) == 1 else group


def strip_traceback(exc: BaseException | None) -> None:
    """Remove from an exception that is kept for long the references to frames.

    The traceback of an exception, its context and its cause lead to the frames of the code
    that raised it. A hook raises in the claimant's task, so these are all the claimant's
    frames, and with them its locals: a claim that it has forgotten would be kept alive. The
    exceptions of a group are treated like the group.
    """
    if exc is not None:
        exc.__traceback__ = exc.__context__ = exc.__cause__ = None
        if isinstance(exc, BaseExceptionGroup):
            for member in exc.exceptions:
                strip_traceback(member)


#: Characters that Python calls printable although nothing, or a mere space, is seen of them.
#: They are Unicode's default-ignorable letters and marks, and the blank of braille.
_INVISIBLE: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)


def printable(text: object) -> str:
    r"""Return a text from elsewhere with everything escaped that is not seen as it is.

    A backend's name or a server's error message may hold line ends, terminal sequences,
    characters that reverse the direction of the text, and characters that are not visible.
    With them it could forge lines of a log or of a table. Each of these becomes an escape as
    in a Python literal: ``\n``, ``\x1b``, ``\u202e``.
    """
    shown = safe_str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        character if character.isprintable() and character not in _INVISIBLE else _escape(character)
        for character in shown
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def safe_str(value: object) -> str:
    """Return ``str(value)``, or a text that says that it raised."""
    return _safely(str, value)


def safe_repr(value: object) -> str:
    """Return ``repr(value)``, or a text that says that it raised."""
    return _safely(repr, value)


def _safely(show: Callable[[object], str], value: object) -> str:
    # A program's own exceptions are shown in logs and errors. One with a faulty __str__ or
    # __repr__ must not end the pool.
    try:
        return show(value)
    except Exception as exc:  # noqa: BLE001 - the user's code
        return f"<{type(value).__name__} that cannot be shown: {type(exc).__name__}>"


#: The maximum length of the text of one error in a log or a message.
MAX_ERROR_TEXT: Final = 500


def error_text(exc: BaseException) -> str:
    """Return the type and the text of an exception, printable and of bounded length."""
    text = safe_str(exc)
    if len(text) > MAX_ERROR_TEXT:
        text = f"{text[:MAX_ERROR_TEXT]}…"
    return printable(f"{type(exc).__name__}: {text}" if text else type(exc).__name__)


def log_safely(
    logger: logging.Logger,
    level: int,
    message: str,
    *args: object,
    exc_info: BaseException | None = None,
) -> None:
    """Log a message, whatever the program's filters and handlers do.

    An exception that one of them raises must not end the pool, nor the task that happens to log.
    It is written to standard error, as `logging.Handler.handleError` does.
    """
    try:
        if exc_info is None:
            logger.log(level, message, *args, stacklevel=2)
        elif logger.isEnabledFor(level):
            _log_traceback(logger, level, message, args, exc_info)
    except Exception:  # noqa: BLE001 - the user's code
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc(file=sys.stderr)


#: What Python prints between the tracebacks of two exceptions.
_BETWEEN_TRACEBACKS: Final = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)


def _log_traceback(
    logger: logging.Logger,
    level: int,
    message: str,
    args: tuple[object, ...],
    exc: BaseException,
) -> None:
    file, line, function, _ = logger.findCaller(stacklevel=3)
    info = (type(exc), exc, exc.__traceback__)
    record = logger.makeRecord(logger.name, level, file, line, message, args, info, function)
    # A formatter writes this text where there is one, and would not escape its own.
    record.exc_text = printable_traceback(exc)
    logger.handle(record)


def printable_traceback(exc: BaseException) -> str:
    """Return the traceback of an exception, as Python prints it, with all texts printable.

    Each error is on one line of its own, so that its text cannot pass for other lines of a log.
    """
    lines: list[str] = []
    for part in traceback.format_exception(exc):
        words = part.strip(" |\n")
        is_several_lines = words.startswith("File ") or words in _BETWEEN_TRACEBACKS
        lines.extend(part.splitlines() if is_several_lines else [part.removesuffix("\n")])
    return "\n".join(map(printable, lines))


class NoPublicConstructor(type):
    """To call the class is an error; the package itself calls ``_create``."""

    def __call__(cls, *_args: object, **_kwargs: object) -> NoReturn:
        """Refuse."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has no public constructor")

    def _create(cls: type[T], *args: object) -> T:
        return type.__call__(cls, *args)  # type: ignore[no-any-return]
