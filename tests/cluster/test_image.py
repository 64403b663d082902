"""The image without Docker: its file is read by a linter, and what it copies and runs is copied and run in a folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.__main__ import _parser
from cluster.settings import DEFAULT_IMAGE, read_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile.runpod"


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    return [(word, rest) for line in text.splitlines() if line.strip() for word, _, rest in [line.partition(" ")]]


def test_a_linter_finds_nothing_in_the_image():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_is_what_up_takes_without_one():
    assert ("FROM", DEFAULT_IMAGE) in instructions()


def test_what_it_copies_passes_dockerignore():
    kept = (ROOT / ".dockerignore").read_text()
    sources = [rest.split()[:-1] for word, rest in instructions() if word == "COPY"]
    for source in (part for parts in sources for part in parts):
        assert (ROOT / source).exists()
        assert f"!{source.split('/')[0]}\n" in kept


@pytest.mark.slow
def test_its_install_steps_work_in_a_clean_folder(tmp_path):
    """COPY and RUN as they stand, but for apt; then the environment is complete, and the scripts find it."""
    work = tmp_path / "code"
    work.mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "RRAY_PYTHON": sys.executable}
    (tmp_path / "home").mkdir()
    for word, rest in instructions():
        if word == "ENV":
            environment.update(part.split("=", 1) for part in shlex.split(rest))
            environment.update({"RRAY_ENV": str(tmp_path / "env"), "RRAY_WORKSPACE": str(tmp_path / "workspace")})
            environment.pop("PIP_NO_CACHE_DIR", None)
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = tmp_path / "post_start.sh" if target.startswith("/") else work / target
                place = place / source if target == "./" else place
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, dirs_exist_ok=True)
                else:
                    shutil.copy(ROOT / source, place)
        elif word == "RUN" and "apt-get" not in rest and not rest.startswith("chmod"):
            subprocess.run(["bash", "-c", rest], cwd=work, env=environment, check=True, timeout=900)
    again = subprocess.run(
        ["bash", "cluster/pod/setup.sh"], cwd=work, env=environment, capture_output=True, text=True, check=True
    )
    assert "up to date" in again.stdout
    code = "import ray, rainbow_ray, cluster, tune_spaces; print(rainbow_ray.__file__)"
    said = subprocess.run(
        ["bash", "-c", f". cluster/pod/env.sh && cd / && python -c '{code}'"],
        cwd=work, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.startswith(str(work))
    post = {**environment, "RRAY_IMAGE_CODE": str(work)}
    hello = subprocess.run(
        ["bash", str(tmp_path / "post_start.sh")], env=post, capture_output=True, text=True, check=True
    ).stdout
    assert "train.sh" in hello
    assert (tmp_path / "workspace" / "runs").is_dir()


def test_the_example_is_read(monkeypatch):
    settings = read_settings(ROOT / "cluster" / "cluster.example.yaml", {})
    assert (settings.pods, settings.ttl) == (3, 8 * 3600.0)
    written = {line.split(":")[0] for line in (ROOT / "cluster/cluster.example.yaml").read_text().splitlines()
               if re.match(r"[a-z_]+:", line)}  # fmt: skip
    assert written == set(type(settings).model_fields) - {"ports", "min_cuda"}


def commands_in(readme: Path) -> list[str]:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", readme.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part.split("-m cluster ")[1] for part in parts if "-m cluster " in part]


@pytest.mark.parametrize("name", ["README.md", "docs/guides/rented_gpus.md"])
def test_commands_of_the_readme_are_commands(name):
    found = commands_in(ROOT / name)
    assert len(found) > 3
    for command in found:
        _parser().parse_args(shlex.split(command))


def test_each_command_is_in_the_readme():
    (actions,) = [action for action in _parser()._actions if action.dest == "command"]
    text = (ROOT / "docs/guides/rented_gpus.md").read_text()
    assert [name for name in actions.choices if f"`{name}" not in text] == []
