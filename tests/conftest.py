"""What holds for every test: no example of a property has a deadline, since speed is measured in perf/ and not here."""

from hypothesis import settings

settings.register_profile("rankmill", deadline=None)
settings.load_profile("rankmill")
