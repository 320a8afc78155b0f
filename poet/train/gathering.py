"""Parameters that lie in parts on several hosts, whole on each."""

import jax

from poet.train.state import TrainState


def whole_model(state: TrainState) -> TrainState:
    """The state with whole parameters, averages and extra arrays, without the optimizer's.

    Of one process the state itself; of several all of them have to ask, and get numpy arrays.
    """
    if jax.process_count() == 1:
        return state
    from jax.experimental import multihost_utils

    parts = (state.step, state.params, state.extra, state.ema)
    step, params, extra, ema = multihost_utils.process_allgather(parts, tiled=True)
    return TrainState(step, params, None, extra, ema)
