"""The methods of a run: the full method, and the baselines that it is compared with; one file per method."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from unseen_diffusion.runs.methods.base import Generated
from unseen_diffusion.runs.methods.base import Method as Base
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.renamed import new_names

__all__ = ["Generated", "by_source"]


def by_source(*, source: str = "prior", **settings: Any) -> Base:
    """The method of a config that names a ``source`` instead of a class; will be removed in version 0.5.

    Raises:
        InputError: no such source, or settings that the method refuses.
    """
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    kinds = {kind.source: kind for kind in Base.__subclasses__() if kind.source}
    if source not in kinds:
        raise InputError(f"method.source={source}: choose one of {', '.join(sorted(kinds))}")
    return kinds[source](**settings)


__getattr__ = new_names(__name__)
