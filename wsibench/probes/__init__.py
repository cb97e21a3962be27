"""What is fitted on features: one interface, `wsibench.probes.base.Probe`, and a room a probe."""
