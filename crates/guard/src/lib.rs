//! The keeper of the agent: restarts it, reaps what it leaves.
