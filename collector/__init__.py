"""A self-hosted event collector: from SDKs, pixels and links to Postgres, exactly once."""

__version__ = "0.1.0"
