"""Errors in the description of a widget; each message says what is expected."""

from advlib.errors import AdvlibError, InputError


class ControlError(InputError):
    """A slider or choice cannot be used as described, or has no such value."""


class SceneError(InputError):
    """What `compute` returned cannot be shown."""


class QuestionError(InputError):
    """A question, its options or its answer do not fit together."""


class StoredSizeError(AdvlibError):
    """The states stored for readers without a kernel are too large for a page."""
