"""What the trainer of a tokenizer says while it runs: the progress line, and loud warnings."""

from collections.abc import Mapping

# Below this, a discriminator tells every clip apart (2 log 2 = 1.39 is not telling them apart).
_WON = 0.05


def visual_note(measures: Mapping[str, float]) -> str:
    """PSNR, codes in use and, in the game, the discriminator's means, in a few words."""
    words = [f"{measures['psnr_db']:.1f} dB", f"{measures['codes_used_lately']:,.0f} codes"]
    if "logit_real" in measures:
        words.append(f"D {measures['logit_real']:+.2f} real {measures['logit_fake']:+.2f} fake")
    return ", ".join(words)


def visual_alarms(
    step: int, row: Mapping[str, float], *, num_codes: int, window: int, floor: float, start: int
) -> dict[str, str]:
    """Sentences about a collapse, by name: "codes", "discriminator".

    Args:
      step: Steps done.
      row: Mean measures of the last steps.
      num_codes: Of the quantizer.
      window: Steps that `codes_used_lately` looks back.
      floor: Smallest share of the codes that could be in use, of all codes or of the tokens seen if
        those are fewer.
      start: Steps before which a share below the floor is the usual beginning.
    """
    alarms = {}
    possible = min(num_codes, window * row.get("num_tokens", num_codes))
    used = row.get("codes_used_lately", possible)
    if step >= start and used < floor * possible:
        alarms["codes"] = (
            f"the codes collapse: {used:,.0f} of {possible:,.0f} possible ones were used in the"
            f" last {window} steps, below the floor of {floor:.0%}. Raise entropy_weight or its"
            " boost, raise the temperature, or take fewer bits."
        )
    if row.get("discriminator", 1.0) < _WON:
        alarms["discriminator"] = (
            f"the discriminator has won: its loss is {row['discriminator']:.3f}. Raise r1_weight,"
            " lower AdversarialConfig.learning_rate, or begin from a longer training without it."
        )
    return alarms


def audio_alarms(
    step: int,
    row: Mapping[str, float],
    *,
    num_levels: int,
    num_codes: int,
    num_frames: int,
    floor: float,
    start: int,
) -> dict[str, str]:
    """Sentences about a collapse, by name: "codes_N" for level N, "discriminator".

    Args:
      step: Steps done.
      row: Mean measures of the last steps.
      num_levels: Of the quantizer.
      num_codes: Of each level.
      num_frames: Audio frames of a batch; no level can use more codes in it.
      floor: Smallest share of the codes that could be in use.
      start: Steps before which a share below the floor is the usual beginning.
    """
    alarms = {}
    possible = min(num_codes, num_frames)
    for level in range(num_levels):
        used = row.get(f"codes_used_{level}", possible)
        if step >= start and used < floor * possible:
            alarms[f"codes_{level}"] = (
                f"the codes of level {level} collapse: {used:,.1f} of {possible:,} possible ones"
                f" are used a batch, below the floor of {floor:.0%}. Raise dead_below, lower"
                " codebook_decay or place_above, or look whether the sounds are silent."
            )
    if row.get("discriminator", 2.0) < _WON:
        alarms["discriminator"] = (
            f"the discriminators have won: their loss is {row['discriminator']:.3f}. Lower"
            " AudioGameConfig.learning_rate, or begin from a longer training without them."
        )
    return alarms
