"""The first tables: facts, marks, logs, models, accounts, offers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "facts",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("value", sa.String(), nullable=False),
    )
    op.create_table(
        "marks",
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("hash", sa.String(), nullable=False),
    )
    op.create_table(
        "logs",
        sa.Column("chain_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("block_hash", sa.String(), primary_key=True),
        sa.Column("log_index", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("raw", sa.String(), nullable=False),
    )
    op.create_index("ix_logs_block_number", "logs", ["block_number"])
    op.create_index("ix_logs_subject", "logs", ["subject"])
    op.create_table(
        "models",
        sa.Column("model_id", sa.LargeBinary(), primary_key=True),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("publisher", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.LargeBinary(), nullable=False)
            for name in ("weights_root", "program_root", "tables_root", "tokenizer_hash", "template_hash")
        ),
    )
    op.create_index("ix_models_name", "models", ["name"])
    op.create_table(
        "accounts",
        sa.Column("address", sa.String(), primary_key=True),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("labels", sa.LargeBinary(), nullable=False),
        sa.Column("stake", sa.String(), nullable=False),
        sa.Column("jobs_paid", sa.BigInteger(), nullable=False),
        sa.Column("jobs_missed", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "offers",
        sa.Column("model_id", sa.LargeBinary(), primary_key=True),
        sa.Column("provider", sa.String(), primary_key=True),
        sa.Column("token", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("base_fee", "price_per_m_input", "price_per_m_output")
        ),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("max_input_tokens", "max_output_tokens", "modes")
        ),
    )
    op.create_index("offers_of_provider", "offers", ["provider"])
