"""The error that tells users what to change."""


class InputError(ValueError):
    """Invalid input; the one-line message names the value and the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
