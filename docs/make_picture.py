"""Record the moving picture of the README: ``python docs/make_picture.py``.

A real run: the whole service on this machine, a scan of 32 pages, and `submit --watch` in a terminal of 72 columns.
In the middle of it the worker's whole process group gets SIGKILL. What the terminal showed becomes an SVG that moves by
itself, faster than it was: its corner says how much. It needs the extra `dev`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

import psutil
import pyte

from tasks.sample import make_sample

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "survives-kill.svg"
COLUMNS, ROWS = 72, 9
PAGES, CHUNK_PAGES, KILL_AT = 32, 4, 35
COMMAND = "python -m tasks submit scan.pdf --watch"
#: Seconds: how often the terminal is looked at; how long the picture takes, a frame of it, and its last one.
EVERY, LENGTH, FRAME, LAST = 0.5, 24.0, 0.4, 4.0

_WIDTH, _HEIGHT, _TOP, _LEFT = 8.43, 19, 44, 18
_COLOURS = {
    "default": "#d6deeb",
    "cyan": "#4fc1c9",
    "green": "#7fc97f",
    "red": "#ef6b73",
    "brown": "#e3c26f",
    "yellow": "#e3c26f",
    "3a3a3a": "#3a4656",
}
_PERCENT = re.compile(r"(\d+) %")

Frame = tuple[str, ...]


def main() -> None:
    """Record, and write the picture."""
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as service:
        make_sample(Path(folder) / "scan.pdf", pages=PAGES)
        frames, seconds = _record(Path(folder), service)
    OUT.write_text(_svg(frames, seconds))
    print(f"{OUT}: {len(frames)} frames of {seconds:.0f} s, {OUT.stat().st_size / 1000:.0f} kB")


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "tasks", "up", "--port", "0", "--data-dir", str(folder / "var"), "--workers", "2"]
    environment = {**os.environ, "OCR_CHUNK_PAGES": str(CHUNK_PAGES), "OCR_DPI": "200"}
    with subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        try:
            next(line for line in service.stdout if line.startswith("web: "))
            yield service
        finally:
            service.send_signal(signal.SIGINT)
            service.wait(60)


def _record(folder: Path, service: subprocess.Popen[str]) -> tuple[list[tuple[float, Frame]], float]:
    """What the terminal showed, and from when on, in seconds; and how long it took."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    caption = ""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, *COMMAND.split()[1:], "--data-dir", "var"]
        os.execve(sys.executable, argv, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    begun = time.monotonic()
    frames: list[tuple[float, Frame]] = []
    looked = -EVERY
    while _fed(terminal, stream):
        now = time.monotonic() - begun
        if now - looked < EVERY:
            continue
        looked = now
        frames.append((now, _frame(screen, caption)))
        percents = [int(each) for each in _PERCENT.findall("\n".join(screen.display))]
        if not caption and percents and percents[-1] >= KILL_AT:
            worker = _worker(service.pid)
            os.killpg(worker, signal.SIGKILL)
            caption = f"kill -9 -{worker}   # the worker and its two processes"
    os.waitpid(pid, 0)
    now = time.monotonic() - begun
    return [*frames, (now, _frame(screen, caption))], now


def _fed(terminal: int, stream: pyte.ByteStream) -> bool:
    """Pass on what the command wrote; False at its end."""
    if select.select([terminal], [], [], EVERY / 4)[0]:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            return False
        stream.feed(data)
        return bool(data)
    return True


def _worker(up: int) -> int:
    children = psutil.Process(up).children()
    return next(child.pid for child in children if "worker" in child.cmdline())


def _frame(screen: pyte.Screen, caption: str) -> Frame:
    """The lines of a screen as SVG, each a row of spans of one colour."""
    lines = [f'<tspan fill="#8b9bb0">$ </tspan>{escape(COMMAND)}', *(_line(screen, row) for row in range(ROWS - 3))]
    lines.append(f'<tspan fill="#8b9bb0">another terminal  $ </tspan>{escape(caption)}' if caption else "")
    return tuple(lines)


def _line(screen: pyte.Screen, row: int) -> str:
    spans: list[tuple[str, str]] = []
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
        style = f'fill="{_COLOURS.get(cell.fg, _COLOURS["default"])}"' + (' font-weight="700"' if cell.bold else "")
        if spans and (spans[-1][0] == style or cell.data == " "):
            spans[-1] = spans[-1][0], spans[-1][1] + cell.data
        else:
            spans.append((style, cell.data))
    if spans:
        spans[-1] = spans[-1][0], spans[-1][1].rstrip()
    return "".join(f"<tspan {style}>{escape(text)}</tspan>" for style, text in spans if text)


def _svg(frames: list[tuple[float, Frame]], recorded: float) -> str:
    """An SVG that shows one frame after the other, again and again, without a script."""
    speed = max(1.0, recorded / LENGTH)
    shown: list[tuple[float, Frame]] = []
    for at, frame in frames:
        # A frame that is too near to the one before it is left out, unless it is of another kind.
        if not shown or at / speed - shown[-1][0] >= FRAME or frame[-1] != shown[-1][1][-1]:
            shown.append((at / speed, frame))
    shown.append((recorded / speed, frames[-1][1]))
    ends = [*(at for at, _ in shown[1:]), recorded / speed + LAST]
    shown = [(end - at, frame) for (at, frame), end in zip(shown, ends, strict=True)]
    total = sum(seconds for seconds, _ in shown)
    width, height = round(COLUMNS * _WIDTH + 2 * _LEFT), _TOP + ROWS * _HEIGHT
    texts, rules, at = [], [], 0.0
    names: dict[str, str] = {}
    for number, (seconds, frame) in enumerate(shown):
        first, last = 100 * at / total, 100 * (at + seconds) / total
        before = f"0%,{first:.3f}%{{opacity:0}}" if number else ""
        after = f"{last:.3f}%,100%{{opacity:0}}" if number + 1 < len(shown) else ""
        rules.append(f"@keyframes f{number}{{{before}{first:.3f}%{{opacity:1}}{after}}}")
        rules.append(f"#f{number}{{animation:f{number} {total:.2f}s steps(1,end) infinite}}")
        rows = (
            f'<use href="#{names.setdefault(line, f"l{len(names)}")}" y="{_TOP + (row + 0.7) * _HEIGHT:.0f}"/>'
            for row, line in enumerate(frame)
            if line
        )
        texts.append(f'<g id="f{number}" class="f">{"".join(rows)}</g>')
        at += seconds
    # Lines that stay are in it once.
    lines = "".join(f'<text id="{name}" x="{_LEFT}" xml:space="preserve">{line}</text>' for line, name in names.items())
    note = f'<text x="{width - _LEFT}" y="25" text-anchor="end" opacity=".6">{speed:.0f} × speed</text>'
    dots = "".join(f'<circle cx="{20 + 18 * place}" cy="20" r="5.5" fill="#4a5768"/>' for place in range(3))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="A progress bar that goes on after its worker was killed">\n<style>'
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d6deeb}"
        ".f{opacity:0}@media (prefers-reduced-motion:reduce){.f{animation:none!important}"
        f".f:last-of-type{{opacity:1}}}}{''.join(rules)}</style>\n"
        f'<rect width="{width}" height="{height}" rx="9" fill="#141c26"/>{dots}{note}\n<defs>{lines}</defs>\n'
        + "\n".join(texts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()
