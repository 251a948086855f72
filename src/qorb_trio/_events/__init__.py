"""Instruments: the emitter that calls them, and the instruments that this package provides."""
