"""What is said to people: the root of every error whose message tells what was expected, what came, and what to do.

An error that is not of this kind is a defect of ours, and shows its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class ForPeople(Exception):
    """An error with a message for the person at the terminal. Subclasses say how the command ends."""

    exit_code: ClassVar[int] = 3
    """As in the table of the README: 2 for wrong usage or configuration, 3 where a run could not finish."""
    hint: ClassVar[str] = ""
    """What to do next, where it is the same for every such error; shown below the message."""
