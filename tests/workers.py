"""Tests on several workers (pytest-xdist), of which one may be lost: the kernel ends a process that takes too much memory."""

import os
import time
from collections import Counter

import psutil
from xdist.scheduler import LoadFileScheduling


class Scheduler(LoadFileScheduling):
    """`LoadFileScheduling` that goes on when a worker is lost, and runs the test that it was at once more.

    xdist itself hands a new worker files of the lost one in which nothing is left, one at a time, and waits for ever.
    """

    def __init__(self, config, log=None):
        super().__init__(config, log)
        self.losses = Counter()  # workers lost at a test

    def remove_node(self, node):
        """Take back what a worker has not done; the test that it was at when it was lost, or None."""
        units = {scope: unit for scope, unit in self.assigned_work.pop(node).items() if not all(unit.values())}
        if not units:
            return None
        unit = next(iter(units.values()))
        at = next(test for test, done in unit.items() if not done)
        self.losses[at] += 1
        unit[at] = self.losses[at] > 1
        self.workqueue.update({scope: unit for scope, unit in units.items() if not all(unit.values())})
        for other in self.nodes:
            self._reschedule(other)
        return at

    def schedule(self):
        """Two files for each worker, as at the start, or the word that no more will come."""
        super().schedule()
        for node in self.nodes:
            self._reschedule(node)


def abort_beyond(limit, *, every=1.0):
    """End this process with the tracebacks of all threads (faulthandler) once it takes so many bytes of memory."""
    process = psutil.Process()
    while process.memory_info().rss < limit:
        time.sleep(every)
    os.abort()
