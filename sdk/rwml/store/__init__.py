"""Durable storage of trajectories: `open_store(url)` and the `Store` it returns.

SQLite is the embedded default (``sqlite:///file``), PostgreSQL the shared one
(``postgresql+psycopg://...``): one schema, through SQLAlchemy Core.
"""

from rwml.store.aggregates import Counts, Stats
from rwml.store.database import Store
from rwml.store.erasure import Forgotten, Subject
from rwml.store.opening import open_store

__all__ = ["Counts", "Forgotten", "Stats", "Store", "Subject", "open_store"]
