"""Lookup-free quantization: the code of a latent is the signs of its channels.

No codebook is learned. Bit i of an id is 1 where channel i is at least zero (an exact zero counts
as +1) and weighs 2^i, the lowest bit first. MAGVIT-v2, section 3.1.

The entropy term asks for sure bits in every token and for all codes alike over the batch. Its
softmax over 2^D codes factorises over bits, p(bit = +1) = sigmoid(4 z / temperature), so both
entropies are exact without a tensor of tokens x codes: see `mean_code_probabilities`.

Axes: D bits, N tokens, V codes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from poet.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LfqLossConfig:
    """Weights of the quantizer's losses.

    Attributes:
      commitment_weight: Of the mean squared distance of latents to their signs.
      entropy_weight: Of mean token entropy minus entropy of the mean.
      entropy_boost: Factor on `entropy_weight` at step 0; it falls to 1 in a straight line.
      entropy_boost_steps: Steps until it is 1.
      temperature: Of the softmax over codes. Gradients reach latents within about this distance of
        zero.
    """

    commitment_weight: float = 0.25
    entropy_weight: float = 0.1
    entropy_boost: float = 3.0
    entropy_boost_steps: int = 2_000
    temperature: float = 0.01

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(
                f"temperature={self.temperature} must be above 0; the paper's codebase has 0.01,"
                " small models train better with 0.1 to 1."
            )

    def entropy_weight_at(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The annealed weight of the entropy term."""
        left = jnp.maximum(0.0, 1.0 - step / max(1, self.entropy_boost_steps))
        return self.entropy_weight * (1.0 + (self.entropy_boost - 1.0) * left)


def signs(latents: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """+1 where the latent is at least zero, else -1."""
    return jnp.where(latents >= 0, 1.0, -1.0).astype(latents.dtype)


def straight_through(latents: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """The signs in value, the latents in gradient."""
    return latents + jax.lax.stop_gradient(signs(latents) - latents)


def hardening(latents: Float[Array, "*N D"], hardness: Float[Array, ""]) -> Float[Array, "*N D"]:
    """(1 - hardness) tanh + hardness signs in value, tanh in gradient.

    Small models on few steps learn several times faster when the signs come gradually: at hardness
    0 this is a bounded bottleneck without quantization, at 1 the decoder sees what it will get.
    (Ours; the paper takes the signs from the first step, see `straight_through`.)
    """
    soft = jnp.tanh(latents)
    return soft + hardness * jax.lax.stop_gradient(signs(latents) - soft)


def to_ids(latents: Float[Array, "*N D"]) -> Int[Array, "*N"]:
    """The id of each token's signs, int32 in [0, 2^D)."""
    weights = 2 ** jnp.arange(latents.shape[-1], dtype=jnp.int32)
    return jnp.sum((latents >= 0) * weights.reshape((1,) * (latents.ndim - 1) + (-1,)), axis=-1)


def from_ids(ids: Int[Array, "*N"], num_bits: int) -> Float[Array, "*N D"]:
    """The signs, float32, that `to_ids` gave these ids."""
    shifts = jnp.arange(num_bits, dtype=ids.dtype).reshape((1,) * ids.ndim + (-1,))
    bits = (ids[..., None] >> shifts) & 1
    return 2.0 * bits.astype(jnp.float32) - 1.0


def commitment(latents: Float[Array, "*N D"]) -> Float[Array, ""]:
    """Mean squared distance of the latents to their own signs, which do not move."""
    return jnp.mean((jax.lax.stop_gradient(signs(latents)) - latents) ** 2)


def token_entropy(latents: Float[Array, "*N D"], temperature: float) -> Float[Array, ""]:
    """Mean over tokens of the entropy of p(code | latent), in nats.

    Bits are independent given the latent, so it is a sum of binary entropies.
    """
    logits = jnp.abs(4.0 * latents.astype(jnp.float32) / temperature)
    # In this form nothing large cancels: both parts go to zero for a sure bit.
    entropies = jax.nn.softplus(-logits) + logits * jax.nn.sigmoid(-logits)
    return jnp.mean(jnp.sum(entropies, axis=-1))


def mean_code_probabilities(latents: Float[Array, "*N D"], temperature: float) -> Array:
    """Mean over tokens of p(code | latent), float32 [2^high, 2^low]; (b, a) is id b * 2^low + a.

    The distribution of a token is an outer product over bits. With A the one of the low half and B
    the one of the high half, the mean over N tokens is the matmul B^T A / N. Averaging over
    devices has to happen here, before any logarithm.
    """
    logits = 4.0 * latents.astype(jnp.float32).reshape(-1, latents.shape[-1]) / temperature
    low_bits = math.ceil(logits.shape[1] / 2)
    low = _outer_over_bits(logits[:, :low_bits])
    high = _outer_over_bits(logits[:, low_bits:])
    return high.T @ low / logits.shape[0]


def batch_entropy(probabilities: Float[Array, "_ _"], epsilon: float = 0.0) -> Float[Array, ""]:
    """Entropy of the mean code distribution in nats, at most log(number of tokens or codes).

    Args:
      epsilon: Added inside the logarithm. 1e-5 is the original codebase's, but it exceeds 2^-18
        and so understates the entropy of a large vocabulary; 0 is exact.
    """
    positive = jnp.where(probabilities > 0, probabilities, 1.0)
    return -jnp.sum(probabilities * jnp.log(positive + epsilon))


def losses(
    latents: Float[Array, "*N D"], step: Int[Array, ""], config: LfqLossConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighted sum of commitment and entropy term, and both with their parts as measures."""
    pull = commitment(latents)
    per_token = token_entropy(latents, config.temperature)
    over_batch = batch_entropy(mean_code_probabilities(latents, config.temperature))
    loss = config.commitment_weight * pull
    loss += config.entropy_weight_at(step) * (per_token - over_batch)
    return loss, {
        "commitment": pull,
        "token_entropy_nats": per_token,
        "batch_entropy_nats": over_batch,
    }


def used_codes(ids: Int[Array, "*N"], num_codes: int) -> Bool[Array, "V"]:
    """For every code whether it occurs."""
    return jnp.zeros(num_codes, bool).at[ids.reshape(-1)].set(True)


def _outer_over_bits(logits):
    """[N, bits] -> [N, 2^bits]: probability of each value of these bits, the lowest bit first."""
    table = jnp.ones((logits.shape[0], 1), jnp.float32)
    for bit in range(logits.shape[1]):
        on = jax.nn.sigmoid(logits[:, bit])[:, None]
        off = jax.nn.sigmoid(-logits[:, bit])[:, None]
        table = jnp.concatenate([table * off, table * on], axis=1)
    return table
