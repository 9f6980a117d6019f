//! Handshakes over TCP on loopback: who is let in, who is refused and with which words, and what can be exchanged meanwhile.

mod handshake;
mod join;
mod replace;
mod world;
