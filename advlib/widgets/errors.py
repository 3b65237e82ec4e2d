"""What can be wrong with a widget's description; each message says how to mend it."""

from advlib.errors import AdvlibError, InputError


class ControlError(InputError):
    """A slider or choice is described wrongly, or a value that it does not have was asked for."""


class SceneError(InputError):
    """What `compute` returned cannot be shown."""


class QuestionError(InputError):
    """A question, its options or its answer do not fit together."""


class StoredSizeError(AdvlibError):
    """The states stored for readers without a kernel take more room than a page should."""
