"""Tests of imcore.bus: the tail against bad schedules, the Postgres bus on a real Postgres."""
