"""The run-time type checker of the tests: beartype, with an int accepted where a float is asked (PEP 484).

jaxtyping compares the shapes of tensors. It wraps every function of the package for that, which takes a fifth of the
tests' time: here it wraps only classes and functions whose annotations name a shape; beartype alone checks the others.
"""

import inspect
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
with_shapes = jaxtyping.jaxtyped


def names_shape(annotation: Any) -> bool:
    """Whether an annotation is a shape of jaxtyping's, or holds one; text may be anything."""
    if isinstance(annotation, str):
        return True
    of_jaxtyping = inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray)
    return of_jaxtyping or any(
        names_shape(part) for part in (annotation if isinstance(annotation, list) else get_args(annotation))
    )


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """In the place of ``jaxtyping.jaxtyped``, which its import hook writes above every function and class."""
    if function is None:
        return lambda decorated: jaxtyped(decorated, typechecker=typechecker)
    shapes = any(map(names_shape, getattr(function, "__annotations__", {}).values()))
    if inspect.isclass(function) or shapes:
        return with_shapes(function, typechecker=typechecker)
    return check(function)


jaxtyping.jaxtyped = jaxtyped
