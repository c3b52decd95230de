"""The image: built by docker where there is one, else the Dockerfile's steps are run in a scratch folder."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docs" / "deployment" / "Dockerfile"
TRAIN = ["recsys-fed", "simulate", "--data", "generated:users=200,items=40", "--silos", "2"]


def run(command: list[str] | str, **more: object) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=3000, shell=isinstance(command, str), **more
    )
    assert found.returncode == 0, f"{command}\n{found.stdout[-2000:]}\n{found.stderr[-4000:]}"
    return found


def instructions() -> list[tuple[str, str]]:
    """Instruction and rest of each line, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def copy_context(to: Path) -> None:
    """What .dockerignore lets through of what is under version control."""
    rules = (ROOT / ".dockerignore").read_text().split()
    let_through = tuple(rule[1:].rstrip("/") for rule in rules if rule.startswith("!"))
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if name in let_through or name.startswith(tuple(f"{part}/" for part in let_through)):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


def in_scratch(text: str, root: Path) -> str:
    """A step's absolute paths below the scratch folder, its pip that of the image's Python."""
    text = re.sub(r"(?<![\w./])/(source|wheels|tmp/constraints\.txt)", rf"{root}/\1", text)
    (extras,) = (rest.partition("=")[2].strip('"') for _, rest in instructions() if rest.startswith("EXTRAS="))
    return re.sub(r"\bpip (wheel|install)", rf"{root}/python/bin/pip \1", text.replace("${EXTRAS}", extras))


def docker_runs() -> bool:
    """Whether there is a docker whose daemon answers."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60).returncode == 0


@pytest.mark.soak
def test_docker_builds_the_image_and_it_trains():
    if not docker_runs():
        pytest.skip("no docker daemon: the steps are run by the other test")
    run(["docker", "build", "-q", "-f", str(DOCKERFILE), "-t", "recsys-fed:test", str(ROOT)])
    hardened = ["--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]  # noqa: S108  (in the container)
    run(["docker", "run", *hardened, "recsys-fed:test", *TRAIN, "--output", "/tmp/run"])  # noqa: S108


@pytest.mark.soak
def test_the_steps_of_the_image_give_a_program_that_trains(tmp_path):
    if docker_runs():
        pytest.skip("docker builds the image itself")
    root = tmp_path / "root"
    run([sys.executable, "-m", "venv", str(root / "python")])
    (root / "tmp").mkdir()
    for instruction, rest in instructions():
        if instruction == "COPY":
            *_, source, target = shlex.split(rest)
            if source == ".":
                copy_context(root / target.lstrip("/"))
            elif "--from" not in rest:
                shutil.copyfile(ROOT / source, root / target.lstrip("/"))
        elif instruction == "RUN":
            # The image's user is one of the image: here its number is enough.
            run(in_scratch(re.sub(r"&& useradd.*$", "", rest), root), cwd=root)
    assert not (root / "wheels").exists()
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(home)}
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    run(
        [str(root / "python" / "bin" / TRAIN[0]), *TRAIN[1:], "--output", str(home / "run")],
        env=environment,
        cwd=home,
    )
    assert (home / "run" / "metrics.json").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}, "the image may be read-only"
