"""The settings of a rejection. Imports no torch: the command's help reads them."""

from typing import Annotated, Literal, get_args

from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.identity import Unnamed

RouteName = Literal["direct", "exact_statistics"]
ROUTES: tuple[str, ...] = get_args(RouteName)


@settings("rejection")
class Rejection:
    """How many candidates are drawn, and how they are judged. The defaults suit Python users and equal conf/."""

    max_proposals: Count
    """largest number of candidates; a run that needs more fails"""
    allow_fewer: bool = False
    """if a maximum is reached: continue with what was accepted, if the scores have enough, instead of failing"""
    max_images: Annotated[Count, Unnamed("bounds the selection by images, and changes no latents")] = 2000
    """largest number of candidates that a selection by images denoises; a run that needs more fails"""
    route: RouteName = "direct"
    """direct: every candidate is drawn in full; exact_statistics: same distribution, faster for large images"""
