"""Poet: raw clips in, one language model over text, image, video and sound tokens, clips out."""

__version__ = "0.1.0"
