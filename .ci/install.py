"""Runs `pip install` with the arguments given and shows its progress in few lines.

On a terminal that is one moving line, elsewhere a line a package; pip itself offers silence or much more.
Its errors pass through as they are.
"""

import re
import subprocess
import sys
import time


def main() -> int:
    """Install, and return pip's exit status."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *sys.argv[1:]]
    started, count, name = time.monotonic(), 0, ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if found := re.match(r" *(?:Collecting |Processing .*/)([\w.]+(?:-[a-zA-Z]\w*)*)", line):
                count, name = count + 1, found[1]
                show(f"package {count}: {name}")
            elif found := re.match(r" *Downloading .*\((.*[MG]B)\)", line):
                show(f"package {count}: {name}, {found[1]}")
            elif line.startswith("Installing collected"):
                show(f"unpacking {count} packages")
    show(f"done after {time.monotonic() - started:.0f} s\n" if pip.returncode == 0 else "pip failed\n")
    return pip.returncode


def show(text: str) -> None:
    """Print in place of the last text on a terminal, below it elsewhere."""
    moving = sys.stdout.isatty()
    print(f"\r\033[K  {text}" if moving else f"  {text}", end="" if moving else "\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
