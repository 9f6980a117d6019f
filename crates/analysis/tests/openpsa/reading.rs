//! Files as people write them, right and wrong.

use analysis::openpsa::{Mistake, Model, Source, read};
use analysis::solve::{Limits, Probability, solve};

fn model(text: &str) -> Result<Model, Mistake> {
    let source = Source {
        path: "x.xml".into(),
        text: text.into(),
    };
    let mut include = |file: &str| {
        match file {
        "events.xml" => Ok("<opsa-mef><model-data><define-basic-event name=\"a\"><float value=\"0.5\"/></define-basic-event></model-data></opsa-mef>".into()),
        "me.xml" => Ok("<opsa-mef><include file=\"me.xml\"/></opsa-mef>".into()),
        other => Err(format!("no such file {other}")),
    }
    };
    read(&[source], &mut include, None)
}

fn solved(text: &str) -> (Vec<Vec<String>>, f64) {
    let model = model(text).unwrap_or_else(|mistake| panic!("{mistake}"));
    let limits = Limits {
        order: 20,
        ..Limits::default()
    };
    let solution = solve(&model.tree, model.top, &limits);
    let name = |event: &u32| model.names[*event as usize].clone();
    let mut sets: Vec<Vec<String>> = solution
        .sets
        .iter()
        .map(|set| set.events.iter().map(name).collect())
        .collect();
    sets.iter_mut().for_each(|set| set.sort());
    sets.sort();
    match solution.probability {
        Probability::Exact(p) => (sets, p),
        Probability::Bounds(..) => panic!("not exact"),
    }
}

/// A gate `top` with this formula over a (0.1), b (0.2), c (0.3), and house events on and off.
fn over(formula: &str) -> (Vec<Vec<String>>, f64) {
    solved(&format!(
        "<opsa-mef><define-fault-tree name=\"t\"><define-gate name=\"top\">{formula}</define-gate>\
         <define-house-event name=\"on\"><constant value=\"true\"/></define-house-event>\
         <define-house-event name=\"off\"><constant value=\"false\"/></define-house-event></define-fault-tree><model-data>\
         <define-basic-event name=\"a\"><float value=\"0.1\"/></define-basic-event>\
         <define-basic-event name=\"b\"><float value=\"0.2\"/></define-basic-event>\
         <define-basic-event name=\"c\"><float value=\"0.3\"/></define-basic-event></model-data></opsa-mef>"
    ))
}

const ABC: &str = "<event name=\"a\"/><basic-event name=\"b\"/><event name=\"c\" type=\"basic-event\"/>";

#[test]
fn every_operator_has_its_meaning() {
    let ab = "<event name=\"a\"/><event name=\"b\"/>";
    for (formula, probability) in [
        (format!("<or>{ab}</or>"), 0.28),
        (format!("<and>{ab}</and>"), 0.02),
        (format!("<xor>{ab}</xor>"), 0.26),
        (format!("<nand>{ab}</nand>"), 0.98),
        (format!("<nor>{ab}</nor>"), 0.72),
        (format!("<imply>{ab}</imply>"), 0.92),
        (format!("<iff>{ab}</iff>"), 0.74),
        ("<not><event name=\"a\"/></not>".into(), 0.9),
        (format!("<atleast min=\"2\">{ABC}</atleast>"), 0.098),
        (format!("<cardinality min=\"1\" max=\"1\">{ABC}</cardinality>"), 0.398),
        (format!("<and><house-event name=\"on\"/>{ab}</and>"), 0.02),
        (format!("<or><house-event name=\"off\"/>{ab}</or>"), 0.28),
        (format!("<and><house-event name=\"off\"/>{ab}</and>"), 0.0),
        ("<constant value=\"true\"/>".into(), 1.0),
        ("<event name=\"c\"/>".into(), 0.3),
    ] {
        let (_, found) = over(&formula);
        assert!(
            (found - probability).abs() < 1e-12,
            "{formula}: {found} is not {probability}"
        );
    }
}

