"""What runs and evaluations left on disk, as one page for people."""

from retrolit.reports.report import write_report

__all__ = ["write_report"]
