//! Keys and the prefix before them.

/// What stands before each of our keys in etcd.
#[derive(Debug, Clone)]
pub(crate) struct Prefix(std::sync::Arc<[u8]>);

impl Prefix {
    pub(crate) fn new(prefix: &str) -> Self {
        Self(prefix.as_bytes().into())
    }

    /// The key as etcd has it.
    pub(crate) fn key(&self, key: &str) -> Vec<u8> {
        [&self.0, key.as_bytes()].concat()
    }

    /// The keys that begin with `prefix`, as etcd has them: the first, and the end of the range.
    pub(crate) fn range(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        range_of(&self.key(prefix))
    }

    /// The keys from `first` on that come before `end`, or all of ours from there on if that is empty, as etcd has them.
    pub(crate) fn between(&self, first: &str, end: &str) -> (Vec<u8>, Vec<u8>) {
        let (low, high) = range_of(&self.0);
        let first = match first.is_empty() {
            true => low,
            false => self.key(first),
        };
        let end = match end.is_empty() {
            true => high,
            false => self.key(end),
        };
        (first, end)
    }

    /// The key as we have it; none if it is not one of ours, or not text.
    pub(crate) fn strip(&self, key: &[u8]) -> Option<String> {
        let key = key.strip_prefix(&*self.0)?;
        match std::str::from_utf8(key) {
            Ok(key) => Some(key.to_owned()),
            Err(_) => {
                tracing::warn!(key = %key.escape_ascii(), "somebody wrote a key that is not text; it is left out");
                None
            }
        }
    }

    /// A key that whoever may read ours may read.
    pub(crate) fn probe(&self) -> Vec<u8> {
        range_of(&self.0).0
    }
}

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
    fn a_range_between_keys_ends_with_what_is_ours() {
        let keys = Prefix::new("u/");
        assert_eq!(keys.between("b", "c"), (b"u/b".to_vec(), b"u/c".to_vec()));
        assert_eq!(keys.between("b", ""), (b"u/b".to_vec(), b"u0".to_vec()));
        assert_eq!(keys.between("", "c"), (b"u/".to_vec(), b"u/c".to_vec()));
        assert_eq!(Prefix::new("").between("", ""), (vec![0], vec![0]));
    }

    #[test]
    fn a_range_holds_what_begins_with_the_prefix() {
        assert_eq!(range_of(b"a/"), (b"a/".to_vec(), b"a0".to_vec()));
        assert_eq!(range_of(b""), (vec![0], vec![0]));
        assert_eq!(end_of(&[b'a', 0xff]), b"b");
        assert_eq!(end_of(&[0xff, 0xff]), [0], "no end");
    }
}