#[test]
fn negated_failures_leave_the_sets_of_those_that_are_not() {
    let (sets, _) = over("<and><event name=\"a\"/><not><event name=\"b\"/></not></and>");
    assert_eq!(sets, [["a"]]);
    let (sets, _) = over("<xor><event name=\"a\"/><event name=\"b\"/></xor>");
    assert_eq!(sets, [["a"], ["b"]]);
}

#[test]
fn names_are_looked_up_from_the_inside_out() {
    let (sets, probability) = solved(
        "<opsa-mef><define-fault-tree name=\"t\"><define-gate name=\"top\"><or><gate name=\"in.g\"/><event name=\"e\"/></or></define-gate>\
         <define-basic-event name=\"e\"><float value=\"0.5\"/></define-basic-event>\
         <define-component name=\"in\" role=\"private\"><define-gate name=\"g\"><and><event name=\"e\"/><event name=\"f\"/></and></define-gate>\
         <define-basic-event name=\"e\"><float value=\"0.1\"/></define-basic-event>\
         <define-basic-event name=\"f\"><float value=\"0.2\"/></define-basic-event></define-component></define-fault-tree></opsa-mef>",
    );
    assert_eq!(sets, [vec!["e".to_owned()], vec!["t.in.e".into(), "t.in.f".into()]]);
    assert!((probability - 0.51).abs() < 1e-12);
}

#[test]
fn expressions_are_worked_out() {
    for (expression, value) in [
        ("<mul><float value=\"0.5\"/><parameter name=\"p\"/></mul>", 0.05),
        (
            "<exponential><float value=\"1e-4\"/><system-mission-time/></exponential>",
            0.583_554_633_980,
        ),
        (
            "<GLM><float value=\"0\"/><float value=\"1e-3\"/><float value=\"0.1\"/><float value=\"1e6\"/></GLM>",
            0.009_900_990_099,
        ),
        (
            "<Weibull><float value=\"1000\"/><int value=\"1\"/><int value=\"0\"/><float value=\"1000\"/></Weibull>",
            0.632_120_558_829,
        ),
        (
            "<lognormal-deviate><float value=\"0.02\"/><float value=\"3\"/><float value=\"0.95\"/></lognormal-deviate>",
            0.02,
        ),
        (
            "<normal-deviate><float value=\"0.1\"/><float value=\"0.01\"/></normal-deviate>",
            0.1,
        ),
        (
            "<uniform-deviate><float value=\"0.1\"/><float value=\"0.3\"/></uniform-deviate>",
            0.2,
        ),
        (
            "<periodic-test><float value=\"1e-4\"/><float value=\"1000\"/><float value=\"0\"/><float value=\"2500\"/></periodic-test>",
            0.048_770_575_499,
        ),
        (
            "<sub><float value=\"0.5\"/><neg><float value=\"0.1\"/></neg><float value=\"0.2\"/></sub>",
            0.4,
        ),
    ] {
        let (_, found) = solved(&format!(
            "<opsa-mef><define-fault-tree name=\"t\"><define-gate name=\"top\"><event name=\"a\"/></define-gate>\
             <define-basic-event name=\"a\">{expression}</define-basic-event>\
             <define-parameter name=\"p\"><float value=\"0.1\"/></define-parameter></define-fault-tree></opsa-mef>"
        ));
        assert!((found - value).abs() < 1e-9, "{expression}: {found} is not {value}");
    }
}

