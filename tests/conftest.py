"""What holds for every test: properties have no deadline, and processes that a test starts can be interrupted."""

import signal

from hypothesis import settings

# Speed is measured in perf/ and not here.
settings.register_profile("rankmill", deadline=None)
settings.load_profile("rankmill")
# A run that was started in the background ignores SIGINT, and whatever it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
