//! How entries and changes lie in the file: little-endian numbers, then bytes, under a checksum of key and content.
//!
//! ```text
//! entries   key                 -> checksum, create, modified, version, value
//! history   (revision, index)   -> checksum, 1, create, version, key length (u16), key, value
//!                               or checksum, 0, key
//! ```
//! redb has checksums of its own on every page; these also notice what redb's own mistakes would do.

use crate::{Change, Entry};
use model::Revision;

const PUT: u8 = 1;
const DELETE: u8 = 0;

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut content = Vec::with_capacity(24 + entry.value.len());
    for number in [entry.create.0, entry.modified.0, entry.version] {
        content.extend(number.to_le_bytes());
    }
    content.extend(&entry.value);
    sealed(entry.key.as_bytes(), content)
}

pub(super) fn decode_entry(key: &str, bytes: &[u8]) -> Result<Entry, String> {
    let mut content = open(key.as_bytes(), bytes).ok_or_else(|| format!("the entry `{key}` has a wrong checksum"))?;
    let mut read = || {
        let create = number(&mut content)?;
        let modified = number(&mut content)?;
        let version = number(&mut content)?;
        let value = content.to_vec();
        Some(Entry {
            key: key.into(),
            value,
            create: Revision(create),
            modified: Revision(modified),
            version,
        })
    };
    read().ok_or_else(|| format!("the entry `{key}` is cut short"))
}

pub(super) fn encode_change(revision: Revision, index: u32, change: &Change) -> Vec<u8> {
    let mut content = Vec::new();
    match change {
        Change::Put(entry) => {
            content.push(PUT);
            content.extend(entry.create.0.to_le_bytes());
            content.extend(entry.version.to_le_bytes());
            // Keys have at most 512 bytes.
            content.extend((entry.key.len() as u16).to_le_bytes());
            content.extend(entry.key.as_bytes());
            content.extend(&entry.value);
        }
        Change::Delete { key } => {
            content.push(DELETE);
            content.extend(key.as_bytes());
        }
    }
    sealed(&place(revision, index), content)
}

pub(super) fn decode_change(revision: Revision, index: u32, bytes: &[u8]) -> Result<Change, String> {
    let what = || format!("change {index} of revision {revision}");
    let content = open(&place(revision, index), bytes).ok_or_else(|| format!("{} has a wrong checksum", what()))?;
    read_change(revision, content).ok_or_else(|| format!("{} is cut short", what()))
}

fn read_change(revision: Revision, mut content: &[u8]) -> Option<Change> {
    let [tag] = take(&mut content)?;
    if tag == DELETE {
        return Some(Change::Delete {
            key: String::from_utf8(content.to_vec()).ok()?,
        });
    }
    let create = number(&mut content)?;
    let version = number(&mut content)?;
    let (key, value) = content.split_at_checked(usize::from(u16::from_le_bytes(take(&mut content)?)) + 2)?;
    Some(Change::Put(Entry {
        key: String::from_utf8(key[2..].to_vec()).ok()?,
        value: value.to_vec(),
        create: Revision(create),
        modified: revision,
        version,
    }))
}

fn place(revision: Revision, index: u32) -> [u8; 12] {
    let mut place = [0; 12];
    place[..8].copy_from_slice(&revision.0.to_le_bytes());
    place[8..].copy_from_slice(&index.to_le_bytes());
    place
}

fn sealed(key: &[u8], content: Vec<u8>) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(8 + content.len());
    sealed.extend(checksum(key, &content).to_le_bytes());
    sealed.extend(content);
    sealed
}

fn open<'a>(key: &[u8], mut bytes: &'a [u8]) -> Option<&'a [u8]> {
    let sum = number(&mut bytes)?;
    (sum == checksum(key, bytes)).then_some(bytes)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// FNV-1a, 64 bits: every step is reversible, so no single changed byte goes unnoticed.
fn checksum(key: &[u8], content: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    // The length of the key keeps its end apart from the content's beginning.
    let length = (key.len() as u64).to_le_bytes();
    length
        .iter()
        .chain(key)
        .chain(content)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            key: "slot/db/0".into(),
            value: vec![0, 255, 10, 0],
            create: Revision(3),
            modified: Revision(900),
            version: 7,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(decode_entry("slot/db/0", &encode_entry(&entry())), Ok(entry()));
        for change in [
            Change::Put(entry()),
            Change::Delete {
                key: "slot/db/0".into(),
            },
        ] {
            let bytes = encode_change(Revision(900), 5, &change);
            assert_eq!(decode_change(Revision(900), 5, &bytes), Ok(change));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = encode_entry(&entry());
        let change = encode_change(Revision(900), 5, &Change::Put(entry()));
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(decode_entry("slot/db/0", &bad).is_err());
        }
        for at in 0..change.len() * 8 {
            let mut bad = change.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(decode_change(Revision(900), 5, &bad).is_err());
        }
        for cut in 0..good.len() {
            assert!(decode_entry("slot/db/0", &good[..cut]).is_err());
        }
        for cut in 0..change.len() {
            assert!(decode_change(Revision(900), 5, &change[..cut]).is_err());
        }
        assert!(decode_entry("slot/db/1", &good).is_err());
        assert!(decode_change(Revision(901), 5, &change).is_err());
    }
}
