//! Sample services that come with the binary.
