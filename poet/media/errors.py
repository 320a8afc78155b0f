"""The one error of this room: a media file that cannot be used."""


class MediaError(ValueError):
    """A media file cannot be read or does not hold what was asked; one sentence says why."""
