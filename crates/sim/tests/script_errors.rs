//! A script that cannot be played says where, what and how it would be right.

use sim::play;

#[test]
fn each_wrong_line_is_named_with_its_number_and_a_hint() {
    let wrong = [
        (
            "kill db-1",
            "line 1: `kill db-1`: there is no service; declare one first: `service db`",
        ),
        (
            "service db\nfly away",
            "line 2: `fly away`: nothing is called `fly`; known are: nodes",
        ),
        ("service db activ 1", "no key is called `activ`; known are: active N"),
        ("service db active many", "`many` is not a number; write one"),
        ("service db active 0", "there must be an active"),
        ("service Db", "the name `Db` must begin with a letter"),
        ("service web needs db\nadvance 1s", "there is no service `db` to need"),
        (
            "service db\nadvance soon",
            "`soon` is not a span of time; write `500ms`, `2s` or `1m`",
        ),
        ("service db\nadvance 25000m", "longer than a day"),
        (
            "service db\nadvance 1s\nnodes a",
            "line 3: `nodes a`: `nodes` comes too late",
        ),
        ("service db\nkill db-7", "it cannot happen that db-7 is killed"),
        ("service db\nail db tired 1s", "no ailment is called `tired`"),
        ("service db\nstore sad 1s", "the store cannot be `sad`"),
        ("service db\nhook db start fails 1s", "no hook is called `start`"),
        ("service db\npause now", "`now` is not expected here; leave it out"),
        (
            "service db\nagent dies\nswitchover db",
            "it cannot happen that the operator moves db",
        ),
    ];
    for (script, expected) in wrong {
        let error = play(script).unwrap_err().to_string();
        assert!(error.contains(expected), "{script:?} gives {error:?}");
    }
}

#[test]
fn comments_and_empty_lines_are_left_out() {
    let played = play("# nothing\n\nservice db  # one\n  advance 1s\n").unwrap();
    assert_eq!(played.violation, None);
    assert_eq!(played.transcript, "");
}
