"""
Prove: send events with known ids, break what may be broken, and count what arrived.

    send at a rate ─▶ faults at random moments ─▶ start again ─▶ wait until stored ─▶ reconcile

It knows the collector as its users do: HTTP on one side, SQL on the other, and beside them only
`/status` of a collector that it started itself. What is broken is always one that it started; one
that is named by its address is only sent to.

    sender.py     what an SDK does, with known ids       ledger.py     which ids were acknowledged
    faults.py     what is broken, and for how long       instance.py   the collector that we start
    database.py   what is stored, over SQL               verdict.py    what came of it
    run.py        one proof from start to verdict        command.py    the command line
"""

from collector.prove.run import Plan, Proof
from collector.prove.verdict import Verdict

__all__ = ["Plan", "Proof", "Verdict"]
