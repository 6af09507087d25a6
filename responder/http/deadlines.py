"""One coarse timer for all connections of a worker.

A timer in the event loop for each connection would cost two heap operations a request. Here a request costs one
attribute: connections stand in a bucket by second, and a bucket that falls due looks at each of its connections
once and puts those that have moved on into a later one. Called by the protocol and the server only.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Expiring(Protocol):
    """What can have a deadline: both attributes are ticks, ``NEVER`` for none."""

    deadline: int  # when to expire; its owner may move it further away at any time, without telling
    bucket: int  # the wheel's own note: the bucket that will look at it next

    def expire(self) -> None:
        """Act on a deadline that has passed."""
        ...


NEVER = 1 << 62


class DeadlineWheel:
    """Buckets of connections by tick; one tick is one second, counted by whoever calls ``tick``."""

    def __init__(self) -> None:
        self.now = 0
        self._buckets: dict[int, set[Expiring]] = {}
        self._due: deque[Expiring] = deque()

    def set(self, owner: Expiring, ticks: int) -> None:
        """Let ``owner`` expire once more than ``ticks`` whole ticks have passed (so never too early)."""
        deadline = self.now + ticks + 1
        owner.deadline = deadline
        # An earlier bucket will look at it anyway and see that the deadline moved.
        if deadline < owner.bucket:
            owner.bucket = deadline
            self._buckets.setdefault(deadline, set()).add(owner)

    def forget(self, owner: Expiring) -> None:
        """Drop one that has ended."""
        owner.deadline = NEVER
        bucket = self._buckets.get(owner.bucket)
        if bucket is not None:
            bucket.discard(owner)
        owner.bucket = NEVER

    def tick(self) -> None:
        """Let one tick pass; what is due now waits for ``expire``."""
        self.now += 1
        self._due.extend(self._buckets.pop(self.now, ()))

    @property
    def due_count(self) -> int:
        """How many wait for ``expire``."""
        return len(self._due)

    def expire(self, most: int | None = None) -> bool:
        """Expire what is due, ``most`` of them; returns whether there is more."""
        due = self._due
        while due and (most is None or most > 0):
            owner = due.popleft()
            if owner.bucket > self.now:
                continue  # an old note: it stands in a later bucket since, or in none
            owner.bucket = NEVER
            if owner.deadline <= self.now:
                owner.expire()
                most = None if most is None else most - 1
            elif owner.deadline < NEVER:
                owner.bucket = owner.deadline
                self._buckets.setdefault(owner.deadline, set()).add(owner)
        return bool(due)
