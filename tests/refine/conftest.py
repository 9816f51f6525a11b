"""What was refined is seen behind the real edge, as in the tests of ingest."""

from tests.ingest.conftest import edge, make_edge

__all__ = ["edge", "make_edge"]
