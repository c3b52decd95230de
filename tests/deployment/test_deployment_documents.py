"""Units, the compose file and the guide say what the command understands."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from command_line import run_command

DOCS = Path(__file__).resolve().parents[2] / "docs"
UNITS = sorted((DOCS / "deployment").glob("*.service"))
# systemd.exec(5), systemd.service(5), systemd.unit(5): the settings that the units use.
SECTIONS = {
    "Unit": {"Description", "Documentation", "After", "Wants"},
    "Service": {
        "Type", "User", "EnvironmentFile", "ExecStartPre", "ExecStart", "ExecReload", "Restart", "RestartSec",
        "KillMode", "TimeoutStopSec", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp",
        "PrivateDevices", "ReadWritePaths", "UMask",
    },
    "Install": {"WantedBy"},
}  # fmt: skip


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(path.read_text())
    return parser


def assert_command(words: list[str]) -> None:
    """The command exists with these flags: asked for help, it explains itself instead of running."""
    where = words.index("recsys-fed") if "recsys-fed" in words else 0
    code, out, err = run_command(*words[where + 1 :], "--help")
    assert code == 0, err
    assert "Usage" in out


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_well_formed_and_starts_a_command_that_exists(path):
    found = unit(path)
    assert set(found.sections()) == set(SECTIONS)
    for name in found.sections():
        assert set(found[name]) <= SECTIONS[name]
    for key in ("ExecStart", "ExecStartPre"):
        if key in found["Service"]:
            program, *words = shlex.split(found["Service"][key])
            assert program == "/opt/recsys-fed/bin/recsys-fed"
            assert_command(["recsys-fed", *words])
            assert found["Service"]["ReadWritePaths"] in words
    assert "Insecure" not in path.read_text() and "--insecure" not in path.read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_itself_takes_the_unit(path):
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line and "User" not in line]
    assert not [line for line in complaints if path.name in line]


def test_the_compose_file_starts_commands_that_exist():
    found = yaml.safe_load((DOCS / "deployment" / "compose.yaml").read_text())
    assert set(found) == {"services"}
    for name, service in found["services"].items():
        assert service["command"][0] == "recsys-fed"
        assert_command(service["command"])
        assert {"image", "command", "user", "read_only", "volumes", "restart"} <= set(service)
        mounted = [volume.split(":")[1] for volume in service["volumes"]]
        assert service["command"][-1] in mounted, name
        assert service["user"] != "0:0"
        assert service["cap_drop"] == ["ALL"]
    assert "ports" not in found["services"]["silo"]


def test_kubernetes_takes_the_manifests_and_they_start_commands_that_exist():
    documents = list(yaml.safe_load_all((DOCS / "deployment" / "kubernetes.yaml").read_text()))
    for document in documents:
        # The schemas of the API server, with nothing beside what they know.
        kubernetes_validate.validate(document, "1.36", strict=True)
    sets = {found["metadata"]["name"]: found["spec"] for found in documents if found["kind"] == "StatefulSet"}
    services = {found["metadata"]["name"]: found["spec"] for found in documents if found["kind"] == "Service"}
    assert set(services) == {"recsys-fed-federation"}, "a silo answers nobody"
    for name, spec in sets.items():
        pod, labels = spec["template"]["spec"], spec["template"]["metadata"]["labels"]
        (container,) = pod["containers"]
        assert spec["replicas"] == 1
        assert spec["selector"]["matchLabels"] == labels == {"app": name}
        assert_command(container["command"])
        assert container["command"][-1] in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert services["recsys-fed-federation"]["selector"] == {"app": "recsys-fed-federation"}


def test_the_image_is_built_from_files_that_are_let_through_and_runs_as_nobody_in_particular(tmp_path):
    """Docker is not needed: what the first stage copies makes the wheel, by the step that it runs."""
    root = DOCS.parent
    build = yaml.safe_load((DOCS / "deployment" / "compose.yaml").read_text())["services"]["federation"]["build"]
    assert (DOCS / "deployment" / build["context"]).resolve() == root
    lines = (root / build["dockerfile"]).read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    assert [words for name, words in steps if name == "USER"] == ["10001:10001"]
    assert steps[-1][0] == "CMD"
    assert_command(["recsys-fed"])
    let_through = [name[1:] for name in (root / ".dockerignore").read_text().split() if name.startswith("!")]
    for name in let_through:
        target = tmp_path / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, target)
    for name, words in steps:
        if name == "COPY" and not words.startswith("--from"):
            assert (tmp_path / "source" / words.split()[0]).exists(), words
    (wheel,) = [words for name, words in steps if name == "RUN" and words.startswith("pip wheel")]
    command = [word.replace("/source", str(tmp_path / "source")) for word in shlex.split(wheel)]
    command = [word.replace("/wheels", str(tmp_path / "wheels")) for word in command]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=900)
    if "No matching distribution" in done.stderr:
        pytest.skip("no package index to fetch the build backend from")
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        assert {"recsys_fed/cli/__init__.py", "recsys_fed/flower-app/server/app.py"} <= set(archive.namelist())


def test_every_command_of_the_guide_exists():
    text = (DOCS / "deployment.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^    (recsys-fed (?:federation|silo) .*?)(?:\s{2,}#.*)?$", text, flags=re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        assert_command(shlex.split(command))


def test_the_guide_names_files_that_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", (DOCS / "deployment.md").read_text()):
        assert (DOCS / name).exists(), name
