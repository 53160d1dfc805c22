"""The errors a user is meant to read: each names the cause and what to do about it."""


class SluiceError(Exception):
    """Something the user can put right; printed without a traceback."""


class ConfigError(SluiceError):
    """A configuration that cannot be run; lists every problem found."""


class StoreError(SluiceError):
    """A store that cannot be read or written; names the file and the field."""


class BadDataError(SluiceError):
    """More bad rows in the input data than the configuration tolerates."""


class MissingProgramError(SluiceError):
    """A program or data set that has to be installed first; says how."""


class LeaseError(SluiceError):
    """Another driver holds the campaign."""
