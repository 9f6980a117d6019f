use super::*;
use tempfile::TempDir;

#[test]
fn cut_at_any_byte_it_holds_exactly_the_whole_records() {
    let written = Written::new();
    for length in 0..=written.bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(path_in(dir.path()), &written.bytes[..length]).unwrap();
        let (_lock, mut log, contents) = Log::open(dir.path()).unwrap();
        let whole = written.ends.iter().filter(|end| **end <= length as u64).count();
        assert_eq!(contents, written.contents[whole], "cut at {length}");
        // What is added after the cut is found again.
        log.append(&[Op::Counter(99)]).unwrap();
        let end = log.end();
        drop((log, _lock));
        let (_, log, contents) = Log::open(dir.path()).unwrap();
        assert_eq!((log.end(), contents.counter), (end, 99), "cut at {length}");
    }
}

#[test]
fn a_changed_byte_before_the_last_record_is_damage_and_nothing_is_cut_off() {
    let written = Written::new();
    let last = written.ends[written.ends.len() - 2] as usize;
    for position in FIRST as usize..last {
        let mut bytes = written.bytes.clone();
        bytes[position] ^= 0x40;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(path_in(dir.path()), &bytes).unwrap();
        let error = Log::open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "byte {position}: {error}");
        assert_eq!(std::fs::read(path_in(dir.path())).unwrap(), bytes);
    }
}

#[test]
fn a_changed_byte_in_the_last_record_costs_that_record_only() {
    let written = Written::new();
    let (from, to) = (written.ends[written.ends.len() - 2], written.bytes.len());
    for position in from as usize..to {
        let mut bytes = written.bytes.clone();
        bytes[position] ^= 0x40;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(path_in(dir.path()), &bytes).unwrap();
        let (_lock, log, contents) = Log::open(dir.path()).unwrap();
        assert_eq!(log.end(), from, "byte {position}");
        assert_eq!(contents, written.contents[written.ends.len() - 1]);
    }
}

#[test]
fn another_file_is_not_taken_for_a_log() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(path_in(dir.path()), "REDIS0009").unwrap();
    let error = Log::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::NotALog { .. }), "{error}");
}

#[test]
fn a_folder_is_used_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = Log::open(dir.path()).unwrap();
    let error = Log::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(first);
    Log::open(dir.path()).unwrap();
}

#[test]
fn a_long_log_of_little_is_written_anew_with_the_same_contents() {
    let dir = tempfile::tempdir().unwrap();
    let value = Bytes::from(vec![7; 100 * 1024]);
    let contents = {
        let (_lock, mut log, mut contents) = Log::open(dir.path()).unwrap();
        for counter in 0..20 {
            let ops = [Op::Put("key".into(), value.clone()), Op::Counter(counter), Op::Epoch(3)];
            log.append(&ops).unwrap();
            ops.into_iter().for_each(|op| contents.apply(op));
        }
        assert!(log.end() > COMPACT_FROM_BYTES);
        contents
    };
    let (_lock, log, again) = Log::open(dir.path()).unwrap();
    assert_eq!(again, contents);
    assert!(log.end() < 2 * value.len() as u64, "{} bytes", log.end());
}

#[test]
fn records_of_another_history_do_not_continue_this_one() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_lock, mut our_log, _) = Log::open(ours.path()).unwrap();
    let (_lock, mut their_log, _) = Log::open(theirs.path()).unwrap();
    our_log.append(&[Op::Counter(1)]).unwrap();
    their_log.append(&[Op::Counter(2)]).unwrap();
    let forked = their_log.end();
    their_log.append(&[Op::Counter(3)]).unwrap();

    assert!(!our_log.begins_with(forked, their_log.chain()).unwrap());
    let theirs = std::fs::read(path_in(theirs.path())).unwrap();
    let before = our_log.end();
    assert!(our_log.append_records(&theirs[forked as usize..]).unwrap().is_none());
    assert_eq!(our_log.end(), before);
}

#[test]
fn whole_records_are_told_from_a_beginning_and_from_rubbish() {
    let written = Written::new();
    let records = &written.bytes[FIRST as usize..];
    let first = (written.ends[0] - FIRST) as usize;
    assert_eq!(whole_records(&records[..first - 1]), Some(0));
    assert_eq!(whole_records(&records[..first + 5]), Some(first));
    assert_eq!(whole_records(records), Some(records.len()));
    assert_eq!(whole_records(b"this is not a record"), None);
}

/// A log of several records, and what it holds after each.
struct Written {
    bytes: Vec<u8>,
    ends: Vec<u64>,
    contents: Vec<Contents>,
    _dir: TempDir,
}

impl Written {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (_lock, mut log, mut contents) = Log::open(dir.path()).unwrap();
        let put = |key: &str, value: &str| Op::Put(key.into(), Bytes::copy_from_slice(value.as_bytes()));
        let batches = [
            vec![Op::Epoch(1)],
            vec![put("a", "one"), put("b", "two"), Op::Counter(1)],
            vec![Op::Delete("a".into())],
            vec![Op::Counter(2), put("c", "")],
        ];
        let (mut ends, mut all) = (Vec::new(), vec![contents.clone()]);
        for ops in batches {
            log.append(&ops).unwrap();
            ops.into_iter().for_each(|op| contents.apply(op));
            ends.push(log.end());
            all.push(contents.clone());
        }
        Self {
            bytes: std::fs::read(path_in(dir.path())).unwrap(),
            ends,
            contents: all,
            _dir: dir,
        }
    }
}
