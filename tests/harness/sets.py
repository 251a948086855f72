"""Short ways to write backends and policies."""

from __future__ import annotations

from typing import Any

import attrs

from qorb_trio import Backend, Policy, SetConfig

_SET_FIELDS = {field.name for field in attrs.fields(SetConfig)}


def backends(names: str) -> list[Backend]:
    """One backend for each letter of `names`, each at an address of its own."""
    return [Backend((f"{name}.test", 1000), name=name) for name in names]


def policy_of(**fields: Any) -> Policy:
    """A `Policy`, with the fields of its `SetConfig` given in the same breath."""
    in_set = {name: fields.pop(name) for name in list(fields) if name in _SET_FIELDS}
    return Policy(set_config=SetConfig(**in_set), **fields)
