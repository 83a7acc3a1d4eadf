"""Tests of imcore.protocol: no server, no clock, bytes against bytes."""
