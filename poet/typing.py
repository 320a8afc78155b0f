"""The axis letters, and the array types that carry them.

Token space: B batch, L queries (or sequence), M keys, D width, N heads, K key/value heads, H head
width, F hidden width, V ids, P prefix.
Clip space: T frames, Y rows, X columns, C channels, S samples, Q codebooks (audio levels);
small t, h, w for the latent grid.

The same letters serve in signatures, ``Float[Array, "B L D"]``, and as suffixes inside a
function, ``q_BLNH``. jaxtyping is optional: without it the annotations are plain arrays.
"""

from typing import Any

import jax
import numpy as np

Array = jax.Array
NumpyArray = np.ndarray

try:
    from jaxtyping import Bool, Float, Int, Shaped, UInt8
except ImportError:

    class _Unchecked:
        """Stands in for a jaxtyping dtype: ``Float[Array, "B L"]`` is then just ``Array``."""

        def __class_getitem__(cls, item: Any) -> Any:
            return item[0] if isinstance(item, tuple) else item

    Bool = Float = Int = Shaped = UInt8 = _Unchecked

__all__ = ["Array", "Bool", "Float", "Int", "NumpyArray", "Shaped", "UInt8"]
