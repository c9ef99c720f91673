"""What every choice at a seam is: one frozen class whose fields are its parameters."""

from pydantic import BaseModel, ConfigDict


class Choice(BaseModel):
    """One choice at one seam; subclasses are its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
