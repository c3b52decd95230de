"""Units, the compose file and the guide say what the command understands."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

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


def test_every_command_of_the_guide_exists():
    text = (DOCS / "deployment.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^    (recsys-fed (?:federation|silo) .*?)(?:\s{2,}#.*)?$", text, flags=re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        assert_command(shlex.split(command))


def test_the_guide_names_files_that_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", (DOCS / "deployment.md").read_text()):
        assert (DOCS / name).exists(), name
