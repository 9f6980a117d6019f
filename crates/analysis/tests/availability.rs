//! Predicted availability against the figures of textbooks.

use analysis::availability::{Group, Takeover, minutes_per_year, nines, pair, single, with_common_cause};

fn is(found: f64, known: f64, digits: f64) {
    assert!((found / known - 1.0).abs() < digits, "{found:e} is not {known:e}");
}

fn group(active: u32, standby: u32, need: u32, crews: u32, standby_rate: f64) -> Group {
    Group {
        active,
        standby,
        need,
        crews,
        failures_per_hour: 1e-3,
        repair_hours: 2.0,
        standby_rate,
    }
}

#[test]
fn a_single_unit() {
    let found = single(1e-3, 2.0);
    is(found, 1.996007984032e-3, 1e-12);
    is(nines(found), 2.6998, 1e-4);
    is(minutes_per_year(found), 1_049.820359, 1e-9);
    is(group(1, 0, 1, 1, 1.0).expected().unavailability, found, 1e-12);
    is(group(1, 0, 1, 1, 1.0).expected().mttf_hours, 1e3, 1e-12);
}

#[test]
fn groups_with_hot_warm_and_cold_standbys() {
    for (active, standby, need, crews, alpha, unavailability, mttf) in [
        (1, 1, 1, 1, 1.0, 7.968063999490e-6, 2.515e5),
        (1, 1, 1, 2, 1.0, 3.984047872319e-6, 2.515e5),
        (1, 1, 1, 1, 0.5, 5.982018053730e-6, 3.350e5),
        (1, 1, 1, 2, 0.5, 2.991017973027e-6, 3.350e5),
        (1, 1, 1, 1, 0.0, 3.992000031936e-6, 5.020e5),
        (1, 1, 1, 2, 0.0, 1.996003999992e-6, 5.020e5),
        (1, 2, 1, 3, 1.0, 7.952191361915e-9, 8.391850e7),
        (3, 0, 2, 3, 1.0, 1.193623923423e-5, 8.416667e4),
        (3, 0, 2, 1, 1.0, 2.390400114968e-5, 8.416667e4),
        (5, 0, 3, 5, 1.0, 7.928401414888e-8, 8.442450e6),
        (4, 2, 4, 2, 1.0, 2.378528784694e-7, 4.233950e6),
        (4, 2, 4, 2, 0.0, 1.273617825790e-7, 7.907000e6),
        (10, 2, 10, 3, 0.1, 1.353983648869e-6, 5.003941e5),
    ] {
        let expected = group(active, standby, need, crews, alpha).expected();
        is(expected.unavailability, unavailability, 1e-11);
        is(expected.mttf_hours, mttf, 1e-6);
        is(expected.outage_hours * expected.outages_per_hour, unavailability, 1e-11);
    }
}

#[test]
fn a_failover_that_is_not_perfect() {
    for (alpha, coverage, failover_s, unavailability, minutes) in [
        (1.0, 1.0, 10.0, 1.073472318856e-5, 5.646035),
        (1.0, 0.99, 10.0, 1.568700491003e-5, 8.250737),
        (1.0, 0.95, 10.0, 3.549564129848e-5, 18.669287),
        (1.0, 0.90, 10.0, 6.025533321946e-5, 31.691895),
        (1.0, 0.50, 10.0, 2.582887367136e-4, 135.849544),
        (0.5, 0.95, 30.0, 3.879876046684e-5, 20.406596),
        (0.0, 0.95, 180.0, 7.634147692317e-5, 40.152563),
    ] {
        let takeover = Takeover {
            coverage,
            failover_hours: failover_s / 3_600.0,
            by_hand_hours: 0.5,
        };
        let group = group(1, 1, 1, 1, alpha);
        let found = pair(&group, &takeover);
        is(found, unavailability, 1e-11);
        is(minutes_per_year(found), minutes, 1e-6);
        // What the analysis of whole systems adds up is near enough.
        is(1e-3 * takeover.hours() + group.expected().unavailability, found, 5e-3);
    }
}

#[test]
fn a_common_cause_makes_the_third_copy_worthless() {
    for (beta, known) in [(0.0, 4e-6), (0.01, 2.3920e-5), (0.05, 1.03610e-4), (0.1, 2.03239e-4)] {
        is(with_common_cause(2e-3, beta, 2, 2), known, 2e-5);
    }
    is(with_common_cause(2e-3, 0.1, 3, 3), 2.00006e-4, 1e-5);
}

#[test]
fn what_is_never_repaired() {
    // Storm's `spare.dft`, and two failures of three.
    let never = |active, standby, need, failures_per_hour, standby_rate| Group {
        failures_per_hour,
        repair_hours: 1e30,
        ..group(active, standby, need, 1, standby_rate)
    };
    is(never(1, 1, 1, 0.5, 0.3).expected().mttf_hours, 46.0 / 13.0, 1e-9);
    is(never(3, 0, 2, 1.0, 1.0).expected().mttf_hours, 5.0 / 6.0, 1e-9);
}

#[test]
fn a_standby_that_is_never_tried_is_worth_less() {
    let takeover = Takeover {
        coverage: 0.99,
        failover_hours: 0.0,
        by_hand_hours: 0.5,
    };
    // Failing once in 1,000 h and tried every 720 h, it is dead 36.2 % of the time.
    let hidden = takeover.with_hidden_failures(1e-3, 720.0, 2.0);
    is(hidden.coverage, 0.99 * (1.0 - 0.362), 1e-9);
    assert!(hidden.hours() > takeover.hours());
}
