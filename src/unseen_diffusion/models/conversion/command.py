"""The command ``unseen convert``: reads its arguments, converts a checkpoint and prints a report."""

import argparse
import textwrap
from dataclasses import fields
from pathlib import Path

from unseen_diffusion.models.conversion.convert import convert
from unseen_diffusion.models.conversion.plan import SCHEDULES, Options
from unseen_diffusion.models.conversion.verification import TOLERANCE
from unseen_diffusion.utils.arguments import Parser, positive


def convert_command(arguments: list[str]) -> int:
    """Converts one checkpoint and prints what was read, assumed and measured; the exit code.

    Raises:
        InputError: the reason why nothing was written.
    """
    chosen = vars(_parser().parse_args(arguments))
    options = Options(**{field.name: chosen.pop(field.name) for field in fields(Options)})
    done = convert(options=options, **chosen)
    for line in done.plan.statements:
        print(line)
    for found in done.comparisons:
        print(f"verified at {found.where}: difference {found.error:.2g}, {found.relative:.2g} of the largest output")
    if not done.comparisons:
        print("not verified")
    print(f"wrote {chosen['target']}: {done.parameters / 1e6:.2f} M parameters")
    return 0


def _parser() -> Parser:
    description = """\
        Converts an ADM, iDDPM (guided-diffusion) or DDPM (PyTorch port of Ho et al.) checkpoint to a diffusers folder,
        for model=diffusers model.path=TARGET. Nothing is written unless the converted network gives the outputs of
        the original. The tensors do not record the number of heads and the order of attention: only a comparison
        with saved activations can detect a wrong choice of these."""
    parser = Parser(prog="unseen convert", description=textwrap.dedent(description))
    add = parser.add_argument
    add("source", type=Path, help="the checkpoint (.pt, .pth, .ckpt, .safetensors); pickled code is never run")
    add("target", type=Path, help="the folder to create")
    add(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare at t = 0, 500, 999 (minutes at 256 pixels)",
    )
    add(
        "--activations",
        type=Path,
        metavar="FILE",
        help="safetensors file with x, t and output, computed by the original code",
    )
    add("--tolerance", type=positive, default=TOLERANCE, help="largest difference over largest output (%(default)g)")
    add("--schedule", choices=tuple(SCHEDULES), default="linear", help="noise schedule of the training (%(default)s)")
    add("--head-channels", type=int, metavar="N", help="channels per attention head (ADM: 64)")
    add("--heads", type=int, metavar="N", help="a fixed number of attention heads, instead of --head-channels")
    add("--new-attention-order", action="store_true", help="the model was trained with use_new_attention_order")
    add(
        "--size",
        type=int,
        metavar="PIXELS",
        help="image size; needed if no published model has the same channel widths",
    )
    add("--weights", metavar="NAME", help="the network to convert, if the file holds several")
    return parser
