"""The errors a user meets: what is wrong, where, and how to put it right."""


class WsibenchError(Exception):
    """What went wrong, with the value that was wrong, and what to do about it.

    Parameters
    ----------
    what
        What is wrong and where, with the offending value.
    remedy
        What the user can do about it; printed after `what`, and written to its own column of
        ``failures.csv`` when the error concerns one slide.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()


class StudyError(WsibenchError):
    """A study file that cannot be read as one."""


class CohortError(WsibenchError):
    """A cohort or expression table that cannot be used as it is."""


class SlideError(WsibenchError):
    """One slide that cannot be read; becomes a row of ``failures.csv``."""


class WeightsError(WsibenchError):
    """An encoder whose weights are not at hand or are not the right ones."""


class NotReady(WsibenchError):
    """A stage whose input an earlier stage has not left yet."""


class FitError(WsibenchError):
    """A saved fit that cannot be made, read, or applied to these features."""


class TooManyFailures(WsibenchError):
    """More slides failed than the study's ``limits.failed_slides`` allows."""


class GdcError(WsibenchError):
    """The Genomic Data Commons did not give what was asked of it."""
