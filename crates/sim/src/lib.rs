//! Many cores in virtual time, with seeded faults and named invariants.
