//! The colours of the style sheet, judged by WCAG 2.1: text 4.5 to 1 against its ground, shapes and lines that mean something 3 to 1.
//! What a browser paints in the end is judged in `crates/cli/tests/dashboard/views.rs`; here are the pairs that not every view happens to show.

use std::collections::BTreeMap;

type Palette = BTreeMap<String, [f64; 3]>;

/// Text, and the grounds it stands on.
const TEXT: &[(&str, &[&str])] = &[
    ("--text", &["--page", "--panel", "--sunk", "--old-ground"]),
    ("--soft", &["--page", "--panel", "--sunk"]),
    ("--link", &["--page", "--panel", "--sunk"]),
    ("--on-link", &["--link"]),
    ("--ok", &["--ok-ground", "--panel", "--sunk"]),
    ("--warn", &["--warn-ground", "--panel", "--sunk", "--page"]),
    (
        "--bad",
        &["--bad-ground", "--panel", "--sunk", "--page", "--old-ground"],
    ),
    ("--old", &["--old-ground", "--panel", "--sunk", "--page"]),
    ("--c1", &["--panel"]),
    ("--c2", &["--panel"]),
    ("--c3", &["--panel"]),
];

/// Shapes and lines without which something is not understood.
const SHAPES: &[(&str, &[&str])] = &[
    ("--mark-ok", &["--panel", "--page"]),
    ("--mark-standby", &["--panel", "--page"]),
    ("--mark-warn", &["--panel", "--page"]),
    ("--mark-bad", &["--panel", "--page", "--old-ground"]),
    ("--mark-old", &["--panel", "--page", "--old-ground"]),
    ("--line", &["--panel", "--page"]),
    ("--link", &["--panel", "--page"]),
];

/// Not text and no meaning of its own: hair lines between things that stand apart anyway.
const DECORATION: &[&str] = &["--hair"];

fn style() -> &'static str {
    include_str!("../assets/style.css")
}

/// The light palette, the dark one of the system, the dark one of the switch.
fn palettes() -> Vec<(String, Palette)> {
    let mut found = Vec::new();
    for block in style().split('}') {
        let Some((head, body)) = block.rsplit_once('{') else {
            continue;
        };
        let colours: Palette = body
            .split(';')
            .filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                let name = name.trim().strip_prefix("--").map(|name| format!("--{name}"))?;
                Some((name, rgb(value.trim())?))
            })
            .collect();
        if !colours.is_empty() {
            found.push((head.trim().lines().last().unwrap_or("").to_owned(), colours));
        }
    }
    found
}

fn rgb(hex: &str) -> Option<[f64; 3]> {
    let hex = hex.strip_prefix('#').filter(|hex| hex.len() == 6)?;
    let part = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok().map(f64::from);
    Some([part(0)?, part(2)?, part(4)?])
}

fn luminance(colour: [f64; 3]) -> f64 {
    let linear = colour.map(|value| {
        let value = value / 255.0;
        if value <= 0.03928 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    });
    0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}

fn ratio(one: [f64; 3], other: [f64; 3]) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn the_formula_agrees_with_known_pairs() {
    let white = [255.0; 3];
    assert!((ratio(white, [0.0; 3]) - 21.0).abs() < 0.01);
    // The darkest grey that fails and the lightest that passes on white are #777777 and #767676.
    assert!(ratio(white, [0x77 as f64; 3]) < 4.5 && ratio(white, [0x76 as f64; 3]) >= 4.5);
}

#[test]
fn every_pair_of_colours_has_enough_contrast_in_each_palette() {
    let palettes = palettes();
    assert_eq!(
        palettes.len(),
        3,
        "{:?}",
        palettes.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    let mut poor = Vec::new();
    for (palette, colours) in &palettes {
        for (least, pairs) in [(4.5, TEXT), (3.0, SHAPES)] {
            for (front, grounds) in pairs {
                for ground in *grounds {
                    let got = match (colours.get(*front), colours.get(*ground)) {
                        (Some(front), Some(ground)) => ratio(*front, *ground),
                        _ => 0.0,
                    };
                    if got < least {
                        poor.push(format!("{palette}: {front} on {ground} is {got:.2}, not {least}"));
                    }
                }
            }
        }
    }
    assert!(poor.is_empty(), "{poor:#?}");
    assert_eq!(palettes[1].1, palettes[2].1, "dark is the same however it was chosen");
}

#[test]
fn every_colour_that_a_rule_uses_is_judged() {
    let known: Vec<&str> = TEXT
        .iter()
        .chain(SHAPES)
        .flat_map(|(front, grounds)| grounds.iter().copied().chain([*front]))
        .chain(DECORATION.iter().copied())
        .collect();
    for used in style()
        .split("var(")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(name, _)| name))
    {
        assert!(known.contains(&used), "{used} is used and not judged");
    }
    // A colour that is written out is judged by nobody.
    let rules = style().split('}').filter(|block| !block.contains("--page:"));
    let bare: Vec<&str> = rules
        .flat_map(|block| block.match_indices('#').map(move |(at, _)| &block[at..]))
        .filter(|rest| {
            rest.len() > 4
                && rest[1..4].bytes().all(|byte| byte.is_ascii_hexdigit())
                && !rest[1..].starts_with(|c: char| "ghijklmnopqrstuvwxyz".contains(c))
        })
        .filter(|rest| {
            rest.split([';', ' '])
                .next()
                .is_some_and(|colour| colour.len() <= 9 && colour.ends_with(|c: char| c.is_ascii_hexdigit()))
        })
        .filter(|rest| !rest.starts_with("#000a"))
        .collect();
    assert!(bare.is_empty(), "{bare:?}");
}
