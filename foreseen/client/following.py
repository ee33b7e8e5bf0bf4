"""Bare names that mean another version by now: who asked by one goes on to it, should nobody serve the one it meant."""

from __future__ import annotations

from collections.abc import Sequence

from foreseen.client.asking import Asking
from foreseen.client.catalog import Catalog
from foreseen.client.effects import Steps
from foreseen.client.entries import successor
from foreseen.client.publishing import Refused
from foreseen.client.submission import Submission
from foreseen.client.table import Table
from foreseen.keys import Key

__all__ = ["Following"]


class Following:
    """Moves submissions from the key of one version to that of another.

    Args:
        catalog: knows which versions are served.
        table: of the open submissions.
        asking: takes along that they have left.
    """

    def __init__(self, catalog: Catalog, table: Table, asking: Asking) -> None:
        self._catalog = catalog
        self._table = table
        self._asking = asking

    def refused(self, refused: Sequence[Refused]) -> tuple[list[Refused], list[Submission]]:
        """Move those who could not be sent, as their version is gone, and asked by a bare name.

        Returns:
            Who is refused all the same, and who is to join another key's flight.
        """
        left: list[Refused] = []
        moved: list[Submission] = []
        for submission, error in refused:
            key = successor(submission, error) if submission.bare else None
            if key is None:
                left.append((submission, error))
            elif self._transfer(submission, key):
                moved.append(submission)
        return left, moved

    def looking(self, submissions: Sequence[Submission]) -> Steps[None]:
        """Move those who look again, if nobody serves the version that their name meant.

        Where its card is known a message was sent for it, or can be, and workers of the current version say so.
        """
        bare = [each for each in submissions if each.bare and not self._catalog.knows(each.key.model_id)]
        for model_id in sorted({each.key.model_id for each in bare}):
            gone = yield from self._catalog.find_card(model_id)
            if gone is None:
                continue
            for submission in bare:
                if submission.key.model_id == model_id and (key := successor(submission, gone)) is not None:
                    self._transfer(submission, key)

    def _transfer(self, submission: Submission, key: Key) -> bool:
        """Take a submission out of its flight to join another key's; False if it was answered, or has left."""
        old = submission.key
        was_open, serial = self._table.transfer(submission, key)
        self._asking.leave_soon(submission, serial, old)
        return was_open
