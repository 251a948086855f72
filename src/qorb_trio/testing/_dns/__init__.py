"""A DNS server for tests. Its public names are in `qorb_trio.testing`."""
