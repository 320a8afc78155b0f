"""Where gin files are: in the working directory, in the checkout, or in the installed package."""

import difflib
import pathlib

import poet


def roots() -> list[pathlib.Path]:
    """Returns the folders that may hold a `gin/`, in the order they are searched.

    The working directory comes first, so that a user's own gin/runs/mine.gin needs no installing.
    A wheel carries gin/ in poet/_gin/ (setup.py puts it there).
    """
    package = pathlib.Path(poet.__file__).resolve().parent
    candidates = [pathlib.Path.cwd(), package / "_gin"]
    if (package.parent / "setup.py").is_file():  # A checkout; in site-packages gin/ is the library.
        candidates.insert(1, package.parent)
    return [root for root in dict.fromkeys(candidates) if (root / "gin").is_dir()]


def find(name: str) -> pathlib.Path:
    """Returns the path of a gin file, named as a path, as gin/runs/x.gin or as runs/x.gin.

    Files that it includes are found in the same places: gin is told about them here.

    Raises:
      ValueError: when there is no such file, with the nearest names there are.
    """
    _tell_gin()
    wanted = pathlib.Path(name).expanduser()
    if wanted.is_file():
        return wanted
    for root in [] if wanted.is_absolute() else roots():
        for path in (root / wanted, root / "gin" / wanted):
            if path.is_file():
                return path
    known = names()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    raise ValueError(
        f"There is no gin file {name!r} in {', '.join(map(str, roots())) or pathlib.Path.cwd()}."
        f" Give a path, or one that comes with Poet: {', '.join(near) or 'none was installed'}."
    )


def names() -> list[str]:
    """Returns the gin files that `find` knows by name, as gin/runs/x.gin, sorted."""
    found = ((root, path) for root in roots() for path in (root / "gin").rglob("*.gin"))
    return sorted({path.relative_to(root).as_posix() for root, path in found})


def _tell_gin() -> None:
    """Lets `include 'gin/models/x.gin'` work from any working directory."""
    from gin import config

    for root in map(str, roots()):
        if root not in config._LOCATION_PREFIXES:
            config.add_config_file_search_path(root)
