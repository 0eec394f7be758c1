"""The fixtures of the pytest plugin, in a pytest of their own as an application would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

APPLICATION = """
import asyncio, json, urllib.request
import pytest
from streamchat.errors import ModelError
from streamchat.messages import model_messages
from streamchat.models import ModelRequest, OpenAIChatModel
from streamchat.testing import Step

BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()


def answer(provider):
    with urllib.request.urlopen(f"{provider.base_url}/chat/completions", BODY) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def test_provider(scripted_provider):
    scripted_provider.add("hello")
    assert answer(scripted_provider) == "hello"


def test_provider_not_used_up(scripted_provider):
    scripted_provider.add("hello")


def test_model_not_used_up(scripted_model):
    scripted_model(Step("never asked for"))


def test_model_repeated(scripted_model):
    assert scripted_model("again", repeat=True).name == "scripted"


def test_retries(scripted_provider, no_model_retries):
    async def ask():
        async with scripted_provider.client() as client:
            async for _ in OpenAIChatModel(client, "m").stream(ModelRequest(model_messages("hi"))):
                pass

    scripted_provider.add(Step(error="server_error"))  # a second request would be one too many
    with pytest.raises(ModelError):
        asyncio.run(ask())
"""


def test_the_fixtures_work_and_complain_about_unused_scripts(tmp_path: Path) -> None:
    (tmp_path / "test_application.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", str(tmp_path)]
    if "streamchat.testing.plugin" not in _entry_points():
        command += ["-p", "streamchat.testing.plugin"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False)
    out = ended.stdout
    assert "5 passed, 2 errors" in out, out + ended.stderr
    assert "ERROR test_application.py::test_provider_not_used_up" in out
    assert "ERROR test_application.py::test_model_not_used_up" in out
    assert "ScriptExhausted" in out


def test_where_no_fixture_is_used_the_plugin_loads_neither_openai_nor_its_transport(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n"
        "def test_what_is_loaded():\n"
        "    assert 'streamchat.testing.plugin' in sys.modules\n"
        "    assert not {'openai', 'httpx2', 'aiohttp', 'sqlalchemy'} & set(sys.modules)\n"
    )
    # Alone, or the plugins of others would be what is tested.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "streamchat.testing.plugin", str(tmp_path)]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=50, cwd=tmp_path, env=environment, check=False
    )
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr


def test_what_the_models_module_names_is_there_and_what_it_does_not_name_is_an_error() -> None:
    from streamchat import models
    from streamchat.models.openai_chat import OpenAIChatModel

    assert models.OpenAIChatModel is OpenAIChatModel
    assert set(models.__all__) <= set(dir(models))
    with pytest.raises(ImportError, match="OpenAIChatModle"):
        exec("from streamchat.models import OpenAIChatModle")


def _entry_points() -> set[str]:
    from importlib.metadata import entry_points

    return {point.value for point in entry_points(group="pytest11")}
