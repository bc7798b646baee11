"""What an offer takes to be drawn, and who is on which drawable list."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # no offer of before had a bond: the contracts that know one have other addresses, so another index
    op.add_column("offers", sa.Column("max_bond", sa.String(), nullable=False, server_default="0"))
    op.create_table(
        "listings",
        sa.Column("model_id", sa.LargeBinary(), primary_key=True),
        sa.Column("provider", sa.String(), primary_key=True),
        sa.Column("weight", sa.BigInteger(), nullable=False),
    )
    op.create_index("listings_of_provider", "listings", ["provider"])
