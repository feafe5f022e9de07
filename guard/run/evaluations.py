"""Evaluations of one network in several ways, in one record: that which was asked for last is the entry
'evaluate teacher' (or another role), the others wait in the entry 'other evaluations'. A teacher is attacked
at 1/255 for one table and at 2/255 for the next, and AutoAttack takes an hour.
"""

from guard.run import processes, records

OTHERS = "other evaluations"  # this entry: {"evaluate teacher": its other evaluations, a list, ...}


def of(log, name):
    """All evaluations of the entry `name` in a record, finished or not; first the last one asked for."""
    entries = records.read(log)
    return [each for each in (entries.get(name), *entries.get(OTHERS, {}).get(name, [])) if each]


def current(log, name, key):
    """The entry `name` of a record, unless it is of the same network as `key`, but made in another way."""
    entry = records.read(log).get(name, {})
    return {} if _another_way(entry, key) else entry


def turn_to(log, name, key):
    """Makes an evaluation with this key that waits among the others the entry `name` of the record.

    Every process of the group must call it, with the folder locked.
    """
    if processes.rank() == 0:
        waiting = next((each for each in of(log, name)[1:] if each["key"] == key), None)
        if waiting:
            put(log, name, waiting)
    processes.barrier()


def put(log, name, evaluation):
    """Makes an evaluation the entry `name` of a record. Those of the same network that were made in another
    way are kept among the others, those of another network are dropped.
    """
    others = [each for each in of(log, name) if _another_way(each, evaluation["key"])]
    waiting = {**records.read(log).get(OTHERS, {}), name: others}
    waiting = {role: kept for role, kept in waiting.items() if kept}
    records.change(log, {name: evaluation, OTHERS: waiting or None})


def _another_way(evaluation, key):
    its_key = evaluation.get("key", {})
    return its_key.get("fingerprint") == key["fingerprint"] and its_key != key
