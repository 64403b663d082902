"""Dockerfile.runpod without Docker: a linter checks it, and its COPY and RUN instructions run in a folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.parser import make_parser
from cluster.settings import DEFAULT_IMAGE, read_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile.runpod"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    return [
        (instruction, rest)
        for line in text.splitlines()
        if line.strip()
        for instruction, _, rest in [line.partition(" ")]
    ]


def test_hadolint_accepts_the_dockerfile():
    hadolint = Path(sys.executable).parent / "hadolint"
    process = subprocess.run([str(hadolint), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


def test_the_base_image_is_the_default_image():
    assert ("FROM", DEFAULT_IMAGE) in instructions()


def test_copied_files_are_not_ignored():
    dockerignore = (ROOT / ".dockerignore").read_text()
    sources = [rest.split()[:-1] for instruction, rest in instructions() if instruction == "COPY"]
    for source in (part for parts in sources for part in parts):
        assert (ROOT / source).exists()
        assert f"!{source.split('/')[0]}\n" in dockerignore


@pytest.mark.slow
@pytest.mark.long
def test_install_steps_work_in_a_clean_folder(tmp_path):
    """Run COPY and RUN except for apt; then the environment is complete and the scripts find it."""
    code_folder = tmp_path / "code"
    code_folder.mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "RRAY_PYTHON": sys.executable}
    (tmp_path / "home").mkdir()
    for instruction, rest in instructions():
        if instruction == "ENV":
            environment.update(part.split("=", 1) for part in shlex.split(rest))
            environment.update({"RRAY_ENV": str(tmp_path / "env"), "RRAY_WORKSPACE": str(tmp_path / "workspace")})
            environment.pop("PIP_NO_CACHE_DIR", None)
        elif instruction == "COPY":
            *sources, target = rest.split()
            for source in sources:
                destination = tmp_path / "post_start.sh" if target.startswith("/") else code_folder / target
                destination = destination / source if target == "./" else destination
                destination.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, destination, dirs_exist_ok=True)
                else:
                    shutil.copy(ROOT / source, destination)
        elif instruction == "RUN" and "apt-get" not in rest and not rest.startswith("chmod"):
            subprocess.run(["bash", "-c", rest], cwd=code_folder, env=environment, check=True, timeout=900)
    second_run = subprocess.run(
        ["bash", "cluster/pod/setup.sh"], cwd=code_folder, env=environment, capture_output=True, text=True, check=True
    )
    assert "up to date" in second_run.stdout
    code = "import ray, rainbow_ray, cluster, tune_spaces; print(rainbow_ray.__file__)"
    output = subprocess.run(
        ["bash", "-c", f". cluster/pod/env.sh && cd / && python -c '{code}'"],
        cwd=code_folder, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert output.startswith(str(code_folder))
    post_start_environment = {**environment, "RRAY_IMAGE_CODE": str(code_folder)}
    post_start_output = subprocess.run(
        ["bash", str(tmp_path / "post_start.sh")],
        env=post_start_environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "train.sh" in post_start_output
    assert (tmp_path / "workspace" / "runs").is_dir()


def test_the_example_settings_are_valid_and_complete(monkeypatch):
    settings = read_settings(ROOT / "cluster" / "cluster.example.yaml", {})
    assert (settings.pods, settings.ttl) == (3, 8 * 3600.0)
    keys = {line.split(":")[0] for line in (ROOT / "cluster/cluster.example.yaml").read_text().splitlines()
               if re.match(r"[a-z_]+:", line)}  # fmt: skip
    assert keys == set(type(settings).model_fields) - {"ports", "min_cuda"}


def commands_in(document: Path) -> list[str]:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part.split("-m cluster ")[1] for part in parts if "-m cluster " in part]


@pytest.mark.parametrize("name", ["README.md", "docs/guides/rented_gpus.md"])
def test_documented_commands_are_valid(name):
    commands = commands_in(ROOT / name)
    assert len(commands) > 3
    for command in commands:
        make_parser().parse_args(shlex.split(command))


def test_every_command_is_documented():
    (actions,) = [action for action in make_parser()._actions if action.dest == "command"]
    text = (ROOT / "docs/guides/rented_gpus.md").read_text()
    assert [name for name in actions.choices if f"`{name}" not in text] == []
