"""``unseen convert``: arguments in, report out."""

import argparse
import textwrap
from dataclasses import fields
from pathlib import Path

from unseen_diffusion.models.conversion.convert import convert
from unseen_diffusion.models.conversion.plan import SCHEDULES, Options
from unseen_diffusion.models.conversion.proof import TOLERANCE


def convert_command(arguments: list[str]) -> int:
    """Converts one checkpoint and prints what was read, assumed and measured; the exit code.

    Raises:
        InputError: nothing was written; the line says why.
    """
    chosen = vars(_parser().parse_args(arguments))
    options = Options(**{field.name: chosen.pop(field.name) for field in fields(Options)})
    done = convert(options=options, **chosen)
    for line in done.plan.statements:
        print(line)
    for found in done.agreements:
        print(f"verified at {found.where}: difference {found.error:.2g}, {found.relative:.2g} of the largest output")
    if not done.agreements:
        print("not verified")
    print(f"wrote {chosen['target']}: {done.parameters / 1e6:.2f} M parameters")
    return 0


def _parser() -> argparse.ArgumentParser:
    description = """\
        An ADM, iDDPM (guided-diffusion) or DDPM (PyTorch port of Ho et al.) checkpoint as a diffusers folder for
        model=diffusers model.path=TARGET. Nothing is written unless the converted network computes what the
        original did. Comparison with the original arithmetic cannot tell a wrong number of heads or attention
        order, which no tensor records; saved activations can."""
    parser = argparse.ArgumentParser(prog="unseen convert", description=textwrap.dedent(description))
    add = parser.add_argument
    add("source", type=Path, help="the checkpoint (.pt, .pth, .ckpt, .safetensors); pickled code is never run")
    add("target", type=Path, help="the folder to make")
    add(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare at t = 0, 500, 999 (minutes at 256 pixels)",
    )
    add("--activations", type=Path, metavar="FILE", help="safetensors of x, t, output from the original's own code")
    add("--tolerance", type=float, default=TOLERANCE, help="largest difference over largest output (%(default)g)")
    add("--schedule", choices=tuple(SCHEDULES), default="linear", help="of the training noise (%(default)s)")
    add("--head-channels", type=int, metavar="N", help="channels per attention head (ADM: 64)")
    add("--heads", type=int, metavar="N", help="or a fixed number of heads")
    add("--new-attention-order", action="store_true", help="trained with use_new_attention_order")
    add("--size", type=int, metavar="PIXELS", help="image size, where the widths are not a published model's")
    add("--weights", metavar="NAME", help="which network, where the file holds several")
    return parser
