use sim::cluster::*;
fn main() {
    for loss in Loss::ALL { for profile in [model::Profile::Fast, model::Profile::Lan] {
        let mut worst = std::time::Duration::ZERO; let mut served = worst; let mut none = 0;
        for seed in 0..50 { let m = measure(loss, profile, seed); if let Some(v) = m.violation { println!("{loss:?} {profile} {seed} {v}"); }
            match m.taken { Some(t) => worst = worst.max(t), None => none += 1 } served = served.max(m.served.unwrap_or_default()); }
        println!("{loss:?} {profile}: worst taken {worst:?} served {served:?}, {none} of 50 not taken, bound {:?}", loss.bound(profile));
    } }
    for nodes in [3usize, 10, 30, 100, 300, 1000] { let t = std::time::Instant::now(); println!("core alone {nodes}: {:?} ({:?})", core_alone(nodes, 20), t.elapsed()); if t.elapsed().as_secs() > 60 { break } }
    for nodes in [3, 10, 30] { let t = std::time::Instant::now(); println!("{:?} in {:?}", scale(nodes, 20), t.elapsed()); }
}
