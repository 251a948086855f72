"""`Outcomes`: each outcome is recorded, and leads to a plan if it changes one."""

from __future__ import annotations

import trio

from qorb_trio import IneligibleBackendError
from qorb_trio._connections.outcomes import Outcomes
from qorb_trio._planning.targets import Targets
from qorb_trio._slots.registry import Registry
from qorb_trio._slots.slot_set import Slot, SlotSet
from qorb_trio._slots.state import State

from ..slots.kit import Scene


class Desk:
    """Outcomes without a pool."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.plans = 0
        self.failing: list[SlotSet[str]] = []
        self.outcomes: Outcomes[str] = Outcomes(
            pool="p",
            events=self.scene.events,
            registry=Registry(),
            targets=Targets(),
            replan=self._replan,
        )
        self.outcomes.on_failing = self.failing.append

    def _replan(self) -> None:
        self.plans += 1

    def a_slot(self) -> Slot[str]:
        """A new slot that has not connected."""
        return self.scene.slot_in(State.CONNECTING)


async def test_new_evidence_is_planned_for() -> None:
    """The first of several failures in one go makes a plan, the others say nothing new."""
    desk = Desk()
    slots = [desk.a_slot() for _ in range(3)]
    for slot in slots:
        desk.outcomes.connect_failed(slot, OSError("no"))
    assert desk.plans == 1
    assert desk.failing == [desk.scene.slot_set]
    assert desk.scene.slot_set.detector.consecutive_failures == 1


async def test_a_proof_is_planned_for() -> None:
    """The recovery of a failing backend makes a plan, and a success without a failure none."""
    desk = Desk()
    desk.outcomes.succeeded(desk.a_slot())
    assert desk.plans == 0
    desk.outcomes.connect_failed(desk.a_slot(), OSError("no"))
    slot = desk.a_slot()
    desk.scene.slot_set.begin_probe(slot)
    desk.outcomes.succeeded(slot)
    desk.outcomes.succeeded(slot)
    assert desk.plans == 2
    assert not desk.scene.slot_set.is_failing


async def test_an_error_is_no_failure() -> None:
    """An error that says nothing about the backend is kept, and changes no plan."""
    desk = Desk()
    error = OSError("cannot close")
    desk.outcomes.error(desk.a_slot(), error, "disconnect")
    detector = desk.scene.slot_set.detector
    assert (desk.plans, detector.is_failing, detector.last_error) == (0, False, error)


async def test_an_open_connection_to_an_ineligible_backend() -> None:
    """An IneligibleBackendError of `is_broken` is no failure, but the backend is only probed."""
    desk = Desk()
    error = IneligibleBackendError("it has become a replica")
    desk.outcomes.found_broken(desk.a_slot(), error, None)
    detector = desk.scene.slot_set.detector
    assert (detector.is_failing, detector.is_ineligible, desk.plans) == (True, True, 1)
    assert (detector.recent_failures(trio.current_time()), detector.last_error) == (0, None)
    assert detector.connect_error is error
    assert desk.failing == []


async def test_a_connect_to_an_ineligible_backend() -> None:
    """If `connect` raises IneligibleBackendError, that is no failure of the backend."""
    desk = Desk()
    desk.outcomes.connect_failed(desk.a_slot(), IneligibleBackendError("it is a replica"))
    detector = desk.scene.slot_set.detector
    assert (detector.is_failing, detector.is_ineligible, desk.plans) == (True, True, 1)
    assert (detector.recent_failures(trio.current_time()), detector.last_error) == (0, None)
