"""The version of the installed package. To read the metadata takes milliseconds."""

from importlib.metadata import version

__version__: str = version("qorb-trio")
