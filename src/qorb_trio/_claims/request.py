"""`ClaimRequest`: the options of one claim, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, final

import attrs

from .. import _validation as _check
from .._balancing.affinity import check_key
from .._model.backend import Backend

if TYPE_CHECKING:
    from .._balancing.affinity import Key


def _timeout(_: object, field: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None:
        _check.seconds(field.name, value)


def _key(_: object, __: attrs.Attribute[Any], value: Key | None) -> None:
    if value is not None:
        check_key(value)


def _label(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{field.name} must be a str, not {value!r}")


def _backends(avoid: object) -> tuple[Backend, ...]:
    if isinstance(avoid, Backend):
        raise TypeError(f"avoid must be an iterable of Backend: did you mean {{{avoid!r}}}?")
    if isinstance(avoid, (str, bytes)) or not isinstance(avoid, Iterable):
        raise TypeError(f"avoid must be an iterable of Backend, not {avoid!r}")
    backends = tuple(avoid)
    for backend in backends:
        _check.instance("avoid: each element", backend, Backend)
    return backends


@final
@attrs.frozen
class ClaimRequest:
    """The options of a claim.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """

    timeout: float | None = attrs.field(default=None, validator=_timeout)
    """Seconds for the whole acquisition; `None` for ``policy.claim_timeout``."""

    key: Key | None = attrs.field(default=None, validator=_key)
    """Claims with the same key prefer the same backend."""

    avoid: tuple[Backend, ...] = attrs.field(default=(), converter=_backends)
    """Backends that serve the claim only if no other can do so at once."""

    label: str | None = attrs.field(default=None, validator=_label)
    """Shown in place of the name of the claimant's task."""

    @property
    def has_preference(self) -> bool:
        """True if the claim prefers some backends to others."""
        return self.key is not None or bool(self.avoid)


def make_request(
    timeout: float | None = None,
    key: Key | None = None,
    avoid: Iterable[Backend] = (),
    label: str | None = None,
) -> ClaimRequest | None:
    """Check the options of a claim; return `None` if there is none but the timeout.

    Most claims have no other option. They keep the timeout by themselves, so that they do
    not pay for an object.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """
    if key is None and label is None and avoid == ():
        if timeout is not None:
            _check.seconds("timeout", timeout)
        return None
    return ClaimRequest(timeout, key, avoid, label)
