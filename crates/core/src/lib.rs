//! Decisions, pure: (state, event, time) to (state, actions).
