//! Keys and the prefix before them.

/// First key of those that begin with `prefix`, and the end of the range, as etcd wants them.
pub(crate) fn range_of(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() {
        // All keys: from the lowest there is, without an end.
        return (vec![0], vec![0]);
    }
    (prefix.to_vec(), end_of(prefix))
}

/// The first key after all that begin with `prefix`.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_what_begins_with_the_prefix() {
        assert_eq!(range_of(b"a/"), (b"a/".to_vec(), b"a0".to_vec()));
        assert_eq!(range_of(b""), (vec![0], vec![0]));
        assert_eq!(end_of(&[b'a', 0xff]), b"b");
        assert_eq!(end_of(&[0xff, 0xff]), [0], "no end");
    }
}
