//! A flag on one thread that wakes whoever watches it: cheaper than a channel where every request watches one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Down at first; once raised it stays raised.
#[derive(Default)]
pub(crate) struct Flag {
    raised: Cell<bool>,
    watchers: RefCell<Watchers>,
}

#[derive(Default)]
struct Watchers {
    slots: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Flag {
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.get()
    }

    /// Raises it and wakes the watchers, in no particular order.
    pub(crate) fn raise(&self) {
        self.raised.set(true);
        for waker in self.watchers.borrow().slots.iter().flatten() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
        Watch {
            flag: Rc::clone(self),
            slot: None,
        }
    }
}

/// Watches a [`Flag`] until dropped.
pub(crate) struct Watch {
    flag: Rc<Flag>,
    slot: Option<usize>,
}

impl Watch {
    pub(crate) fn is_raised(&self) -> bool {
        self.flag.is_raised()
    }

    /// Ready when the flag is up; else the task is woken when it goes up.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.flag.raised.get() {
            return Poll::Ready(());
        }
        let mut watchers = self.flag.watchers.borrow_mut();
        match self.slot {
            Some(slot) => {
                let known = watchers.slots[slot].get_or_insert_with(|| cx.waker().clone());
                if !known.will_wake(cx.waker()) {
                    known.clone_from(cx.waker());
                }
            }
            None => {
                let waker = Some(cx.waker().clone());
                self.slot = Some(match watchers.free.pop() {
                    Some(slot) => {
                        watchers.slots[slot] = waker;
                        slot
                    }
                    None => {
                        watchers.slots.push(waker);
                        watchers.slots.len() - 1
                    }
                });
            }
        }
        Poll::Pending
    }

    /// Completes when the flag is up.
    pub(crate) async fn raised(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let mut watchers = self.flag.watchers.borrow_mut();
            watchers.slots[slot] = None;
            watchers.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn every_watcher_wakes_and_slots_are_used_again() {
        let flag = Rc::new(Flag::default());
        drop(flag.watch());
        let local = tokio::task::LocalSet::new();
        let watching: Vec<_> = (0..3)
            .map(|_| {
                let mut watch = flag.watch();
                local.spawn_local(async move { watch.raised().await })
            })
            .collect();
        let flag_later = Rc::clone(&flag);
        local.spawn_local(async move { flag_later.raise() });
        local.await;
        assert!(watching.iter().all(tokio::task::JoinHandle::is_finished));
        assert!(flag.is_raised());
        let watchers = flag.watchers.borrow();
        assert_eq!(watchers.free.len(), watchers.slots.len());
    }
}
