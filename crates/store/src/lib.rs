//! Linearizable key-value with compare-and-swap, sessions and watch.
