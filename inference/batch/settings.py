"""Sizes and patience of batch mode, as a profile has them."""

from pydantic import BaseModel, ConfigDict, Field


class BatchSettings(BaseModel):
    """Sizes and patience of batch mode."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_requests: int = Field(5_000, ge=1, le=50_000, description="Most requests in a batch; OpenAI allows 50,000.")
    max_bytes: int = Field(100_000_000, ge=1, description="Most bytes of a batch's input file; OpenAI allows 200 MB.")
    open_batches: int = Field(4, ge=1, description="Most batches open at an endpoint at once, over all processes.")
    poll_s: float = Field(30.0, gt=0, description="Seconds between two looks at the open batches.")
    completion_window: str = Field("24h", pattern=r"^[1-9]\d*[hd]$", description="The time that the provider has.")
    rounds: int = Field(
        3, ge=0, description="How often a request is sent again after an error or an expiry before it is a failure."
    )
    settle_s: float = Field(
        60.0, ge=0, description="How long a batch whose creation was cut short may take to appear in the list."
    )
    unreachable_s: float = Field(
        900.0, gt=0, description="How long the endpoint may be out of reach before the run is given up."
    )

    delete_files: bool = Field(
        True, description="Delete a batch's files at the provider once it has ended and its answers are stored."
    )

    @property
    def window_s(self) -> int:
        """The completion window in seconds."""
        return int(self.completion_window[:-1]) * (3_600 if self.completion_window.endswith("h") else 86_400)
