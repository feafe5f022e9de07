"""Evaluations of one network in several ways, in one record: that which was asked for last is the entry
'evaluate teacher' (or another role), the others wait in the entry 'other evaluations'. A teacher is attacked
at 1/255 for one table and at 2/255 for the next, and AutoAttack takes an hour.
"""

from guard.run import processes, records

OTHERS = "other evaluations"  # this entry: {"evaluate teacher": its other evaluations, a list, ...}


def of(log, name):
    """All evaluations of the entry `name` in a record, finished or not: it first, then those that wait."""
    entries = records.read(log)
    return [each for each in (entries.get(name), *entries.get(OTHERS, {}).get(name, [])) if each]


def find(log, name, key):
    """The evaluation with this key among all of an entry; None where there is none."""
    return next((each for each in of(log, name) if each.get("key") == key), None)


def current(log, name, key):
    """The entry `name` of a record, unless it is of the same network as `key`, but made in another way."""
    entry = records.read(log).get(name, {})
    return {} if _another_way(entry, key) else entry


def turn_to(log, name, key):
    """Makes an evaluation with this key that waits among the others the entry `name` of the record.

    Every process of the group must call it, with the folder locked.
    """
    if processes.rank() == 0:
        found = find(log, name, key)
        if found and found != records.read(log).get(name):
            put(log, name, found)
    processes.barrier()


def put(log, name, evaluation):
    """Makes an evaluation the entry `name` of a record. Those of the same network that were made in another
    way are kept among the others, those of another network are dropped.
    """
    others = [each for each in of(log, name) if _another_way(each, evaluation["key"])]
    records.change(log, {name: evaluation, OTHERS: _waiting(log, {name: others})})


def forget(log, names):
    """Removes entries of a record that another network of that place left, with all evaluations in them."""
    if {*names} & {*records.read(log)}:
        records.change(log, {**dict.fromkeys(names), OTHERS: _waiting(log, dict.fromkeys(names))})


def _waiting(log, changed):
    """The entry OTHERS with `changed`, {name: its other evaluations}; None where nothing waits."""
    waiting = {**records.read(log).get(OTHERS, {}), **changed}
    return {name: others for name, others in waiting.items() if others} or None


def _another_way(evaluation, key):
    its_key = evaluation.get("key", {})
    return its_key.get("fingerprint") == key["fingerprint"] and its_key != key
