"""Errors that say what is wrong, where, and how to correct it."""


class WsibenchError(Exception):
    """An error with a remedy.

    Parameters
    ----------
    what
        Description of the error, with its place and the offending value.
    remedy
        Correction that the user can make; printed after `what`, and a column of its own in ``failures.csv``.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        """Join the error and its remedy."""
        return f"{self.what} {self.remedy}".strip()


class StudyError(WsibenchError):
    """An invalid study.yaml, or a study that does not exist."""


class CohortError(WsibenchError):
    """A table, or a cohort, that cannot be used."""


class SlideError(WsibenchError):
    """A slide that cannot be read; it becomes a row of ``failures.csv``."""


class WeightsError(WsibenchError):
    """Weights of an encoder that are missing or do not fit it."""


class NotReady(WsibenchError):
    """A file that an earlier stage has not made yet."""


class FitError(WsibenchError):
    """A saved fit that cannot be made, read, or applied to given features."""


class TooManyFailures(WsibenchError):
    """More failed slides than ``limits.failed_slides`` of the study allows."""


class GdcError(WsibenchError):
    """A failed or unexpected answer of the Genomic Data Commons."""
