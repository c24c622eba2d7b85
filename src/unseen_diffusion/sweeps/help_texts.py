"""What ``--help`` prints of a run's keys, of config groups and of their options. Needs no torch."""

import shutil
import textwrap
from collections.abc import Sequence


def run_help() -> str:
    """The keys of a run with defaults, meanings and ranges, and the options of its groups."""
    from unseen_diffusion.sweeps.options import key_lines, options

    lines = ["\nKeys of a run, with their defaults:\n", *columns(key_lines(), 2), "\nGroups of `unseen run`:"]
    for group, entries in options().items():
        lines += [f"\n  {group}", *columns(entries, 4)]
    return "\n".join(lines)


def train_help() -> str:
    """The options of a training's two groups."""
    from unseen_diffusion.sweeps.options import options

    lines = []
    for group, entries in options(("data", "training")).items():
        lines += [f"\n  {group}", *columns(entries, 4)]
    return "\n".join([*lines, "\nunseen train --cfg job prints every key of a training."])


def group_help(group: str) -> str:
    """The options of one group, and every key of the classes that they build.

    Raises:
        InputError: no such group.
    """
    from unseen_diffusion.sweeps.options import group_keys, options

    lines = [f"Options of {group}:\n", *columns(options((group,))[group], 2)]
    for names, entries in group_keys(group):
        lines += [f"\nKeys of {group}={names}:\n", *columns(entries, 2)]
    return "\n".join([*lines, f"\nunseen run --cfg job {group}=OPTION prints an option's values."])


def columns(entries: Sequence[tuple[str, str]], indent: int) -> list[str]:
    """Two columns as lines: names, and texts wrapped to the width of the terminal."""
    width = min(42, max((len(name) for name, _ in entries), default=0))
    available = max(shutil.get_terminal_size((110, 24)).columns, 72)
    lines: list[str] = []
    for name, text in entries:
        first, *more = textwrap.wrap(text, available - indent - width - 2) or [""]
        lines.append(f"{'':{indent}}{name:<{width}}  {first}".rstrip())
        lines += [f"{'':{indent + width + 2}}{line}" for line in more]
    return lines
