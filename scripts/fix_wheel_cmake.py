"""Make the CMake files of the ROS 2 wheels name this virtual environment's Python and NumPy headers.

The wheels' exported targets carry the include directories of the machine that built them, and CMake refuses to
generate while these do not exist. Run with the virtual environment's own Python; a second run changes nothing.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

BUILDER_PATHS = (
    (r"/opt/python/cp\d+-cp\d+t?/lib/python[\d.]+t?/site-packages/numpy/_?core/include", numpy.get_include()),
    (r"/opt/python/cp\d+-cp\d+t?/include/python[\d.]+t?", sysconfig.get_paths()["include"]),
)


def fix(prefix: Path) -> int:
    """Rewrite the builder's paths in prefix/share/*/cmake/*.cmake; return how many files changed."""
    changed = 0
    for path in sorted(prefix.glob("share/*/cmake/*.cmake")):
        text = path.read_text()
        new = text
        for pattern, replacement in BUILDER_PATHS:
            new = re.sub(pattern, lambda _, here=replacement: here, new)
        if new != text:
            path.write_text(new)
            changed += 1
    return changed


if __name__ == "__main__":
    print(f"{fix(Path(sys.prefix))} CMake files of the ROS 2 wheels now name this environment's headers")
