"""The error that a user can act on."""


class InputError(ValueError):
    """Input that cannot work; its one-line message names the value and the remedy."""