#[test]
fn a_common_cause_group_is_applied() {
    let member = |names: [&str; 3]| names.map(|name| format!("<basic-event name=\"{name}\"/>")).concat();
    let group = |name: &str, names| {
        format!(
            "<define-CCF-group name=\"{name}\" model=\"beta-factor\"><members>{}</members><distribution><float value=\"0.1\"/></distribution>\
             <factor level=\"3\"><float value=\"0.2\"/></factor></define-CCF-group>",
            member(names)
        )
    };
    let trains = ["1", "2", "3"]
        .map(|n| format!("<or><event name=\"v{n}\"/><event name=\"p{n}\"/></or>"))
        .concat();
    let (sets, probability) = solved(&format!(
        "<opsa-mef><define-fault-tree name=\"t\"><define-gate name=\"top\"><and>{trains}</and></define-gate></define-fault-tree>{}{}</opsa-mef>",
        group("valves", ["v1", "v2", "v3"]),
        group("pumps", ["p1", "p2", "p3"])
    ));
    assert!((probability / 0.043_080_4 - 1.0).abs() < 1e-6, "{probability}");
    assert_eq!((sets.len(), sets.iter().filter(|set| set.len() == 1).count()), (10, 2));
}

#[test]
fn a_damaged_file_is_refused_with_its_place() {
    let gate = |formula: &str| {
        format!(
            "<opsa-mef>\n<define-fault-tree name=\"t\">\n<define-gate name=\"top\">{formula}</define-gate>\n</define-fault-tree></opsa-mef>"
        )
    };
    for (text, message) in [
        ("".to_owned(), "x.xml:1:1: this is not well-formed XML"),
        ("<opsa-mef>\n<define-gate name=\"a\">".into(), "x.xml:1:1: this is not well-formed XML: the root node was opened but never closed"),
        ("<html/>".into(), "x.xml:1:1: the file is a `html`, not an Open-PSA model"),
        ("<opsa-mef/>".into(), "x.xml: there is no gate in it"),
        (gate("<or><event name=\"nobody\"/></or>"), "x.xml:3:29: there is no event `nobody`"),
        (gate("<gate name=\"top\"/>"), "x.xml:3:1: every gate is used by another one, `top` too: they go in a circle"),
        (gate("<both/>"), "x.xml:3:25: there is no operator `both`"),
        (gate("<not/>"), "x.xml:3:25: `not` is over 1, and here over 0"),
        (gate("<atleast min=\"x\"><event name=\"a\"/></atleast>"), "x.xml:3:25: `min` is a whole number, not `x`"),
        (gate("<atleast min=\"2\"><basic-event name=\"a\"/></atleast>"), "x.xml:3:25: at least 2 of 1 can never be"),
        (gate(""), "x.xml:3:1: this gate has no formula"),
        (gate("<basic-event/>"), "x.xml:3:25: `<basic-event>` has no `name`"),
        (
            "<opsa-mef><define-fault-tree name=\"t\">\n<define-gate name=\"top\"><gate name=\"a\"/></define-gate>\
             <define-gate name=\"a\"><gate name=\"b\"/></define-gate>\n<define-gate name=\"b\"><gate name=\"a\"/></define-gate></define-fault-tree></opsa-mef>".into(),
            "x.xml:3:23: gates go in a circle: a -> b -> a",
        ),
        ("<opsa-mef><include file=\"none.xml\"/></opsa-mef>".into(), "x.xml:1:11: `none.xml` cannot be read: no such file none.xml"),
        ("<opsa-mef><include file=\"me.xml\"/></opsa-mef>".into(), "me.xml:1:11: `me.xml` includes itself"),
    ] {
        let mistake = model(&text).expect_err(&text).to_string();
        assert!(mistake.starts_with(message), "{mistake}\nis not\n{message}");
    }
    for (probability, message) in [
        ("<float value=\"1.5\"/>", "x.xml:1:110: the probability of `a` is 1.5"),
        ("<float value=\"often\"/>", "x.xml:1:143: `often` is no number"),
        ("<parameter name=\"p\"/>", "x.xml:1:143: there is no parameter `p`"),
        (
            "<div><int value=\"1\"/><int value=\"0\"/></div>",
            "x.xml:1:143: this has no value",
        ),
        ("<magic/>", "x.xml:1:143: `magic` is not understood in an expression"),
    ] {
        let text = format!(
            "<opsa-mef><define-fault-tree name=\"t\"><define-gate name=\"top\"><basic-event name=\"a\"/></define-gate></define-fault-tree><define-basic-event name=\"a\">{probability}</define-basic-event></opsa-mef>"
        );
        let mistake = model(&text).expect_err(&text).to_string();
        assert!(
            mistake.contains(message.split_once(": ").unwrap().1),
            "{mistake}\nis not\n{message}"
        );
        assert!(mistake.starts_with("x.xml:1:1"), "{mistake}");
    }
}

