"""
Desk: what an operator asks and decides about deliveries, by command line or admin port.

    couriers.py      how each destination stands; pause and resume
    deadletters.py   what was refused for good: look, try again, drop
    replays.py       send a part of the past again
    trace.py         one message id, from the request to every destination
    visit.py         the connection on which it is asked

Everything is a row that couriers read or write, so that nothing here speaks to a running collector,
and every command works while there is none.
"""

from collector.store.desk.visit import Connect, Visit, visit

__all__ = ["Connect", "Visit", "visit"]
