"""What a check tells: how often it tried something, and how often that was survived."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Row:
    """One line of the table.

    Attributes:
        check: what was tried.
        tried, survived: counts; what is neither survived nor tried is lost.
        note: figures worth keeping, such as seconds or megabytes.
        failures: what was lost, told so that it can be done again.
        skipped: why nothing was tried.
    """

    check: str
    tried: int = 0
    survived: int = 0
    note: str = ""
    failures: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def lost(self) -> int:
        """Tried and not survived."""
        return self.tried - self.survived

    def count(self, survived: bool, failure: str = "") -> None:
        """One more try."""
        self.tried += 1
        self.survived += survived
        if not survived:
            self.failures.append(failure)
