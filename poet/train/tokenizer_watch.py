"""What the trainer of a tokenizer says while it runs: the progress line, and loud warnings."""

from collections.abc import Mapping

# Below this, a discriminator tells every clip apart; not telling them apart is 2 log 2 = 1.39 for
# the visual one, and 2, a hinge loss, for those of sound.
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
    return alarms | _lost_game(row, "Raise r1_weight, lower AdversarialConfig.learning_rate")


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
    return alarms | _lost_game(row, "Lower AudioGameConfig.learning_rate")


def _lost_game(row: Mapping[str, float], remedy: str) -> dict[str, str]:
    """The alarm of discriminators that tell everything apart, if there are such."""
    loss = row.get("discriminator")
    if loss is None or loss >= _WON:
        return {}
    return {
        "discriminator": f"the discriminator has won: its loss is {loss:.3f}. {remedy}, or begin"
        " from a longer training without it."
    }
