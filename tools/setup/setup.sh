#!/usr/bin/env bash
# Makes .venv with everything Poet needs, or does nothing when it is already there.
#
#   make setup                   Python 3.11, 3.12 or 3.13, the first that runs
#   make setup PYTHON=python3.12  that one
#   make setup EXTRAS=torch,plan  with extras of setup.py
#
# What was installed is written to .venv/poet-setup.txt last, so an interrupted setup starts over.
set -euo pipefail
cd "$(dirname "$0")/../.."

STAMP=.venv/poet-setup.txt
NOTES=.venv/poet-notes.txt

say() { echo "setup: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# Runs the candidate: a name on PATH may be a shim with no interpreter behind it.
minor_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

is_fit() { case "$(minor_of "$1")" in 3.11 | 3.12 | 3.13) true ;; *) false ;; esac }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    is_fit "$PYTHON" && echo "$PYTHON" && return
    local found
    found=$(minor_of "$PYTHON")
    die "PYTHON=$PYTHON is ${found:+Python }${found:-not an interpreter that runs}, and Poet needs" \
      "Python 3.11, 3.12 or 3.13: name another one, or leave PYTHON out."
  fi
  local name
  for name in python3.11 python3.12 python3 python3.13 python; do
    is_fit "$name" && echo "$name" && return
  done
  # uv also knows interpreters that are not on PATH.
  name=$(uv python find --no-python-downloads '>=3.11,<3.14' 2>/dev/null || true)
  [ -n "$name" ] && is_fit "$name" && echo "$name" && return
  local version
  version=$(minor_of python3)
  die "Poet needs Python 3.11, 3.12 or 3.13, and the python3 here is ${version:-missing}:" \
    "install one of them, or run make setup PYTHON=/path/to/python3.11."
}

# What the environment was made for: the folder (scripts in .venv/bin name it) and the files that say
# what to install. The third line of the stamp keeps the extras, for a later setup without EXTRAS.
fingerprint() {
  echo "$PWD"
  cat requirements/py3*.txt setup.py tools/setup/setup.sh | cksum
}

is_ready() {
  [ -x .venv/bin/python ] && [ "$(head -n 2 "$STAMP" 2>/dev/null)" = "$(fingerprint)" ] || return 1
  [ -z "${EXTRAS:-}" ] || [ "$EXTRAS" = "$(sed -n 3p "$STAMP")" ] || return 1
  [ -z "${PYTHON:-}" ] || [ "$(minor_of "$PYTHON")" = "$(minor_of .venv/bin/python)" ]
}

make_environment() {
  local python
  if [ -x .venv/bin/python ] && [ -n "$(minor_of .venv/bin/python)" ]; then
    is_fit .venv/bin/python || die ".venv holds Python $(minor_of .venv/bin/python), and Poet needs" \
      "Python 3.11, 3.12 or 3.13: remove .venv and run make setup again."
    if [ -n "${PYTHON:-}" ]; then
      python=$(find_python)
      [ "$(minor_of "$python")" = "$(minor_of .venv/bin/python)" ] || die ".venv holds Python" \
        "$(minor_of .venv/bin/python), and PYTHON=$PYTHON is $(minor_of "$python"): remove .venv" \
        "and run make setup again."
    fi
    return
  fi
  if [ -e .venv ] && [ ! -e .venv/pyvenv.cfg ]; then
    die ".venv is not a Python environment: move it away and run make setup again."
  fi
  python=$(find_python)
  say "making .venv with Python $(minor_of "$python")"
  rm -rf .venv
  if ! "$python" -m venv .venv 2>/dev/null; then
    rm -rf .venv
    uv venv --quiet --python "$("$python" -c 'import sys; print(sys.executable)')" .venv ||
      die "$python could not make a virtual environment: install its venv module" \
        "(Debian: apt install python3-venv) or uv, and run make setup again."
  fi
}

# uv is many times faster than pip; either gives the same versions, since the lock names them all.
choose_installer() {
  local quiet=--quiet
  if [ -t 2 ]; then quiet=--color=auto; fi # Someone watches: show the downloads.
  if uv --version >/dev/null 2>&1; then
    INSTALL=(uv pip install "$quiet" --python .venv/bin/python)
  elif .venv/bin/python -m pip install --quiet uv 2>/dev/null; then
    INSTALL=(.venv/bin/python -m uv pip install "$quiet" --python .venv/bin/python)
  else
    use_pip
  fi
}

use_pip() {
  .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
  INSTALL=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
}

# "compat" puts the checkout itself on the path. The default (an import hook) loses to any folder
# named poet in the current directory.
AS_PATH=(--config-settings editable_mode=compat)

install_all() {
  local lock=$1
  shift
  "${INSTALL[@]}" -r "$lock" &&
    "${INSTALL[@]}" --no-deps --no-build-isolation "${AS_PATH[@]}" --editable . &&
    { [ -z "${EXTRAS:-}" ] || "${INSTALL[@]}" --no-build-isolation "${AS_PATH[@]}" -c "$lock" --editable ".[$EXTRAS]"; }
}

install_locked() {
  local lock
  lock=requirements/py$(minor_of .venv/bin/python | tr -d .)
  choose_installer
  say "installing $lock.txt (about 3 GB unpacked: a minute or more, once)"
  rm -f "$NOTES"
  if can_compile_what_it_must && install_all "$lock.txt"; then return; fi
  say "that is not possible here; installing without SeqIO, TensorFlow and Beam"
  if install_all "$lock-reduced.txt"; then
    missing_parts >"$NOTES"
    return
  fi
  say "that failed too; trying pip"
  use_pip
  install_all "$lock.txt" ||
    die "could not install $lock.txt, see above: is a package registry in reach?"
}

# Only SeqIO's editdistance on Python 3.13 has no wheel.
can_compile_what_it_must() {
  [ "$(minor_of .venv/bin/python)" != 3.13 ] || command -v c++ g++ clang++ >/dev/null
}

missing_parts() {
  echo "this environment lacks the optional parts SeqIO, TensorFlow and Beam; what runs without" \
    "them reads and writes array_record files."
  echo "to get them, use Python 3.11 or 3.12, or install a C++ compiler (SeqIO's editdistance has" \
    "no wheel for 3.13), then remove .venv and run make setup again."
}

main() {
  if ! is_ready; then
    if [ -f "$STAMP" ]; then
      EXTRAS=${EXTRAS:-$(sed -n 3p "$STAMP")}
      # Scripts of a moved checkout name its old folder; the environment is made anew.
      [ "$(head -n 1 "$STAMP")" = "$PWD" ] || rm -rf .venv
    fi
    make_environment
    rm -f "$STAMP"
    install_locked
    { fingerprint && echo "${EXTRAS:-}"; } >"$STAMP.new"
    mv "$STAMP.new" "$STAMP"
    say "ready: .venv, $(.venv/bin/python --version)"
    [ -f "$NOTES" ] || say "no optional part is missing here (SeqIO, TensorFlow and Beam are in)"
  fi
  if [ -f "$NOTES" ]; then sed 's/^/setup: /' "$NOTES" >&2; fi
}

main
