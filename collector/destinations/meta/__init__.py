"""
Meta: conversions on a website, in an app or in a shop, for ads on Facebook and Instagram.

    settings.py      which dataset, and what goes there
    destination.py   one request a batch;  verdict.py   what its answer means
    event.py         one of ours as one of Meta's
      names.py         what Meta calls it
      person.py        who it was of: looked up, then hashed by hashing.py (places.py, phones.py)
      custom.py        what was bought (money.py), and what else may be told (privacy.py)
"""

from collector.destinations.meta.destination import Meta
from collector.destinations.meta.settings import MetaSettings

__all__ = ["Meta", "MetaSettings"]
