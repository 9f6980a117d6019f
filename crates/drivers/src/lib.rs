//! Processes, cgroups, hooks, probes and logs.
