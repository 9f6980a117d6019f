use modelcheck::{Budget, Config, Mutation, Start, check};
fn main() {
    let base = Config { budget: Budget { session: [2, 2, 0], steps: [1, 1, 0], slow: 1, fast: 1, ..Budget::default() }, ..Config::new(2, Start::Held) };
    for (name, config) in [("base", base), ("w=d", base.without(Mutation::WaitIsLease)), ("ack", base.without(Mutation::LeaseFromAnswer)), ("norev", base.without(Mutation::TakeWithoutRevision))] {
        let found = check(config);
        println!("{name}: {} states, depth {}, {:?}, {:?}\n  {:?}", found.states, found.depth, found.took, found.taken, found.broken);
    }
}
