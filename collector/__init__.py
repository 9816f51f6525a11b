"""A self-hosted event collector: from analytics SDKs, pixels and links to Postgres, exactly once."""

__version__ = "0.1.0"
