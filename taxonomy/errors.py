"""Errors a user can cause, and the one place that says what each exit code means."""

import difflib
from collections.abc import Iterable

# The last: a step does not end, or another process is gone; tried again like 42.
DONE, BAD_INPUT, DIVERGED, NO_CHECKPOINT, PREEMPTED, HUNG = 0, 2, 3, 4, 42, 134


class UserError(Exception):
    """Bad input, told in one or two lines that name the field, the value and what is allowed. Commands exit with 2."""

    exit_code = BAD_INPUT


class Diverged(UserError):
    """The loss or the gradients stopped being finite."""

    exit_code = DIVERGED


class NoCheckpoint(UserError):
    """A workdir has no checkpoint that can be restored."""

    exit_code = NO_CHECKPOINT


class Preempted(UserError):
    """The run was asked to stop, saved its state, and can be resumed."""

    exit_code = PREEMPTED


def nearest(word: str, allowed: Iterable[str]) -> str:
    """The end of an error message: the closest allowed word, then all of them when they are few."""
    allowed = sorted(set(allowed))
    close = difflib.get_close_matches(str(word), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    if not allowed:
        return hint
    shown = ", ".join(allowed) if len(allowed) <= 24 else ", ".join(allowed[:24]) + ", ..."
    return f"{hint} (allowed: {shown})"
