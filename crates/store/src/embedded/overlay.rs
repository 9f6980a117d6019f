//! A view of a file whose writes stay in memory: to open, repair and check it without touching it.

use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;

#[derive(Debug)]
pub(super) struct Overlay {
    base: Arc<dyn StorageBackend>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    len: u64,
    /// How much of the base still shows through.
    base_len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    pub(super) fn new(base: Arc<dyn StorageBackend>) -> io::Result<Self> {
        let len = base.len()?;
        let inner = Mutex::new(Inner {
            len,
            base_len: len,
            pages: BTreeMap::new(),
        });
        Ok(Self { base, inner })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of the base shows through from `offset`, zeros after it.
    fn read_base(&self, base_len: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(base_len.saturating_sub(offset)).map_or(out.len(), |there| there.min(out.len()));
        let (there, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        if there.is_empty() {
            return Ok(());
        }
        self.base.read(offset, there)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.lock();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > inner.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, skip, part) in parts(offset, out.len()) {
            let out = &mut out[part.clone()];
            match inner.pages.get(&page) {
                Some(content) => out.copy_from_slice(&content[skip..skip + out.len()]),
                None => self.read_base(inner.base_len, offset + part.start as u64, out)?,
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let base_len = inner.base_len;
        for (page, skip, part) in parts(offset, data.len()) {
            let data = &data[part];
            if let std::collections::btree_map::Entry::Vacant(vacant) = inner.pages.entry(page) {
                let mut content = vec![0; PAGE].into_boxed_slice();
                self.read_base(base_len, page * PAGE as u64, &mut content)?;
                vacant.insert(content);
            }
            if let Some(content) = inner.pages.get_mut(&page) {
                content[skip..skip + data.len()].copy_from_slice(data);
            }
        }
        inner.len = inner.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        if len < inner.len {
            inner.base_len = inner.base_len.min(len);
            let keep = len.div_ceil(PAGE as u64);
            inner.pages.retain(|page, _| *page < keep);
            if let Some(last) = inner.pages.get_mut(&(len / PAGE as u64)) {
                last[len as usize % PAGE..].fill(0);
            }
        }
        inner.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts a range at pages: the page, the offset in it, and which part of the data lies there.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let skip = (at % PAGE as u64) as usize;
        let part = done..len.min(done + PAGE - skip);
        done = part.end;
        Some((at / PAGE as u64, skip, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;

    /// Random writes, cuts and reads do the same to the overlay as to a plain copy, and nothing to the base.
    #[test]
    fn behaves_like_a_copy() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut copy: Vec<u8> = (0..20_000).map(|_| random.u8(..)).collect();
            let original = copy.clone();
            let base = Arc::new(InMemoryBackend::new());
            base.set_len(copy.len() as u64).unwrap();
            base.write(0, &copy).unwrap();
            let overlay = Overlay::new(base.clone()).unwrap();
            for _ in 0..60 {
                let at = random.usize(..copy.len().max(1));
                if random.u8(..4) == 0 {
                    copy.resize(random.usize(..30_000), 0);
                    overlay.set_len(copy.len() as u64).unwrap();
                } else if at < copy.len() {
                    let data = vec![random.u8(..); random.usize(1..9_000).min(copy.len() - at)];
                    copy[at..at + data.len()].copy_from_slice(&data);
                    overlay.write(at as u64, &data).unwrap();
                }
                let mut seen = vec![0; copy.len()];
                overlay.read(0, &mut seen).unwrap();
                assert!(seen == copy, "seed {seed}");
            }
            assert!(overlay.read(copy.len() as u64, &mut [0]).is_err());
            let mut left = vec![0; original.len()];
            base.read(0, &mut left).unwrap();
            assert!(left == original, "seed {seed}");
        }
    }
}
