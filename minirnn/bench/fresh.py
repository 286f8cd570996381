"""Programs run in processes of their own, as a user would start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import MinirnnError

_ROOT = str(Path(__file__).resolve().parents[2])


class ProgramError(MinirnnError, RuntimeError):
    """A program that was to be measured ended with an error."""


def run(program: str, wishes: dict[str, Any], **environment: str) -> dict[str, Any]:
    """What `program` printed last, as JSON; it finds `wishes` as JSON in its first argument.

    >>> run("import json, sys; print(json.dumps({'twice': 2 * json.loads(sys.argv[1])['n']}))", {"n": 3})
    {'twice': 6}
    """
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its byte code
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(wishes)],
        env=env,
        capture_output=True,
        text=True,
    )
    if done.returncode or not done.stdout.strip():
        raise ProgramError("bench: a process of its own", got=f"exit code {done.returncode}", where=done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
