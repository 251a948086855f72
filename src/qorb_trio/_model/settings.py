"""`Settings`: the policy that is in force."""

from __future__ import annotations

from typing import final

from .policy import Policy, SetConfig


@final
class Settings:
    """The one place from which a pool reads its policy, so that it can be replaced."""

    __slots__ = ("policy", "set_config")

    def __init__(self, policy: Policy) -> None:
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Use another policy from now on."""
        self.policy: Policy = policy
        self.set_config: SetConfig = policy.set_config
