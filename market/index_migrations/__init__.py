"""Alembic migrations of the local index, run when it is opened (market/index_database.py)."""
