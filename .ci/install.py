"""Install the checkout with an extra into the environment of this Python, and say what is going on.

``.venv/bin/python .ci/install.py run``. It runs before anything is installed, so it needs nothing but Python and pip.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_DOWNLOADING = re.compile(r"\s*Downloading (\S+?)-\d\S* \(([\d.]+ [kMG]B)\)")
_COLLECTED = re.compile(r"Collecting (\S+)")
_INSTALLING = "Installing collected packages: "
_LAST_LINES = 40


def main(extra: str) -> int:
    """Run pip; its own output is printed only where it fails. Returns its exit code."""
    begun = time.monotonic()
    # Bytecode is made by what is used, and only for that: a quarter less to write.
    options = ["--disable-pip-version-check", "--no-input", "--no-compile", "--progress-bar", "off"]
    pip = subprocess.Popen(
        [sys.executable, "-m", "pip", "install", *options, "-e", f".[{extra}]"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    last: deque[str] = deque(maxlen=_LAST_LINES)
    shown = _Line()
    found = installed = 0
    assert pip.stdout is not None
    for line in pip.stdout:
        last.append(line)
        if match := _DOWNLOADING.match(line):
            shown.now(f"downloading {Path(match[1]).name} ({match[2]}), {found} packages so far")
        elif _COLLECTED.match(line):
            found += 1
            shown.now(f"looking for packages, {found} so far", passing=True)
        elif line.startswith(_INSTALLING):
            installed = line.count(",") + 1
            shown.now(f"writing {installed} packages")
    code = pip.wait()
    shown.end()
    if code:
        sys.stderr.writelines(last)
        print("The installation failed; what pip said last is above. `make` tries it again.", file=sys.stderr)
        return code
    size = sum(path.lstat().st_blocks for path in Path(sys.prefix).rglob("*")) * 512 / 1e6
    print(f"  {installed} packages new; {size:.0f} MB in all, in {time.monotonic() - begun:.0f} s", flush=True)
    return 0


class _Line:
    """What is going on: one line that changes on a terminal, a line each elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._width = os.get_terminal_size().columns if self._terminal else 0

    def now(self, text: str, *, passing: bool = False) -> None:
        """Show it; what is ``passing`` is not worth a line of its own."""
        if self._terminal:
            print(f"\r\x1b[K  {text}"[: self._width + 3], end="", flush=True)
        elif not passing:
            print(f"  {text}", flush=True)

    def end(self) -> None:
        """Wipe the line that changes."""
        if self._terminal:
            print("\r\x1b[K", end="", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; `make` goes on where it was.")
