"""What every command shares: errors as one sentence, and gin read at the door.

def main(argv=None):
    return commands.run_command(_run, argv)
"""

import argparse
import errno
import os
import re
import socket
import sys
import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DEBUG_FLAG = "--debug"


class UserError(ValueError):
    """A person asked for something that cannot be done; the message is one clear sentence."""


def run_command(run: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    A ValueError, or an OSError about a file, becomes one sentence on stderr and exit code 2; with
    --debug (or POET_DEBUG=1) the traceback comes first. One about a connection has exit code 1:
    schedulers start again after it, not after 2. Other exceptions are bugs and stay loud.

    Args:
      run: Takes the arguments without the program's name, without --debug; None counts as 0.
      argv: Defaults to the process's arguments.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    is_debug = DEBUG_FLAG in argv or os.environ.get("POET_DEBUG") == "1"
    argv = [word for word in argv if word != DEBUG_FLAG]
    try:
        return run(argv) or 0
    except KeyboardInterrupt:
        print("Interrupted; start the same command again to continue.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        if is_debug:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1 if _is_about_a_connection(error) else 2


def _is_about_a_connection(error: BaseException) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500  # Below, the address is wrong, or may not be read.
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, urllib.error.URLError)):
        return True
    lost = (errno.ESTALE, errno.ENETUNREACH, errno.EHOSTUNREACH)
    return isinstance(error, OSError) and error.errno in lost


def sentence(error: BaseException) -> str:
    """Returns an exception's message as one line, without what gin adds about its call stack."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. Free space there, then start the same command again."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Check the path and its permissions."
    message = str(error).partition(" in config string:")[0]
    lines = [line.strip() for line in message.splitlines()]
    kept = [line for line in lines if line and not line.startswith("In call to configurable")]
    text = " ".join(kept) or type(error).__name__
    return text if text[-1] in ".!?)" else text + "."


def parser(doc: str, name: str) -> argparse.ArgumentParser:
    """Returns an argparse parser that shows a command's module docstring as its help."""
    return argparse.ArgumentParser(
        prog=f"poet {name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def keep_compiled_programs() -> None:
    """Lets XLA keep programs on disk, so that the next call of a command need not compile them.

    In $JAX_COMPILATION_CACHE_DIR, else in the user's cache folder.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "poet", "xla"))
    # Programs of a decoding step take seconds to compile and little to keep.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def check_writable(folder: str | os.PathLike, may_be_remote: bool = False) -> None:
    """UserError unless files can be written to a folder, or it can be made; makes nothing.

    Asked before long work, so that it does not end with nothing to show. Remote folders are trusted
    by commands that can write there, and refused by the others.
    """
    if "://" in os.fspath(folder):
        if may_be_remote:
            return
        raise UserError(
            f"Expected a local folder, got {folder}; this command writes local files only: copy"
            " them when it has ended."
        )
    nearest = Path(folder).absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    # os.path, not Path: folders that may not be searched count as not there, without an exception.
    if os.path.lexists(nearest) and not os.path.isdir(nearest):
        raise UserError(f"Cannot write to {folder}: {nearest} is a file; choose another folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"Cannot write to {folder}: you may not write to {nearest}; choose another folder."
        )


def split_gin(argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Splits arguments into (gin files, bindings, the rest).

    T5X's flags are understood: `--gin_file F` (repeatable, later ones win) and `--gin.NAME=value`.
    A value that gin cannot read is taken as text, so that paths need no second pair of quotes.

    Raises:
      UserError: for a flag without its value.
    """
    files, bindings, rest = [], [], []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--gin_file":
            if not words:
                raise UserError("--gin_file expects a file; for example gin/runs/demo.gin.")
            files.append(words.pop(0))
        elif word.startswith("--gin_file="):
            files.append(word.removeprefix("--gin_file="))
        elif word.startswith("--gin."):
            name, equals, value = word.removeprefix("--gin.").partition("=")
            if not equals or not name:
                raise UserError(
                    f"{word!r} has no value; write --gin.NAME=value, for example"
                    " --gin.TRAIN_STEPS=100."
                )
            bindings.append(f"{name} = {_gin_value(value)}")
        else:
            rest.append(word)
    return files, bindings, rest


def read_gin(files: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads gin files and bindings into gin's one configuration, which starts empty.

    Files are looked for as given, then among the files that come with Poet. Modules that a gin file
    imports may lie in the working directory.

    Raises:
      UserError: for a file that is not there, a line that gin cannot read, an unknown name.
    """
    import gin

    from poet.main import gin_files

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    gin.clear_config()
    found = [str(gin_files.find(name)) for name in files]
    try:
        gin.parse_config_files_and_bindings(found, list(bindings))
    except (ValueError, SyntaxError, ImportError, OSError, AttributeError) as error:
        missing = re.search(r"(\S+)/macro.value set to `%gin.REQUIRED`", str(error))
        if missing:
            name = missing.group(1)
            raise UserError(
                f"{name} has no value in {', '.join(files)}; add --gin.{name}=value."
            ) from error
        raise UserError(
            f"gin cannot read {', '.join([*files, *bindings])}: {sentence(error)} Names are those"
            " of the classes under poet/ and of the macros at the top of each gin file."
        ) from error


def call_configured(configurable: Any) -> Any:
    """Calls a class or function with its gin bindings, then refuses bindings nothing read.

    Raises:
      UserError: naming the bindings that were not read (a typo in a macro's name, usually).
    """
    import gin

    made = gin.get_configurable(configurable)()
    unread = _unread()
    if unread:
        raise UserError(
            f"Nothing reads {', '.join(unread)}; check the spelling against the macros and classes"
            " of the gin files, or remove it."
        )
    return made


def _unread() -> list[str]:
    """Bindings that are set and were never used, as a person writes them: NAME or Class.field."""
    from gin import config

    unread = []
    # gin keeps no public list of what was read, only the text of it.
    for (scope, selector), values in sorted(config._CONFIG.items()):
        read = set()
        for (used_scope, used), names in config._OPERATIVE_CONFIG.items():
            # A class reached through a macro is read in the macro's scope.
            if used == selector and (not scope or scope in used_scope.split("/")):
                read |= set(names)
        for name in values:
            if name not in read:
                short = f"{selector.split('.')[-1]}.{name}"
                unread.append(scope if selector == "gin.macro" else short)
    return unread


def _gin_value(text: str) -> str:
    from gin import config

    try:
        config.parse_value(text)
        return text
    except (ValueError, SyntaxError):
        return repr(text)
