//! The table as netlink messages: sets of what is gated and what is open, and the rules that drop.

use crate::netlink::{Batch, CREATE, EXCLUSIVE, REQUEST};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
pub(super) const NEW_ELEMENT: u16 = 12;
pub(super) const GET_ELEMENT: u16 = 13;
pub(super) const DELETE_ELEMENT: u16 = 14;

/// Before connection tracking and everybody's own rules.
const PRIORITY: i32 = -400;
const SET_HAS_TIMEOUT: u32 = 0x10;
const LOOKUP_INVERTED: u32 = 1;
/// Registers of 4 bytes; the first of 16 covers the first four of them.
const REGISTER: u32 = 8;
const VERDICT: u32 = 0;
const DROP: u32 = 0;
const META_INTERFACE: u32 = 4;
const META_PROTOCOL_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const TCP: u8 = 6;
/// The index of `lo`, in every network.
const LOOPBACK: u32 = 1;
/// Where the flags are in a TCP header, and which of them tell a connection that begins.
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 0x02;
const SYN_ACK_RST_FIN: u8 = 0x17;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Families of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// Who has this address?
    Arp = 3,
}

/// A pair of sets: what is gated, and what of it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sets {
    pub(super) family: Family,
    pub(super) gated: &'static str,
    pub(super) open: &'static str,
    /// As `nft list` shows it.
    key_type: u32,
    key_bytes: u32,
    number: u32,
}

pub(super) const PORTS: Sets = Sets {
    family: Family::Inet,
    gated: "gated_ports",
    open: "open_ports",
    // inet_proto . inet_service
    key_type: 12 << 6 | 13,
    key_bytes: 8,
    number: 1,
};
pub(super) const V4: Sets = Sets {
    family: Family::Inet,
    gated: "gated_v4",
    open: "open_v4",
    key_type: 7,
    key_bytes: 4,
    number: 3,
};
pub(super) const V6: Sets = Sets {
    family: Family::Inet,
    gated: "gated_v6",
    open: "open_v6",
    key_type: 8,
    key_bytes: 16,
    number: 5,
};
pub(super) const ARP: Sets = Sets {
    family: Family::Arp,
    gated: "gated_arp",
    open: "open_arp",
    key_type: 7,
    key_bytes: 4,
    number: 7,
};

/// Starts a transaction.
pub(super) fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.begin(BATCH_BEGIN, REQUEST, &[0, 0, 0, SUBSYSTEM as u8]);
    batch
}

/// Ends it; only now does the kernel look at it.
pub(super) fn end(mut batch: Batch) -> Batch {
    batch.begin(BATCH_END, REQUEST, &[0, 0, 0, SUBSYSTEM as u8]);
    batch
}

pub(super) fn message(batch: &mut Batch, kind: u16, flags: u16, family: Family) {
    batch.begin(SUBSYSTEM << 8 | kind, REQUEST | flags, &[family as u8, 0, 0, 0]);
}

