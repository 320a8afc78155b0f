"""What the tests of every form of attention draw and compare."""

import jax
import jax.numpy as jnp


def draw(key, batch, length, heads, kv_heads, head_dim):
    """Normal queries [B, L, N, H], keys and values [B, L, K, H]."""
    keys = jax.random.split(key, 3)
    counts = (heads, kv_heads, kv_heads)
    return [
        jax.random.normal(k, (batch, length, n, head_dim))
        for k, n in zip(keys, counts, strict=True)
    ]


def values_and_gradients(run, inputs):
    """Result, and gradients of a sum that no two of its numbers enter alike."""

    def total(args):
        out = run(*args)
        return jnp.sum(jnp.sin(out)), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(inputs)
    return [out, *grads]
