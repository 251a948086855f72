"""Tests of the DNS resolver."""
