"""The error that a user can act on."""


class InputError(ValueError):
    """Input that cannot work; its one-line message names the value and the remedy."""


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
