"""Run by every Python process that has this folder on its path: sets its clock ahead.

NIGHTS_CLOCK names a file that holds a number of seconds. time-machine moves what Python asks the system for (time.time,
datetime.now, …), not time.monotonic, so that waits and timeouts last as long as they say.
"""

import os

if os.environ.get("NIGHTS_CLOCK"):
    import moved_clock

    moved_clock.start()