#[test]
fn what_is_included_counts_and_what_has_no_probability_is_told() {
    let text = "<opsa-mef><include file=\"events.xml\"/><define-fault-tree name=\"t\"><define-gate name=\"top\"><or><event name=\"a\"/>\
                <basic-event name=\"z\"/></or></define-gate></define-fault-tree><define-event-tree name=\"x\"/></opsa-mef>";
    let model = model(text).unwrap();
    assert_eq!(model.without_probability, ["z"]);
    assert_eq!(model.notes, ["`<define-event-tree>` is left aside"]);
    let a = model.names.iter().position(|name| name == "a").unwrap();
    assert_eq!(model.tree.probability(a as u32), 0.5);
}

/// Whatever the file is, there is an answer, and no panic.
#[test]
fn no_cut_or_twisted_file_panics() {
    let text = "<?xml version=\"1.0\"?><opsa-mef><define-fault-tree name=\"t\"><define-gate name=\"top\"><atleast min=\"2\"><event name=\"a\"/>\
                <gate name=\"g\"/><constant value=\"true\"/></atleast></define-gate><define-gate name=\"g\"><xor><event name=\"a\"/><event name=\"b\"/></xor>\
                </define-gate></define-fault-tree><model-data><define-basic-event name=\"a\"><exponential><parameter name=\"p\"/><int value=\"5\"/>\
                </exponential></define-basic-event><define-basic-event name=\"b\"/><define-parameter name=\"p\"><float value=\"0.1\"/></define-parameter>\
                </model-data></opsa-mef>";
    let mut rng = fastrand::Rng::with_seed(7);
    for cut in 0..text.len() {
        let _ = model(&text[..cut]);
    }
    for _ in 0..3_000 {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(0..bytes.len());
            bytes[at] = rng.u8(32..127);
        }
        if let Ok(model) = model(std::str::from_utf8(&bytes).unwrap()) {
            solve(&model.tree, model.top, &Limits::default());
        }
    }
}

/// Generated models are one long line, and every event has a place in it that a mistake could name.
#[test]
fn a_model_of_fifty_thousand_events_in_one_line_is_read_in_seconds() {
    use std::fmt::Write as _;
    let mut text = String::from("<opsa-mef><define-fault-tree name=\"f\"><define-gate name=\"top\"><or>");
    for number in 0..50_000 {
        let _ = write!(text, "<basic-event name=\"e{number}\"/>");
    }
    text.push_str("</or></define-gate>");
    for number in 0..50_000 {
        let _ = write!(
            text,
            "<define-basic-event name=\"e{number}\"><float value=\"1e-6\"/></define-basic-event>"
        );
    }
    let begun = std::time::Instant::now();
    let whole = model(&format!("{text}</define-fault-tree></opsa-mef>")).unwrap();
    assert_eq!(whole.names.len(), 50_000);
    // Its last mistake is told with its place all the same.
    let at = text.chars().count() + 1;
    let mistake = model(&format!(
        "{text}<define-gate name=\"top\"><not-a-gate/></define-gate></define-fault-tree></opsa-mef>"
    ))
    .unwrap_err();
    assert_eq!(mistake.line, 1);
    assert!(mistake.column as usize >= at, "{mistake}");
    // Counting the characters before each of them took minutes.
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
}
