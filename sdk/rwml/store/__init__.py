"""Durable storage of trajectories: `open_store(url)` and the `Store` it returns.

SQLite is the embedded default (``sqlite:///file``), PostgreSQL the shared one
(``postgresql+psycopg://...``): one schema, through SQLAlchemy Core.
"""

from rwml.store.database import Counts, Store, open_store

__all__ = ["Counts", "Store", "open_store"]
