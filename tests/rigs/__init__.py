"""Machines that break what no signal can break: disks that lose what was not flushed."""
