"""
Cli: the commands by which operators look after deliveries; `__main__.py` is the door to them.

    destinations.py   how each stands, pause and resume       trial.py        one event, on trial
    deadletters.py    dead letters                            replay.py       replays; watch.py
    trace.py          one message id                          asking.py       what they share
    tables.py         how things are written for people       progress.py     while something lasts

They speak to Postgres and not to a running collector, so that they work while there is none.
"""
