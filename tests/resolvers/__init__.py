"""Tests of fixed resolvers and of choosing one."""
