"""The errors a user can cause. The command line prints them as two lines, never as a traceback."""


class VivaError(Exception):
    """Something went wrong that the user can mend.

    `what` names the value that is wrong, `hint` the way out; both are full sentences without a final stop.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str | None = None):
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  -> {self.hint}" if self.hint else self.what


class ConfigError(VivaError):
    """A study file (or another file the user wrote) says something that Viva cannot follow."""

    exit_code = 2


class SourceError(VivaError):
    """A model or a file could not be fetched, checked or converted."""


class RunError(VivaError):
    """The run directory is not in a state in which the command can go on."""


class TrainingError(VivaError):
    """Training had to stop; the last good checkpoint is kept."""


class RatingError(VivaError):
    """A rating, an assignment or a rater's request is not acceptable."""