/// A table of its own for [`super::Admission`]: two sets of addresses whose elements time out, and for each a rule that drops the first packet
/// of a connection to them. Fails if the table is there already.
pub(super) fn create_admission(table: &str, names: [&'static str; 2]) -> Batch {
    let mut batch = begin();
    message(&mut batch, NEW_TABLE, CREATE | EXCLUSIVE, Family::Inet);
    batch.put_text(1, table);
    chain(&mut batch, table, Family::Inet, "in", 1);
    for (name, sets, protocol, offset) in [(names[0], V4, 2, 16), (names[1], V6, 10, 24)] {
        message(&mut batch, NEW_SET, CREATE | EXCLUSIVE, Family::Inet);
        batch.put_text(1, table);
        batch.put_text(2, name);
        batch.put_be32(3, SET_HAS_TIMEOUT);
        batch.put_be32(4, sets.key_type);
        batch.put_be32(5, sets.key_bytes);
        batch.put_be32(10, sets.number);
        drop_if(
            &mut batch,
            table,
            Family::Inet,
            "in",
            &[(name, sets.number, 0)],
            |rule| {
                // Hooks and checks of the service itself come from here.
                meta(rule, META_INTERFACE, REGISTER);
                differs(rule, REGISTER, &LOOPBACK.to_ne_bytes());
                meta(rule, META_PROTOCOL_FAMILY, REGISTER);
                equals(rule, REGISTER, &[protocol]);
                meta(rule, META_PROTOCOL, REGISTER);
                equals(rule, REGISTER, &[TCP]);
                payload(rule, TRANSPORT_HEADER, TCP_FLAGS, 1, REGISTER);
                masked(rule, REGISTER, SYN_ACK_RST_FIN);
                equals(rule, REGISTER, &[SYN]);
                payload(rule, NETWORK_HEADER, offset, sets.key_bytes, REGISTER);
            },
        );
    }
    end(batch)
}

/// All of one family, in one transaction that fails if the table is there already.
pub(super) fn create(table: &str, of: Family) -> Batch {
    let mut batch = begin();
    match of {
        Family::Inet => create_inet(&mut batch, table),
        Family::Arp => create_arp(&mut batch, table),
    }
    end(batch)
}

fn create_inet(batch: &mut Batch, table: &str) {
    family(batch, table, Family::Inet, &[PORTS, V4, V6]);
    chain(batch, table, Family::Inet, "in", 1);
    chain(batch, table, Family::Inet, "out", 3);
    // Destination coming in, source going out: what a peer on this machine sends is dropped when it arrives.
    for (chain, offset) in [("in", 2), ("out", 0)] {
        rule(batch, table, PORTS, chain, |rule| {
            meta(rule, META_PROTOCOL, REGISTER);
            payload(rule, TRANSPORT_HEADER, offset, 2, REGISTER + 1);
        });
    }
    for (chain, sets, protocol, offset, length) in [
        ("in", V4, 2, 16, 4),
        ("out", V4, 2, 12, 4),
        ("in", V6, 10, 24, 16),
        ("out", V6, 10, 8, 16),
    ] {
        rule(batch, table, sets, chain, |rule| {
            meta(rule, META_PROTOCOL_FAMILY, REGISTER);
            equals(rule, REGISTER, &[protocol]);
            payload(rule, NETWORK_HEADER, offset, length, REGISTER);
        });
    }
}

fn create_arp(batch: &mut Batch, table: &str) {
    family(batch, table, Family::Arp, &[ARP]);
    chain(batch, table, Family::Arp, "out", 1);
    // The sender's protocol address: after 8 bytes of header and a hardware address of 6.
    rule(batch, table, ARP, "out", |rule| {
        payload(rule, NETWORK_HEADER, 14, 4, REGISTER);
    });
}

fn family(batch: &mut Batch, table: &str, family: Family, sets: &[Sets]) {
    message(batch, NEW_TABLE, CREATE | EXCLUSIVE, family);
    batch.put_text(1, table);
    for sets in sets {
        for (name, number, flags) in [
            (sets.gated, sets.number, 0),
            (sets.open, sets.number + 1, SET_HAS_TIMEOUT),
        ] {
            message(batch, NEW_SET, CREATE | EXCLUSIVE, family);
            batch.put_text(1, table);
            batch.put_text(2, name);
            batch.put_be32(3, flags);
            batch.put_be32(4, sets.key_type);
            batch.put_be32(5, sets.key_bytes);
            batch.put_be32(10, number);
        }
    }
}

fn chain(batch: &mut Batch, table: &str, family: Family, name: &str, hook: u32) {
    message(batch, NEW_CHAIN, CREATE | EXCLUSIVE, family);
    batch.put_text(1, table);
    batch.put_text(3, name);
    batch.nest(4, |attributes| {
        attributes.put_be32(1, hook);
        attributes.put(2, &PRIORITY.to_be_bytes());
    });
    batch.put_text(7, "filter");
}

/// Drops what `load` puts into the register if that is gated and not open.
fn rule(batch: &mut Batch, table: &str, sets: Sets, chain: &str, load: impl FnOnce(&mut Batch)) {
    let lookups = [
        (sets.gated, sets.number, 0),
        (sets.open, sets.number + 1, LOOKUP_INVERTED),
    ];
    drop_if(batch, table, sets.family, chain, &lookups, load);
}

/// Drops what `load` puts into the register if all these sets have it, or with [`LOOKUP_INVERTED`] have it not.
fn drop_if(
    batch: &mut Batch,
    table: &str,
    family: Family,
    chain: &str,
    lookups: &[(&str, u32, u32)],
    load: impl FnOnce(&mut Batch),
) {
    const APPEND: u16 = 0x800;
    message(batch, NEW_RULE, CREATE | APPEND, family);
    batch.put_text(1, table);
    batch.put_text(2, chain);
    batch.nest(4, |expressions| {
        load(expressions);
        for (set, number, flags) in lookups {
            expression(expressions, "lookup", |lookup| {
                lookup.put_text(1, set);
                lookup.put_be32(2, REGISTER);
                lookup.put_be32(4, *number);
                lookup.put_be32(5, *flags);
            });
        }
        expression(expressions, "immediate", |immediate| {
            immediate.put_be32(1, VERDICT);
            immediate.nest(2, |data| data.nest(2, |verdict| verdict.put_be32(1, DROP)));
        });
    });
}

fn expression(batch: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    batch.nest(1, |element| {
        element.put_text(1, name);
        element.nest(2, fill);
    });
}

fn meta(batch: &mut Batch, key: u32, register: u32) {
    expression(batch, "meta", |meta| {
        meta.put_be32(1, register);
        meta.put_be32(2, key);
    });
}

fn payload(batch: &mut Batch, base: u32, offset: u32, length: u32, register: u32) {
    expression(batch, "payload", |payload| {
        payload.put_be32(1, register);
        payload.put_be32(2, base);
        payload.put_be32(3, offset);
        payload.put_be32(4, length);
    });
}

/// Leaves these bits of one byte.
fn masked(batch: &mut Batch, register: u32, bits: u8) {
    expression(batch, "bitwise", |bitwise| {
        bitwise.put_be32(1, register);
        bitwise.put_be32(2, register);
        bitwise.put_be32(3, 1);
        bitwise.nest(4, |data| data.put(1, &[bits]));
        bitwise.nest(5, |data| data.put(1, &[0]));
    });
}

fn equals(batch: &mut Batch, register: u32, value: &[u8]) {
    compares(batch, register, EQUAL, value);
}

fn differs(batch: &mut Batch, register: u32, value: &[u8]) {
    compares(batch, register, NOT_EQUAL, value);
}

fn compares(batch: &mut Batch, register: u32, how: u32, value: &[u8]) {
    expression(batch, "cmp", |compare| {
        compare.put_be32(1, register);
        compare.put_be32(2, how);
        compare.nest(3, |data| data.put(1, value));
    });
}
