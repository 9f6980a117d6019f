//! Where all meet: the node daemon.
