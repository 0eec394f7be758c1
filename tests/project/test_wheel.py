"""The wheel, not the checkout, is what users get: it is built, looked into and imported by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.project.support import PACKAGE, ROOT, tracked_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(ROOT)],
        check=True,
    )
    (built,) = out.glob("streamchat-*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = {str(path.relative_to(PACKAGE.parent)) for path in tracked_files() if PACKAGE in path.parents}
    assert "streamchat/py.typed" in names
    assert tracked <= names, f"not in the wheel: {sorted(tracked - names)}"
    assert all(name.startswith("streamchat/") for name in names)


def test_the_wheel_carries_licence_and_entry_points(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "licenses/LICENSE" in info
    entry_points = archive.read(info["entry_points.txt"]).decode()
    assert "[console_scripts]\nstreamchat = streamchat.cli:main" in entry_points
    assert "[pytest11]\nstreamchat = streamchat.testing.plugin" in entry_points


def test_the_wheel_imports_where_only_the_core_dependencies_are(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "clean", with_pip=False)
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = str(tmp_path / "clean" / scripts / "python")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", str(wheel)], check=True
    )
    code = "import streamchat; from streamchat import *; print(streamchat.__file__)"
    out = subprocess.run(
        [python, "-I", "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    assert str(tmp_path) in out.stdout
