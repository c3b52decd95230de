"""What a newcomer does: the commands of a page and nothing else, in an empty folder, each with its time.

    python tests/newcomer.py [PAGE]         # `make newcomer`: docs/learn/own-data.md

The page's `pip install` finds this checkout as a wheel, as if it were published; everything else comes from the
package index, and nothing from pip's cache or from the home directory. Python 3.11 or newer has to be there, and
no package.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from learn_pages import LEARN, blocks_of

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 3_600


def script_of(page: Path) -> tuple[list[str], str]:
    """The commands of a page, and a script that writes when each of them was done into $TIMES."""
    commands, lines = [], ["set -eo pipefail", 'echo "$EPOCHREALTIME" > "$TIMES"']
    for block in blocks_of(page):
        if block.language == "python":
            lines += [f"cat > {block.title} <<'END OF FILE'", block.text + "END OF FILE"]
        elif block.language == "bash":
            for command in block.commands():
                commands.append(command)
                lines += [command, 'echo "$EPOCHREALTIME" >> "$TIMES"']
    return commands, "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run a page; the exit code is that of the first command that failed, or 0."""
    page = Path(arguments[0]).resolve() if arguments else LEARN / "own-data.md"
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        wheel, home, place, times = (Path(folder) / name for name in ("wheel", "home", "place", "times"))
        home.mkdir()
        place.mkdir()
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheel, ROOT]
        subprocess.run(build, check=True, timeout=_SECONDS)
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        found = " ".join([str(wheel), os.environ.get("PIP_FIND_LINKS", "")]).strip()
        own = {"HOME": str(home), "TIMES": str(times), "PIP_FIND_LINKS": found, "PIP_NO_CACHE_DIR": "1"}
        commands, script = script_of(page)
        done = subprocess.run(["bash", "-c", script], cwd=place, env=kept | own, check=False, timeout=_SECONDS)
        moments = [float(line) for line in times.read_text().split()]
    told = [f"\n{page.name} on {os.cpu_count()} processors, at a load of {os.getloadavg()[1]:.1f}:"]
    told += [f"{moments[n + 1] - moments[n]:7.1f} s  {commands[n]}" for n in range(len(moments) - 1)]
    told += [f"failed     {commands[len(moments) - 1]}"] if done.returncode else []
    told += [f"{moments[-1] - moments[0]:7.1f} s  in all", ""]
    sys.stdout.write("\n".join(told))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
