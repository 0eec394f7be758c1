"""Applications that are there already get streaming chat by a short diff, and stay what they were."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from streamchat.testing import Call, ScriptedProvider, Step
from tests.examples.test_examples import events_of
from tests.project.support import ROOT

pytestmark = pytest.mark.timeout(180)
EXAMPLES = ROOT / "examples"
NAMES = ["fastapi_shop", "django_shop"]


def changed_lines(diff: str) -> list[str]:
    """The lines that a diff adds and takes away."""
    lines = diff.splitlines()
    return [line for line in lines if line[:1] in "+-" and not line.startswith(("+++ ", "--- ")) and line]


@pytest.mark.parametrize("name", NAMES)
def test_the_diff_is_short_and_the_readme_shows_it(name: str) -> None:
    diff = (EXAMPLES / name / "chat.diff").read_text(encoding="utf-8")
    changed = changed_lines(diff)
    assert 10 < len(changed) <= 25
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in readme.split("```diff\n")[1:]]
    # All of it but for some empty lines.
    assert [line for line in changed if line[1:]] in [
        [line for line in changed_lines(block) if line[1:]] for block in blocks
    ]


class Application:
    """A copy of an example, which can be changed and served."""

    def __init__(self, name: str, directory: Path, provider: ScriptedProvider) -> None:
        self.folder = directory / name
        # What others have left beside it is not part of it.
        shutil.copytree(EXAMPLES / name, self.folder, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
        self.database = self.folder / "shop.db"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DJANGO")},
            "OPENAI_API_KEY": "scripted",
            "OPENAI_BASE_URL": provider.base_url,
            "PYTHONASYNCIODEBUG": "",
            "PYTHONWARNINGS": "error,ignore:SQLite",
        }

    def run(self, *command: str, **more: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | more,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def change(self) -> None:
        # As in a repository of its own, not in one that it may lie in.
        self.run("git", "apply", "chat.diff", GIT_CEILING_DIRECTORIES=str(self.folder.parent))

    @contextmanager
    def served(self, target: str) -> Iterator[httpx2.Client]:
        """Serve it by uvicorn; yields a client with cookies of its own."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", target, "--port", str(port)]
        command += ["--timeout-graceful-shutdown", "5", "--log-level", "warning"]
        with open(self.folder / "server.log", "w") as log:
            server = subprocess.Popen(command, cwd=self.folder, env=self.environment, stderr=log, stdout=log)
        try:
            while True:
                assert server.poll() is None, (self.folder / "server.log").read_text()
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                yield client
        finally:
            server.terminate()
            server.wait(20)
        assert "Traceback" not in (self.folder / "server.log").read_text()


def script(provider: ScriptedProvider) -> None:
    provider.add(Step(calls=[Call("my_orders", {})]), Step("One lamp."))


def results_of(events: list[dict[str, Any]]) -> list[Any]:
    return [event["output"] for event in events if event["type"] == "tool_result"]


def test_the_fastapi_application_keeps_its_users_and_tables_and_gets_chat(
    tmp_path: Path, scripted_provider: ScriptedProvider
) -> None:
    shop = Application("fastapi_shop", tmp_path, scripted_provider)
    ann, bob = ({"authorization": f"Bearer {name}"} for name in ("ann", "bob"))
    with shop.served("app:app") as client:
        with closing(sqlite3.connect(shop.database)) as database:
            database.executemany("INSERT INTO users (token) VALUES (?)", [("ann",), ("bob",)])
            database.commit()
        assert client.post("/orders?item=lamp", headers=ann).json() == ["lamp"]
        assert client.get("/orders").status_code == 401
        assert client.post("/chat/runs", json={"message": "Hi"}, headers=ann).status_code == 404
    shop.change()
    script(scripted_provider)
    with shop.served("app:app") as client:
        assert client.get("/orders", headers=ann).json() == ["lamp"]
        assert client.post("/chat/runs/stream", json={"message": "Hi"}).status_code == 401
        answer = client.post("/chat/runs/stream", json={"message": "What did I order?"}, headers=ann)
        events = events_of(answer.text)
        assert results_of(events) == [["lamp"]]
        path = answer.headers["content-location"]
        assert client.get(path, headers=bob).status_code == 404
    with shop.served("app:app") as client:
        # The answer outlives the process, beside the shop's own tables.
        assert events_of(client.get(path, headers=ann).text) == events
        assert client.get("/orders", headers=bob).json() == []


USERS = """
from django.contrib.auth.models import User
from django.core.management import call_command

call_command("migrate", verbosity=0)
for name in ("ann", "bob"):
    User.objects.create_superuser(name, password="secret")
"""


def sign_in(client: httpx2.Client, name: str) -> None:
    client.cookies.clear()
    page = client.get("/admin/login/")
    assert page.status_code == 200
    form = {"username": name, "password": "secret", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
    assert client.post("/admin/login/?next=/orders/", data=form).status_code == 302


def test_the_django_project_keeps_its_users_and_tables_and_gets_chat(
    tmp_path: Path, scripted_provider: ScriptedProvider
) -> None:
    shop = Application("django_shop", tmp_path, scripted_provider)
    manage = (sys.executable, "manage.py")
    shop.run(*manage, "shell", "-v0", "-c", USERS)
    with shop.served("shop.asgi:application") as client:
        sign_in(client, "ann")
        token = {"x-csrftoken": client.cookies["csrftoken"]}
        assert client.post("/orders/", data={"item": "lamp"}, headers=token).json() == {"orders": ["lamp"]}
        assert client.post("/chat/runs", json={"message": "Hi"}, headers=token).status_code == 404
    shop.change()
    assert "streamchat.0001_initial... OK" in shop.run(*manage, "migrate")
    script(scripted_provider)
    with shop.served("shop.asgi:application") as client:
        assert client.post("/chat/runs/stream", json={"message": "Hi"}).status_code == 403, "no token"
        sign_in(client, "ann")
        token = {"x-csrftoken": client.cookies["csrftoken"]}
        assert client.get("/orders/").json() == {"orders": ["lamp"]}
        message = {"message": "What did I order?"}
        assert client.post("/chat/runs/stream", json=message).status_code == 403, "the session alone"
        answer = client.post("/chat/runs/stream", json=message, headers=token)
        events = events_of(answer.text)
        assert results_of(events) == [["lamp"]]
        path = answer.headers["content-location"]
        run_id = events[0]["run_id"]
        page = client.get("/admin/streamchat/run/").text
        assert run_id in page
        assert "One lamp." not in page
    with shop.served("shop.asgi:application") as client:
        sign_in(client, "bob")
        assert client.get(path).status_code == 404
        sign_in(client, "ann")
        assert events_of(client.get(path).text) == events
