#!/usr/bin/env bash
# Write requirements/lock.txt (what predicts, simulates and reports, with ROS 2 as wheels), lock-test.txt (that, the
# trainer and the checks) and lock-tools.txt (what installs them): every package with its version and the SHA-256 of its
# files, for Python 3.11 on x86-64 Linux. Run `make lock` after a change of requirements/. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv="${UV:-uv}"

# PyTorch's CPU build has a local version of its own; PIP_FIND_LINKS names a folder or page that holds it where the
# package index does not. The lock names no index: it holds wherever these very files are.
options=(--quiet --generate-hashes --python-version 3.11 --python-platform x86_64-unknown-linux-gnu
  --no-emit-index-url --no-emit-find-links --no-header --no-annotate)
[ -z "${PIP_FIND_LINKS:-}" ] || options+=(--find-links "$PIP_FIND_LINKS")

lock() { # lock <file> <comment> <requirements...>
  local file="$1" comment="$2"
  shift 2
  local made
  made="$(mktemp)"
  printf '%s\n' 'setuptools>=68,<80' "${extra[@]}" | "$uv" pip compile "${options[@]}" -c <(printf 'torch==2.13.0+cpu\n') "$@" - --output-file "$made" >/dev/null
  { printf '# %s\n# Made by scripts/lock.sh; used by `make LOCKED=1 ...`, or pip install --require-hashes -r %s\n' "$comment" "$file"
    grep -v '^#' "$made"; } >"$file"
  rm -f "$made"
}
extra=('pip>=24' wheel)
lock requirements/lock-tools.txt "What installs the others; installed first, so that nothing is built with tools unseen."
extra=(cmake) # scripts/setup.sh brings it where the machine has none
lock requirements/lock.txt "The demo with ROS 2 as wheels, for Python 3.11 on x86-64 Linux." requirements/{demo,ros}.txt
lock requirements/lock-test.txt "Training and tests beside it, with PyTorch's CPU build." requirements/{test,ros}.txt
