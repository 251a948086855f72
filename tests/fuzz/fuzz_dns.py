"""A coverage-guided fuzzer of the DNS resolver, for hours that nobody needs the machine.

    pip install atheris
    python -m tests.fuzz.fuzz_dns -max_total_time=3600 [CORPUS DIRECTORY]

Arguments are libFuzzer's. It ends at the first input that crashes or takes long, and
leaves that input in a file.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped, unused-ignore]

with atheris.instrument_imports():
    from tests.fuzz import target


def main() -> None:
    """Fuzz until told to stop."""
    atheris.Setup([*sys.argv, "-timeout=5"], target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
