"""Tests of imcore.events, on a real Postgres."""
