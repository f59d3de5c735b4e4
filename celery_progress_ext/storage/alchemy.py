"""The database as SQLAlchemy has it: for Alembic's migrations, and for whoever builds queries of their own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from celery_progress_ext.storage.address import Address
from celery_progress_ext.storage.connection import Pool


def make_engine(address: Address, pool: Pool) -> sa.Engine:
    """An engine whose connections are those of ``address``, a new one each time, and whose transactions may write.

    A database in memory has one connection, which is the pool's: not to be used through both at once.
    """
    # Made by ourselves, so that there is one rule of how to connect; no pool, so that a fork does no harm.
    name = {"sqlite": "sqlite://", "postgresql": "postgresql+psycopg2://"}[address.dialect]
    if address.in_memory:
        with pool.connection() as conn:
            only = conn.dbapi
        engine = sa.create_engine(name, creator=lambda: only, poolclass=sa.StaticPool)
    else:
        engine = sa.create_engine(name, creator=lambda: _connect(address), poolclass=sa.NullPool)
    if address.dialect == "sqlite":

        @sa.event.listens_for(engine, "begin")
        def _begin(conn: Connection) -> None:
            conn.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _connect(address: Address) -> Any:
    opened = address.connect()
    if address.dialect == "postgresql":
        opened.autocommit = False  # SQLAlchemy leaves BEGIN to the driver
    return opened
