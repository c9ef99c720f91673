"""The stand-in teacher: `server` is the way in."""
