//! Who goes where there are more instances than declared, and in which order: asked by the reconciler, and by whoever shows a plan.

use model::InstanceId;

/// An instance that may be one too many: it holds no slot that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spare {
    /// Its name.
    pub id: InstanceId,
    /// It holds a slot that is declared no more, or did until a moment ago.
    pub freed: bool,
    /// It could take over now.
    pub ready: bool,
    /// It runs from the present declaration.
    pub current: bool,
}

impl Spare {
    /// Whoever could not take over is missed least; who serves for a slot that goes away goes before a standby that is wanted still.
    fn rank(&self) -> (u8, bool, std::cmp::Reverse<u32>) {
        let worth = match (self.freed, self.ready) {
            (false, false) => 0,
            (true, _) => 1,
            (false, true) => 2,
        };
        (worth, self.current, std::cmp::Reverse(self.id.number()))
    }
}

/// Of those that may go, `count` that do: of equals the outdated before the current, the younger before the older.
pub fn first_to_go(mut spare: Vec<Spare>, count: usize) -> Vec<Spare> {
    spare.sort_by_key(Spare::rank);
    spare.truncate(count);
    spare
}

#[cfg(test)]
mod tests {
    use super::{Spare, first_to_go};
    use model::InstanceId;

    #[test]
    fn a_standby_that_is_wanted_outlives_an_active_that_is_not() {
        let spare = |number, freed, ready| Spare {
            id: InstanceId::new("web".parse().unwrap(), number),
            freed,
            ready,
            current: true,
        };
        let there = [spare(3, true, true), spare(4, false, true), spare(5, false, false)];
        let first = |count| -> Vec<u32> {
            let gone = first_to_go(there.to_vec(), count);
            gone.iter().map(|spare| spare.id.number()).collect()
        };
        assert_eq!(first(1), [5], "whoever could not take over is missed least");
        assert_eq!(first(2), [5, 3]);
        assert_eq!(first(9), [5, 3, 4]);
    }
}
