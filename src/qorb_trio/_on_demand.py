"""Public names that are imported when a program first uses them (PEP 562).

``import qorb_trio`` loads the pool itself. A program uses one or two of the connectors,
resolvers, balancing strategies and instruments, and together they would cost more than a third
of the import. Each is imported when its name is first asked for.

A package that does so lists the names twice: once as imports for type checkers, and once as
the table given to `on_demand`. A test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def on_demand(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return the `__getattr__`, `__dir__` and `__all__` of a package.

    To be called at the end of the package's `__init__`.

    Args:
      package: the `__name__` of the package.
      modules: the names that each module has, separated by blanks, by the module's name
        relative to the package.
    """
    namespace = vars(sys.modules[package])
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(homes[name], package), name)
        return value

    def list_names() -> list[str]:
        return sorted({*namespace, *homes})

    return load, list_names, [name for name in list_names() if not name.startswith("_")]
