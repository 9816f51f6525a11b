"""Admin: the second port, on loopback unless told otherwise: metrics, health, state."""

from collector.admin.links import LinkMaker
from collector.admin.server import Admin, AdminSettings, is_loopback

__all__ = ["Admin", "AdminSettings", "LinkMaker", "is_loopback"]
