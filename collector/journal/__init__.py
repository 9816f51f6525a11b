"""
The journal: what was acknowledged is on disk, in order, until Postgres has it.

`append` returns after fsync; a crash at any moment loses nothing that it returned for.
"""

from collector.journal.base import Frame, Journal, JournalSettings, Reading, Record
from collector.journal.files import FileJournal

__all__ = ["FileJournal", "Frame", "Journal", "JournalSettings", "Reading", "Record"]
