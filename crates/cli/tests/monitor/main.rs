//! Metrics, history and alerts of the real program, read by the real Prometheus and Alertmanager.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod alerts;
mod hosts_tell;
mod metrics;
mod world;
