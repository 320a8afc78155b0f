"""The language model: a decoder-only prefix LM over special, visual, audio and text ids.

Axes: B batch, L sequence (of a plan), P prefix, R = L - 1 - P output rows, N = L - 1 + E fed rows
(E = 0 in raster order), D model width.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from poet.layers.dropout import ChannelDropout
from poet.layers.linear import ADAPTERS, Linear
from poet.layers.norm import RMSNorm
from poet.layers.position import AttributeEmbedding, rotation_table
from poet.layers.sharding import positions_apart, positions_to_add, positions_whole
from poet.layers.tiled_loss import tiled_cross_entropy
from poet.models.block import Block, BlockConfig
from poet.models.config import REMAT_POLICIES, PrefixLMConfig
from poet.models.tables import EMBED_STDDEV, HEAD_STDDEV, TIED_SCALE, SegmentTables
from poet.models.text_encoder import PAD_ID, T5Encoder
from poet.tokens.fed_rows import FedRows, fed_rows
from poet.tokens.schedule import RASTER, Schedule
from poet.tokens.sequence import SequencePlan
from poet.typing import Array, Bool, Float, Int

Batch = dict[str, Any]

# Of the loss's: a lookup goes through all tokens once a tile, and holds no logits.
_LOOKUP_TILES = 8


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Prefix:
    """A static number that passes through nn.scan and nn.remat as a tree without leaves."""

    length: int


class _ScannedBlock(nn.Module):
    """Block with the signature that nn.scan wants."""

    config: BlockConfig

    @nn.compact
    def __call__(
        self, x: Array, rotation: Any, prefix: _Prefix, visible: Array | None
    ) -> tuple[Array, None]:
        return Block(self.config, name="block")(x, rotation, prefix.length, visible), None


class PrefixLM(nn.Module):
    """Hidden states of output positions, and their loss, for any plan with one set of parameters.

    ``init(key, plan, batch)`` makes all parameters, whatever the plan. A batch is what
    ``poet.tokens.sequence.assemble`` returns, plus optionally ``text_is_dropped`` bool [B].
    ``apply`` also takes adapters of the layers' maps (`poet.layers.linear.ADAPTERS`).

    Attributes:
      config: Sizes.
      schedule: Order in which visual tokens are written. Under another than raster, training sees
        what decoding in that order sees (`poet.tokens.fed_rows`). Attention then holds its weights
        for all pairs of rows, which is meant for short adaptation runs; a `remat_policy` of "full"
        keeps those of one layer at a time.
    """

    config: PrefixLMConfig
    schedule: Schedule = RASTER

    def setup(self) -> None:
        config = self.config
        block, policy = _ScannedBlock, REMAT_POLICIES[config.remat_policy]
        if policy is not None:
            block = nn.remat(block, policy=policy, prevent_cse=False)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0, ADAPTERS: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=config.num_layers,
            unroll=min(config.layers_per_iteration, config.num_layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config.block)
        self.final_norm = RMSNorm(dtype=config.dtype)
        self.dropout = ChannelDropout(config.dropout_rate)

        tables, tiles = (config.vocabulary, config.d_model, config.row_multiple), config.tiles
        bits = config.visual_bits
        self.embed = SegmentTables(
            *tables,
            stddev=EMBED_STDDEV,
            visual_bits=bits,
            dtype=config.dtype,
            rows_at_once=_LOOKUP_TILES * tiles.num_ids if tiles.gathers_by_tile else None,
        )
        if not config.ties_embedding:
            self.head = SegmentTables(*tables, stddev=HEAD_STDDEV, visual_bits=bits)
        # Of the token that is fed, and of the position it has to predict.
        where = (config.limits.num_values, config.d_model, ("t", "h", "w", "audio_frame"))
        self.here = AttributeEmbedding(*where)
        self.next = AttributeEmbedding(*where)

        self.text_encoder = T5Encoder(config.text, config.dtype)
        self.text_projection = Linear(
            (config.text.d_model,),
            (config.d_model,),
            (None, "embed"),
            EMBED_STDDEV**2,
            dtype=config.dtype,
        )
        pad_init = nn.with_logical_partitioning(nn.initializers.normal(EMBED_STDDEV), ("embed",))
        self.text_pad = self.param("text_pad", pad_init, (config.d_model,))

    def __call__(self, plan: SequencePlan, batch: Batch) -> Float[Array, "B R D"]:
        """Normalised hidden states of the rows that predict what follows <bov_o> (or <boa_o>).

        Args:
          plan: Static; its vocabulary must be the config's.
          batch: ``decoder_input_tokens`` int32 [B, L-1], ``text_ids`` [B, slots], and optionally
            ``text_is_dropped`` [B], which replaces an example's text by pad vectors.
        """
        rows = self._rows(plan)
        predicting = slice(plan.prefix_length, None) if rows is None else rows.predicting
        return self.final_norm(self.stream(plan, batch)[:, predicting])

    def stream(self, plan: SequencePlan, batch: Batch) -> Float[Array, "B N D"]:
        """The residual stream of all fed rows after the last layer."""
        batch, rows = jax.tree.map(jnp.asarray, batch), self._rows(plan)
        x = self.embed_tokens(
            plan,
            batch["decoder_input_tokens"],
            batch["text_ids"],
            batch.get("text_is_dropped"),
            rows,
        )
        rotation, visible = rotation_table(plan.length - 1, self.config.head_dim), None
        if rows is not None:
            rotation, visible = rotation[rows.places], jnp.asarray(rows.visible)
        x = positions_whole(x)
        num_rows, more = x.shape[1], positions_to_add(x.shape[1])
        if more:
            # After everything else, so that no row sees them; cut off below.
            x = jnp.pad(x, ((0, 0), (0, more), (0, 0)))
            rotation = jnp.pad(rotation, ((0, more), (0, 0)))
            visible = None if visible is None else jnp.pad(visible, (0, more))
        x = positions_apart(self.dropout(x))
        x, _ = self.layers(x, rotation, _Prefix(plan.prefix_length), visible)
        x = positions_whole(x)
        x = x[:, :num_rows] if more else x
        if self.is_initializing() and not self.config.ties_embedding:
            self.head()  # made now: a submodule's parameters appear at its first use
        return x

    def _rows(self, plan: SequencePlan) -> FedRows | None:
        """None where rows and mask are those of raster, whatever the schedule's name."""
        rows = None if self.schedule == RASTER else fed_rows(plan, self.schedule)
        return rows if rows is not None and rows.num_extra else None

    def loss(self, plan: SequencePlan, batch: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Mean nats per weighted output token, z-loss included, and measures without it.

        The measures: ``loss_nats``, ``accuracy``, ``num_tokens`` (sum of weights), and
        ``nats_<segment>`` for each kind of target. Targets and weights of the prefix are not read.
        """
        total, nats, is_correct, weights = self._token_losses(plan, batch)
        num_tokens = jnp.sum(weights)
        measures = {
            "loss_nats": _ratio(nats.sum(), num_tokens),
            "accuracy": _ratio(is_correct.sum(), num_tokens),
            "num_tokens": num_tokens,
        }
        target_segments = plan.segment_index[plan.prefix_length + 1 :]
        for index in sorted(set(target_segments.tolist())):
            columns = (target_segments == index).nonzero()[0]
            name = f"nats_{self.config.vocabulary.segments[index].name}"
            measures[name] = _ratio(nats[:, columns].sum(), weights[:, columns].sum())
        return _ratio(total, num_tokens), measures

    def loss_by_part(self, plan: SequencePlan, batch: Batch) -> dict[str, dict[str, Array]]:
        """Sums over a batch's output tokens: {part: {"nats", "correct", "num_tokens"}}.

        Parts: "all"; each kind of target by its segment, "visual", "audio_0" (a level), ...; and
        latent frames, "visual/frame_00", ...
        """
        _, nats, is_correct, weights = self._token_losses(plan, batch)
        segments = plan.segment_index[plan.prefix_length + 1 :]
        columns = {"all": np.ones(len(segments), bool)}
        for index, segment in enumerate(self.config.vocabulary.segments):
            columns[segment.name] = segments == index
        # Coordinates count from 1; the clips' first latent frame is 0.
        frames = np.where(columns["visual"], plan.t[plan.prefix_length + 1 :], 0)
        for t in range(1, int(frames.max(initial=0)) + 1):
            columns[f"visual/frame_{t - 1:02}"] = frames == t
        named = {"nats": nats, "correct": is_correct, "num_tokens": weights}
        return {
            part: {name: values[:, chosen.nonzero()[0]].sum() for name, values in named.items()}
            for part, chosen in columns.items()
            if chosen.any()
        }

    def _token_losses(self, plan: SequencePlan, batch: Batch) -> tuple[Array, Array, Array, Array]:
        """Sum with z-loss, and for every output token [B, R] nats, correctness and weight."""
        hidden = self(plan, batch)
        vocabulary, first = self.config.vocabulary, plan.prefix_length
        targets = jnp.asarray(batch["decoder_target_tokens"])[:, first:]
        weights = jnp.asarray(batch["decoder_loss_weights"], jnp.float32)[:, first:]
        tables = self.embed if self.config.ties_embedding else self.head
        if self.config.ties_embedding:
            hidden = hidden * TIED_SCALE
        total, tokens = tiled_cross_entropy(
            hidden,
            tables(),
            tuple(segment.num_ids for segment in vocabulary.segments),
            targets,
            weights,
            self.config.tiles,
        )
        nats, is_correct = (tokens[name] * weights for name in ("nats", "is_correct"))
        return total, nats, is_correct, weights

    def embed_tokens(
        self,
        plan: SequencePlan,
        tokens: Int[Array, "B n"],
        text_ids: Int[Array, "B T"],
        text_is_dropped: Bool[Array, " B"] | None = None,
        rows: FedRows | None = None,
    ) -> Float[Array, "B _ D"]:
        """The residual stream's start for the first n positions, n < L, n past the text.

        With ``rows``, which need n = L - 1, that of those rows.
        """
        if plan.vocabulary != self.config.vocabulary:
            raise ValueError(
                f"The plan's vocabulary has {plan.vocabulary.size} ids"
                f" ({plan.vocabulary.fingerprint}), the model's {self.config.vocabulary.size}"
                f" ({self.config.vocabulary.fingerprint}); build both from the same tokenizers."
            )
        text_vectors = None
        if plan.text_slot is not None:
            text_vectors = self.text_vectors(text_ids, text_is_dropped)
        elif self.is_initializing():
            self.text_vectors(jnp.zeros((1, 1), jnp.int32), None)
        x = self.embed.sequence(plan, tokens, text_vectors)
        attributes = self.attributes(plan)[None, : tokens.shape[1]]
        if rows is not None:
            x, attributes = x[:, rows.sources], attributes[:, rows.places]
        x = x + attributes
        return x.astype(self.config.dtype)

    def attributes(self, plan: SequencePlan) -> Float[Array, "n D"]:
        """What the plan says about positions 0 to L-2 and about what each of them predicts."""
        names = [name for name, _ in self.config.limits.num_values]
        arrays = {name: getattr(plan, name) for name in names}
        here = self.here({name: array[:-1] for name, array in arrays.items()})
        return here + self.next({name: array[1:] for name, array in arrays.items()})

    def text_vectors(
        self, text_ids: Int[Array, "B T"], text_is_dropped: Bool[Array, " B"] | None
    ) -> Float[Array, "B T D"]:
        """One vector a slot: the encoder's up to the end of the text, then the pad vector.

        A dropped text is all pad vectors. That row is the null of guidance too, so that both
        halves of a pair have the same length and positions.
        """
        encoded = self.text_projection(self.text_encoder(text_ids)).astype(jnp.float32)
        is_text = text_ids != PAD_ID
        if text_is_dropped is not None:
            is_text = is_text & ~text_is_dropped[:, None]
        return jnp.where(is_text[:, :, None], encoded, self.text_pad[None, None, :])


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, 0 where the whole is 0 (a batch may hold no token of a kind)."""
    return part / jnp.where(whole > 0, whole, 1.0)
