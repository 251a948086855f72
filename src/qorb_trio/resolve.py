"""``python -m qorb_trio.resolve``: look a service up, as a pool would.

Prints the backends, and with ``--watch`` every change, for a person or (``--json``) for a
script. The exit status is 0 if there are backends, 1 if there are none, 2 for wrong
arguments, and 3 if DNS gave no answer in time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from typing import TextIO, final

import attrs
import trio

from ._model.backend import Backend
from ._util import printable
from .abc import Resolver
from .resolvers import DnsResolver, DnsResolverConfig, DnsSnapshot, resolver_for

__all__ = ["main"]

OK, NO_BACKENDS, NO_ANSWER = 0, 1, 3  # 2 is argparse's


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qorb_trio.resolve",
        description="Look up the backends of a service, as a pool would.",
        epilog="Exit status: 0 backends, 1 none, 2 wrong arguments, 3 no answer in time.",
    )
    add = parser.add_argument
    add("service", help="_svc._tcp.name, name, name:port, address:port or the path of a socket")
    add(
        "--nameserver",
        action="append",
        metavar="ADDRESS",
        help="host, host:port or [v6]:port; may be given several times (default: the system's)",
    )
    add("--resolver-service", metavar="NAME", help="an SRV name that lists further nameservers")
    add("--default-port", type=int, metavar="PORT", help="for a name without SRV records")
    add("--family", choices=["A", "AAAA"], help="look up addresses of this family only")
    add("--search", action="store_true", help="try the suffixes of the system's search list")
    add(
        "--timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for the first answer (default: 10); with --watch, until it is"
        " said why there is none yet",
    )
    add("--watch", action="store_true", help="go on, and print every change")
    add("--json", action="store_true", help="print a JSON object per line, for scripts")
    add("--verbose", action="store_true", help="print how each name was found, too")
    return parser


def _resolver(arguments: argparse.Namespace) -> Resolver:
    config = DnsResolverConfig(
        resolver_service=arguments.resolver_service,
        families=("A", "AAAA") if arguments.family is None else (arguments.family,),
        search=arguments.search,
    )
    return resolver_for(
        arguments.service,
        arguments.default_port,
        nameservers=arguments.nameserver,
        config=config,
    )


@final
@attrs.define
class _Printer:
    """Prints sets of backends, and the changes since the last one."""

    out: TextIO
    as_json: bool
    last: dict[str, Backend] | None = None

    def show(self, backends: Collection[Backend]) -> None:
        new = {backend.name: backend for backend in backends}
        old, self.last = self.last, new
        if self.as_json:
            self._print({"backends": [_as_dict(backend) for backend in backends]})
        elif old is None:
            for backend in backends:
                self._line(" ", backend)
            if not backends:
                self._print("  no backends")
        else:
            self._show_changes(old, new)

    def _show_changes(self, old: dict[str, Backend], new: dict[str, Backend]) -> None:
        for name in old.keys() - new.keys():
            self._line("-", old[name])
        for name, backend in new.items():
            if name not in old:
                self._line("+", backend)
            elif _as_dict(old[name]) != _as_dict(backend):
                self._line("~", backend)

    def _line(self, sign: str, backend: Backend) -> None:
        numbers = f"priority {backend.priority}  weight {backend.weight}"
        self._print(f"{sign} {backend.name}  {numbers}")

    def explain(self, snapshot: DnsSnapshot) -> None:
        if self.as_json:
            self._print(attrs.asdict(attrs.evolve(snapshot, backends=None)))
            return
        for name in snapshot.names:
            text = name.last_error or ", ".join(name.records) or "nothing"
            ttl = "" if name.ttl is None else f" TTL {name.ttl:g}"
            whose = "" if name.server is None else f" ({name.server})"
            self._print(f"  {name.name} {name.rdtype}{ttl} {name.state}{whose}: {text}")
        for server in snapshot.nameservers:
            kind = "dynamic" if server.dynamic else "given"
            error = f": {server.last_error}" if server.last_error else ""
            self._print(f"  nameserver {server.address} ({kind}){error}")

    def _print(self, what: object) -> None:
        # Names and errors come from the network, and this may be a terminal.
        text = printable(what) if isinstance(what, str) else json.dumps(what)
        print(text, file=self.out, flush=True)


def _as_dict(backend: Backend) -> dict[str, object]:
    return {
        "name": backend.name,
        "address": backend.address,
        "priority": backend.priority,
        "weight": backend.weight,
    }


async def _resolve(resolver: Resolver, arguments: argparse.Namespace, printer: _Printer) -> int:
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    status = NO_ANSWER
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_and_close, resolver, outbox)
        if arguments.watch and isinstance(resolver, DnsResolver):
            nursery.start_soon(_say_why_there_is_nothing, resolver, arguments, printer)
        with trio.CancelScope() as patience:
            if not arguments.watch:
                patience.deadline = trio.current_time() + arguments.timeout
            async with inbox:
                async for backends in inbox:
                    printer.show(backends)
                    status = OK if backends else NO_BACKENDS
                    if not arguments.watch:
                        break
        if isinstance(resolver, DnsResolver) and (arguments.verbose or status == NO_ANSWER):
            printer.explain(resolver.snapshot())
        nursery.cancel_scope.cancel()
    return status


async def _say_why_there_is_nothing(
    resolver: DnsResolver, arguments: argparse.Namespace, printer: _Printer
) -> None:
    await trio.sleep(arguments.timeout)
    if printer.last is None:
        printer.explain(resolver.snapshot())


async def _run_and_close(
    resolver: Resolver, outbox: trio.MemorySendChannel[Collection[Backend]]
) -> None:
    async with outbox:
        await resolver.run(outbox)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status. ``argv`` is without the program's name.

    Raises:
      SystemExit: for wrong arguments, as argparse does.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        resolver = _resolver(arguments)
    except ValueError as exc:
        parser.error(str(exc))
    printer = _Printer(sys.stdout, arguments.json)
    try:
        return trio.run(_resolve, resolver, arguments, printer)
    except* KeyboardInterrupt:  # alone, or in a group with what it interrupted
        pass
    except* BrokenPipeError:  # the reader of the output has closed it
        sys.stdout = None  # otherwise Python would complain when it flushes the rest
    return OK if printer.last else NO_BACKENDS


if __name__ == "__main__":
    sys.exit(main())
