"""CLIP's image and text towers (arXiv 2103.00020), whose embeddings CLIPSIM compares.

Both are pre-norm transformers. Pictures are cut into patches behind one learned place, whose last
state is the embedding; captions are read left to right, and the embedding is the state at the
end-of-text token. A last matrix brings both to the same length.

Layers follow the public model of `transformers`, against which outputs are tested.

Axes: B batch, Y rows, X columns, L places (patches or tokens), D width, N heads, H head width,
E embedding.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from poet.typing import Array, Float, Int

_HIGHEST = jax.lax.Precision.HIGHEST
_ACTIVATIONS = ("quick_gelu", "gelu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Sizes of one transformer.

    Attributes:
      width: D.
      num_layers: Blocks.
      num_heads: N.
      mlp_dim: Hidden width of the MLPs.
      activation: "quick_gelu", x sigmoid(1.702 x), as OpenAI trained; "gelu", others.
      epsilon: Of the layer norms.
    """

    width: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5

    def __post_init__(self):
        if self.activation not in _ACTIVATIONS:
            raise ValueError(
                f"activation={self.activation!r} must be one of {', '.join(_ACTIVATIONS)}."
            )
        if min(self.width, self.num_layers, self.num_heads, self.mlp_dim) < 1:
            raise ValueError(f"Expected sizes of at least 1, got {self}.")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide width={self.width}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sizes of both towers. `vit_b` has the published ones.

    Attributes:
      image: Tower of pictures.
      text: Tower of captions.
      size_px: Rows and columns of pictures.
      patch_px: Rows and columns of patches; must divide `size_px`.
      num_ids: Rows of the token embedding.
      num_places: Tokens of a caption, begin and end included.
      num_features: E.
    """

    image: TowerConfig
    text: TowerConfig
    size_px: int = 224
    patch_px: int = 16
    num_ids: int = 49_408
    num_places: int = 77
    num_features: int = 512

    def __post_init__(self):
        if self.patch_px < 1 or self.size_px % self.patch_px:
            raise ValueError(f"patch_px={self.patch_px} must divide size_px={self.size_px}.")


def vit_b(patch_px: int) -> ClipConfig:
    """The sizes of CLIP ViT-B: patches of 16 (VideoPoet, Phenaki) or 32 pixels (most others)."""
    return ClipConfig(
        image=TowerConfig(width=768, num_layers=12, num_heads=12, mlp_dim=3072),
        text=TowerConfig(width=512, num_layers=12, num_heads=8, mlp_dim=2048),
        patch_px=patch_px,
    )


class Block(nn.Module):
    """Attention, then MLP, each added to what it reads through a layer norm."""

    config: TowerConfig
    is_causal: bool

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        config = self.config
        x_BLD = x_BLD + self._attention(_norm(config, "attention_norm")(x_BLD))
        y_BLF = _dense(config.mlp_dim, "up")(_norm(config, "mlp_norm")(x_BLD))
        if config.activation == "quick_gelu":
            y_BLF = y_BLF * jax.nn.sigmoid(1.702 * y_BLF)
        else:
            y_BLF = jax.nn.gelu(y_BLF, approximate=False)
        return x_BLD + _dense(config.width, "down")(y_BLF)

    def _attention(self, x_BLD):
        length, heads = x_BLD.shape[1], self.config.num_heads
        head_dim = self.config.width // heads

        def project(name):
            flat = _dense(self.config.width, name)(x_BLD)
            return flat.reshape(-1, length, heads, head_dim)

        query_BLNH = project("query") * head_dim**-0.5
        key_BMNH, value_BMNH = project("key"), project("value")
        scores = jnp.einsum("BLNH,BMNH->BNLM", query_BLNH, key_BMNH, precision=_HIGHEST)
        if self.is_causal:
            seen = jnp.tril(jnp.ones((1, 1, length, length), bool))
            scores = jnp.where(seen, scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = jnp.einsum("BNLM,BMNH->BLNH", weights, value_BMNH, precision=_HIGHEST)
        return _dense(self.config.width, "out")(mixed.reshape(x_BLD.shape))


class ImageTower(nn.Module):
    """Embeddings of pictures, not normalised."""

    config: ClipConfig

    @nn.compact
    def __call__(self, pictures: Float[Array, "B Y X 3"]) -> Float[Array, "B E"]:
        """Embeddings of pictures whose channels were brought to mean 0 and deviation 1."""
        sizes, tower = self.config, self.config.image
        patch = (sizes.patch_px, sizes.patch_px)
        patches = nn.Conv(
            tower.width,
            patch,
            patch,
            padding="VALID",
            use_bias=False,
            precision=_HIGHEST,
            name="patch",
        )(pictures)
        patches = patches.reshape(len(pictures), -1, tower.width)
        draw = nn.initializers.normal(0.02)
        first = self.param("first", draw, (tower.width,)).reshape(1, 1, -1)
        first = jnp.broadcast_to(first, (len(pictures), 1, tower.width))
        x = jnp.concatenate([first, patches], axis=1)
        x = x + self.param("places", draw, x.shape[1:])[None]
        x = _norm(tower, "first_norm")(x)
        for index in range(tower.num_layers):
            x = Block(tower, is_causal=False, name=f"block_{index}")(x)
        x = _norm(tower, "last_norm")(x[:, 0])
        return _dense(sizes.num_features, "project", use_bias=False)(x)


class TextTower(nn.Module):
    """Embeddings of captions, not normalised."""

    config: ClipConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "B L"], ends: Int[Array, "B"]) -> Float[Array, "B E"]:
        """Embeddings of captions.

        Args:
          ids: From begin to end of text, filled up with anything.
          ends: Where each caption's end-of-text token is.
        """
        sizes, tower = self.config, self.config.text
        draw = nn.initializers.normal(0.02)
        table = self.param("tokens", draw, (sizes.num_ids, tower.width))
        places = self.param("places", draw, (sizes.num_places, tower.width))
        x = table[ids] + places[None, : ids.shape[1]]
        for index in range(tower.num_layers):
            x = Block(tower, is_causal=True, name=f"block_{index}")(x)
        x = x[jnp.arange(len(ids)), ends]
        x = _norm(tower, "last_norm")(x)
        return _dense(sizes.num_features, "project", use_bias=False)(x)


class Clip(nn.Module):
    """Both towers in one tree: "image" and "text"."""

    config: ClipConfig

    def setup(self):
        self.image = ImageTower(self.config)
        self.text = TextTower(self.config)

    def __call__(
        self,
        pictures: Float[Array, "B Y X 3"],
        ids: Int[Array, "N L"],
        ends: Int[Array, "N"],
    ) -> tuple[Float[Array, "B E"], Float[Array, "N E"]]:
        """Embeddings of pictures and of captions, see the towers."""
        return self.image(pictures), self.text(ids, ends)


def _dense(features: int, name: str, use_bias: bool = True):
    return nn.Dense(features, use_bias=use_bias, precision=_HIGHEST, name=name)


def _norm(config: TowerConfig, name: str):
    # The variance from squared differences: E[x^2] - E[x]^2 loses digits.
    return nn.LayerNorm(epsilon=config.epsilon, use_fast_variance=False, name=name)
