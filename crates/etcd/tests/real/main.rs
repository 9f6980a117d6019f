//! The store on real etcd: the suite that every store passes, and what happens when members die, hang, are wiped, full,
//! or refuse us.

mod conformance;
mod faults;
mod relay;
mod rig;
mod state;
mod tls;
mod trust;
