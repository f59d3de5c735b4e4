"""The browser's side of the live stream, in Node."""

from __future__ import annotations

import shutil
import subprocess

from tests.support.processes import ROOT
from tests.support.services import missing


def test_progress_js_in_node() -> None:
    """`tests/web/progress.test.mjs`: order of versions, the end, reconnects, errors that are final."""
    node = shutil.which("node")
    if node is None:
        missing("Node", "apt-get install nodejs")
    argv = [node, "--test", "--test-reporter", "tap", *map(str, sorted((ROOT / "tests/web").glob("*.test.mjs")))]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "\n# fail 0\n" in done.stdout
    assert "\n# pass 0\n" not in done.stdout
