//! More actives are declared than a service had: what people are told until they serve.

#![expect(clippy::panic, reason = "a test that cannot do its part has failed")]

use sim::play;

#[test]
fn a_service_that_grows_is_not_down_while_what_it_had_serves() {
    let transcript = scenario(
        "
        service  web  active 2  standby 0  need 2
        ail      web  slow-start  20s
        change   web  active 4  need 4
        advance  700ms
        status
        advance  2s
        kill     web-3
        advance  1s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web starts slowly for 20s
    0.000s   * the operator applies another file
    0.000s     create web-3 on a  because 2 of 4 declared instances exist
    0.000s     create web-4 on a  because 3 of 4 declared instances exist
    0.000s     start web-3 on a  because 2 of 4 declared instances exist
    0.000s     start web-4 on a  because 3 of 4 declared instances exist
    0.000s     web is degraded  because it grows from 2 to 4 actives: 2 serve so far, 0 of 0 standbys are ready
    0.700s   = web is degraded; web-1 holds slot 0 at epoch 1; web-2 holds slot 1 at epoch 2; web-1 on a is active, ready; web-2 on a is active, ready; web-3 on a is standby, not ready (starting: 2 of 4 declared instances exist); web-4 on a is standby, not ready (starting: 3 of 4 declared instances exist)
    0.802s     web-3 is healthy  because web-3 passes its checks
    0.802s     claim web/2 for web-3, epoch 3  because it is the first active of slot 2
    0.802s     web-4 is healthy  because web-4 passes its checks
    0.802s     claim web/3 for web-4, epoch 4  because it is the first active of slot 3
    0.803s     send the clients of web to web-1 web-2 web-3  because 3 of 4 actives serve, 0 of 0 standbys are ready
    0.803s     send the clients of web to web-1 web-2 web-3 web-4  because 4 of 4 actives serve, 0 of 0 standbys are ready
    0.803s     web is redundant  because 4 of 4 actives serve, 0 of 0 standbys are ready
    2.700s   * web-3 is killed
    2.700s     kill web-3  because the process of web-3 ended: killed by SIGKILL
    2.700s     web-3 died  because the process of web-3 ended: killed by SIGKILL
    2.700s     send the clients of web to web-1 web-2 web-4  because 3 of 4 actives serve, 0 of 0 standbys are ready
    2.700s     web is down  because 3 of 4 actives serve, 0 of 0 standbys are ready
    2.700s     start web-3 on a  because the process of web-3 ended: killed by SIGKILL
    3.502s     web-3 is healthy  because web-3 passes its checks
    3.502s     claim web/2 for web-3, epoch 5  because the process of web-3 ended: killed by SIGKILL
    3.503s     send the clients of web to web-1 web-2 web-3 web-4  because 4 of 4 actives serve, 0 of 0 standbys are ready
    3.503s     web is redundant  because 4 of 4 actives serve, 0 of 0 standbys are ready
    3.503s     failover of web/2 to web-3 took 803.2ms  because the process of web-3 ended: killed by SIGKILL
    3.700s   = requests to web: 370 answered, 0 held, 0 failed
    ");
}

#[test]
fn a_service_that_loses_what_it_had_while_it_grows_is_down() {
    let transcript = scenario(
        "
        service  web  active 2  standby 0  need 2
        ail      web  slow-start  20s
        change   web  active 4  need 4
        advance  200ms
        kill     web-1
        advance  2s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web starts slowly for 20s
    0.000s   * the operator applies another file
    0.000s     create web-3 on a  because 2 of 4 declared instances exist
    0.000s     create web-4 on a  because 3 of 4 declared instances exist
    0.000s     start web-3 on a  because 2 of 4 declared instances exist
    0.000s     start web-4 on a  because 3 of 4 declared instances exist
    0.000s     web is degraded  because it grows from 2 to 4 actives: 2 serve so far, 0 of 0 standbys are ready
    0.200s   * web-1 is killed
    0.200s     kill web-1  because the process of web-1 ended: killed by SIGKILL
    0.200s     web-1 died  because the process of web-1 ended: killed by SIGKILL
    0.200s     send the clients of web to web-2  because 1 of 4 actives serve, 0 of 0 standbys are ready
    0.200s     web is down  because it grows from 2 to 4 actives: 1 serve so far, 0 of 0 standbys are ready
    0.200s     start web-1 on a  because the process of web-1 ended: killed by SIGKILL
    0.802s     web-3 is healthy  because web-3 passes its checks
    0.802s     claim web/0 for web-3, epoch 3  because the process of web-1 ended: killed by SIGKILL
    0.802s     web-4 is healthy  because web-4 passes its checks
    0.802s     claim web/2 for web-4, epoch 4  because it is the first active of slot 2
    0.803s     send the clients of web to web-3 web-2  because 2 of 4 actives serve, 0 of 0 standbys are ready
    0.803s     web is degraded  because it grows from 2 to 4 actives: 2 serve so far, 0 of 0 standbys are ready
    0.803s     send the clients of web to web-3 web-2 web-4  because 3 of 4 actives serve, 0 of 0 standbys are ready
    0.803s     failover of web/0 from web-1 to web-3 took 603.2ms  because the process of web-1 ended: killed by SIGKILL
    1.002s     web-1 is healthy  because web-1 passes its checks
    1.002s     claim web/3 for web-1, epoch 5  because it is the first active of slot 3
    1.003s     send the clients of web to web-3 web-2 web-4 web-1  because 4 of 4 actives serve, 0 of 0 standbys are ready
    1.003s     web is redundant  because 4 of 4 actives serve, 0 of 0 standbys are ready
    ");
}

#[test]
fn a_service_that_needs_fewer_than_it_has_needs_no_more_while_it_grows() {
    let transcript = scenario(
        "
        service  web  active 3  standby 0  need 2
        ail      web  slow-start  20s
        change   web  active 5  need 3
        advance  200ms
        kill     web-1
        advance  100ms
        kill     web-2
        advance  2s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web starts slowly for 20s
    0.000s   * the operator applies another file
    0.000s     create web-4 on a  because 3 of 5 declared instances exist
    0.000s     create web-5 on a  because 4 of 5 declared instances exist
    0.000s     start web-4 on a  because 3 of 5 declared instances exist
    0.000s     start web-5 on a  because 4 of 5 declared instances exist
    0.000s     web is degraded  because it grows from 3 to 5 actives: 3 serve so far, 0 of 0 standbys are ready
    0.200s   * web-1 is killed
    0.200s     kill web-1  because the process of web-1 ended: killed by SIGKILL
    0.200s     web-1 died  because the process of web-1 ended: killed by SIGKILL
    0.200s     send the clients of web to web-2 web-3  because 2 of 5 actives serve, 0 of 0 standbys are ready
    0.200s     start web-1 on a  because the process of web-1 ended: killed by SIGKILL
    0.300s   * web-2 is killed
    0.300s     kill web-2  because the process of web-2 ended: killed by SIGKILL
    0.300s     web-2 died  because the process of web-2 ended: killed by SIGKILL
    0.300s     send the clients of web to web-3  because 1 of 5 actives serve, 0 of 0 standbys are ready
    0.300s     web is down  because it grows from 3 to 5 actives: 1 serve so far, 0 of 0 standbys are ready
    0.300s     start web-2 on a  because the process of web-2 ended: killed by SIGKILL
    0.802s     web-4 is healthy  because web-4 passes its checks
    0.802s     claim web/0 for web-4, epoch 4  because the process of web-1 ended: killed by SIGKILL
    0.802s     web-5 is healthy  because web-5 passes its checks
    0.802s     claim web/1 for web-5, epoch 5  because the process of web-2 ended: killed by SIGKILL
    0.803s     send the clients of web to web-4 web-3  because 2 of 5 actives serve, 0 of 0 standbys are ready
    0.803s     web is degraded  because it grows from 3 to 5 actives: 2 serve so far, 0 of 0 standbys are ready
    0.803s     send the clients of web to web-4 web-5 web-3  because 3 of 5 actives serve, 0 of 0 standbys are ready
    0.803s     failover of web/0 from web-1 to web-4 took 603.2ms  because the process of web-1 ended: killed by SIGKILL
    0.803s     failover of web/1 from web-2 to web-5 took 503.2ms  because the process of web-2 ended: killed by SIGKILL
    1.002s     web-1 is healthy  because web-1 passes its checks
    1.002s     claim web/3 for web-1, epoch 6  because it is the first active of slot 3
    1.003s     send the clients of web to web-4 web-5 web-3 web-1  because 4 of 5 actives serve, 0 of 0 standbys are ready
    1.102s     web-2 is healthy  because web-2 passes its checks
    1.102s     claim web/4 for web-2, epoch 7  because it is the first active of slot 4
    1.103s     send the clients of web to web-4 web-5 web-3 web-1 web-2  because 5 of 5 actives serve, 0 of 0 standbys are ready
    1.103s     web is redundant  because 5 of 5 actives serve, 0 of 0 standbys are ready
    ");
}

fn scenario(script: &str) -> String {
    let played = match play(script) {
        Ok(played) => played,
        Err(wrong) => panic!("{wrong}"),
    };
    assert_eq!(played.violation, None, "{played}");
    played.transcript
}
