"""Runs Python code in a process of its own whose every opened file, process and socket is written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# The hook is in force from the line `audit.begin()` on; the imports before it open the interpreter's own files.
_PRELUDE = """
import json, sys
class audit:
    events, on = [], False
    @classmethod
    def begin(cls): cls.on = True
    @classmethod
    def end(cls): cls.on = False
WATCHED = ("open", "exec", "compile", "import", "os.", "subprocess.", "socket.", "ctypes.", "pickle.", "shutil.")
def hook(name, arguments):
    if audit.on and name.startswith(WATCHED):
        audit.on = False
        audit.events.append([name, [str(a)[:300] for a in arguments]])
        audit.on = True
sys.addaudithook(hook)
"""
_POSTLUDE = """
audit.end()
json.dump(audit.events, open(sys.argv[-1], "w"))
"""


def run_audited(code: str, folder: Path, *arguments: Any) -> list[tuple[str, list[str]]]:
    """Run code with sys.argv[1:] = arguments; return its audit events between audit.begin() and its end."""
    script, events = folder / "audited.py", folder / "events.json"
    script.write_text(_PRELUDE + code + _POSTLUDE)
    command = [sys.executable, str(script), *map(str, arguments), str(events)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [(name, values) for name, values in json.loads(events.read_text())]
