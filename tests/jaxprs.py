"""Operations of a traced program."""

from jax.extend.core import jaxprs_in_params


def equations(jaxpr, is_whole=lambda equation: False):
    """Every operation, then those of the programs inside it, unless it `is_whole`."""
    for equation in jaxpr.eqns:
        yield equation
        if not is_whole(equation):
            for inner in jaxprs_in_params(equation.params):
                yield from equations(inner, is_whole)
