"""Which attention runs, by name: plain products anywhere, or a kernel of one kind of device."""

from poet.layers.sharding import platform

# Names of `PrefixLMConfig.attention`.
ATTENTIONS = ("auto", "plain", "splash", "splash_interpreted", "cudnn")


def check_name(name: str) -> None:
    """ValueError if a configuration's `attention` is no name."""
    if name not in ATTENTIONS:
        raise ValueError(f"attention={name!r} is unknown; choose one of {', '.join(ATTENTIONS)}.")


def chosen(name: str) -> str:
    """The name for the devices that are compiled for: any but "auto".

    "auto" is "splash" on TPU and "plain" everywhere else: on no GPU was "cudnn" measured yet.

    Raises:
      ValueError: A kernel on devices that it is not for.
    """
    if name == "auto":
        return "splash" if platform() == "tpu" else "plain"
    if name == "splash" and platform() != "tpu":
        raise ValueError(
            f"attention='splash' is a kernel for TPU, this program is for {platform()}; use 'auto',"
            " which takes it on TPU only, or 'splash_interpreted', which is slow and for tests."
        )
    if name == "cudnn" and platform() != "gpu":
        raise ValueError(
            f"attention='cudnn' is for NVIDIA GPUs, this program is for {platform()}; use 'auto'."
        )
    return name
