"""Which sequences a step trains on, and how they get to the device in time."""
