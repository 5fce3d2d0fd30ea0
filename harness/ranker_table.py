"""What only a ranker's training has: the columns of its interactions, what is kept of them, and what it sees."""

from pydantic import Field

from harness.terms import Table

RANKING = "ranking"  # the suite of a ranker


class RankerTable(Table):
    """Interactions and how a ranker reads them; see docs/ranker.md."""

    user: str = Field("user_id", description="column that names the user")
    item: str = Field("item_id", description="column that names the item")
    time: str = Field("timestamp", description="column of the time: a number or an ISO date")
    least: int = Field(5, ge=1, description="users and items with fewer interactions are left out")
    window: int = Field(100, ge=2, description="items of its history that a ranker looks back on")
    negatives: int = Field(3, ge=1, description="ce: items drawn beside each observed one, to be scored low")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of activations dropped while it trains")
