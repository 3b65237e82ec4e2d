"""The errors of `advlib`: each says what was given, what is expected and how to mend it."""


class AdvlibError(Exception):
    """Base of every error that `advlib` raises on purpose."""


class InputError(AdvlibError, ValueError):
    """An argument cannot be used as it is."""


class ArgumentError(AdvlibError, TypeError):
    """An argument has the name that another library gives it."""


class PixelError(InputError):
    """The images `x` are not floating point, not finite, not in [0, 1] or not batched."""


class LabelError(InputError):
    """The labels `y` are not integers, out of range, or not one per image."""


class ThreatError(InputError):
    """The threat model or the attack's settings make no sense (`eps`, `norm`, `steps`, `loss`)."""


class DeviceError(InputError):
    """Model, images and labels do not live on one device."""


class ModelOutputError(InputError):
    """The model did not return one row of logits per image."""


class WeightsError(AdvlibError, RuntimeError):
    """A weights file is missing, damaged, or made for another architecture."""


class DownloadError(AdvlibError, OSError):
    """A file could not be fetched, or what came is not what was asked for."""
