//! Situations as scripts, and what the operator sees.

use sim::play;

#[test]
fn a_killed_active_is_replaced_by_the_first_in_the_failover_order() {
    let transcript = scenario(
        "
        service  web  active 1  standby 2
        kill     web-1
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web-1 is killed
    0.000s     kill web-1  because the process of web-1 ended: killed by SIGKILL
    0.000s     web-1 died  because the process of web-1 ended: killed by SIGKILL
    0.000s     claim web/0 for web-2, epoch 2  because the process of web-1 ended: killed by SIGKILL
    0.000s     hold the clients of web  because 0 of 1 actives serve, 1 of 2 standbys are ready
    0.000s     web is down  because 0 of 1 actives serve, 1 of 2 standbys are ready
    0.000s     start web-1 on a  because the process of web-1 ended: killed by SIGKILL
    0.001s     send the clients of web to web-2  because 1 of 1 actives serve, 1 of 2 standbys are ready
    0.001s     web is degraded  because 1 of 1 actives serve, 1 of 2 standbys are ready
    0.001s     failover of web/0 from web-1 to web-2 took 1.1ms  because the process of web-1 ended: killed by SIGKILL
    0.022s     web-1 is healthy  because web-1 passes its checks
    0.022s     web is redundant  because 1 of 1 actives serve, 2 of 2 standbys are ready
    ");
}

#[test]
fn the_failover_order_puts_whoever_flaps_last() {
    let transcript = scenario(
        "
        service  web  active 1  standby 2
        kill     web-2
        advance  200ms
        kill     web-2
        advance  1s
        kill     web-2
        advance  10s
        status
        kill     web-1
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web-2 is killed
    0.000s     kill web-2  because the process of web-2 ended: killed by SIGKILL
    0.000s     web-2 died  because the process of web-2 ended: killed by SIGKILL
    0.000s     web is degraded  because 1 of 1 actives serve, 1 of 2 standbys are ready
    0.000s     start web-2 on a  because the process of web-2 ended: killed by SIGKILL
    0.022s     web-2 is healthy  because web-2 passes its checks
    0.022s     web is redundant  because 1 of 1 actives serve, 2 of 2 standbys are ready
    0.200s   * web-2 is killed
    0.200s     kill web-2  because the process of web-2 ended: killed by SIGKILL
    0.200s     web-2 died  because the process of web-2 ended: killed by SIGKILL
    0.200s     web is degraded  because 1 of 1 actives serve, 1 of 2 standbys are ready
    0.200s     start web-2 on a  because the process of web-2 ended: killed by SIGKILL
    0.222s     web-2 is healthy  because web-2 passes its checks
    0.222s     web is redundant  because 1 of 1 actives serve, 2 of 2 standbys are ready
    1.200s   * web-2 is killed
    1.200s     kill web-2  because the process of web-2 ended: killed by SIGKILL
    1.200s     web-2 died  because the process of web-2 ended: killed by SIGKILL
    1.200s     web is degraded  because 1 of 1 actives serve, 1 of 2 standbys are ready
    1.200s     web-2 flaps  because the process of web-2 ended: killed by SIGKILL
    1.306s     start web-2 on a  because waits 106ms after 3 failures
    1.328s     web-2 is healthy  because web-2 passes its checks
    1.328s     web is redundant  because 1 of 1 actives serve, 2 of 2 standbys are ready
    11.200s  = web is redundant; web-1 holds slot 0 at epoch 1; web-1 on a is active, ready; web-2 on a is standby, ready; web-3 on a is standby, ready
    11.200s  * web-1 is killed
    11.200s    kill web-1  because the process of web-1 ended: killed by SIGKILL
    11.200s    web-1 died  because the process of web-1 ended: killed by SIGKILL
    11.200s    claim web/0 for web-3, epoch 2  because the process of web-1 ended: killed by SIGKILL
    11.200s    hold the clients of web  because 0 of 1 actives serve, 1 of 2 standbys are ready
    11.200s    web is down  because 0 of 1 actives serve, 1 of 2 standbys are ready
    11.200s    start web-1 on a  because the process of web-1 ended: killed by SIGKILL
    11.201s    send the clients of web to web-3  because 1 of 1 actives serve, 1 of 2 standbys are ready
    11.201s    web is degraded  because 1 of 1 actives serve, 1 of 2 standbys are ready
    11.201s    failover of web/0 from web-1 to web-3 took 1.1ms  because the process of web-1 ended: killed by SIGKILL
    11.222s    web-1 is healthy  because web-1 passes its checks
    11.222s    web is redundant  because 1 of 1 actives serve, 2 of 2 standbys are ready
    ");
}

#[test]
fn an_exclusive_slot_is_not_claimed_while_a_child_of_its_holder_survives() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  hooks
        ail      db-1  slow-kill  10s
        kill     main db-1
        advance  3s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * db-1 is slow to die for 10s
    0.000s   * the main process of db-1 is killed, a child survives
    0.000s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.000s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     db is down  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.500s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: killed by SIGKILL
    0.500s     start db-1 on a  because the process of db-1 ended: killed by SIGKILL
    0.501s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.506s     send the clients of db to db-2  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.506s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.506s     failover of db/0 from db-1 to db-2 took 506.2ms  because the process of db-1 ended: killed by SIGKILL
    0.522s     db-1 is healthy  because db-1 passes its checks
    0.522s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    3.000s   = requests to db: 250 answered, 50 held, 0 failed
    ");
}

#[test]
fn one_failed_check_is_no_failure_and_one_passed_check_no_recovery() {
    let transcript = scenario(
        "
        service  web  active 1  standby 0  fail-after 3  pass-after 2
        ail      web-1  sick  200ms
        advance  2s
        ail      web-1  sick  400ms
        advance  4s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web-1 fails its checks for 200ms
    2.000s   * web-1 fails its checks for 400ms
    2.222s     web-1 is unhealthy  because web-1 failed 3 checks in a row: connection refused
    2.222s     web is down  because 0 of 1 actives serve, 0 of 0 standbys are ready
    2.522s     web-1 is healthy  because web-1 passes its checks
    2.522s     web is redundant  because 1 of 1 actives serve, 0 of 0 standbys are ready
    ");
}

#[test]
fn a_hung_active_is_failed_over_like_a_dead_one() {
    let transcript = scenario(
        "
        service  web  active 1  standby 1  fail-after 2
        hang     web-1
        advance  3s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web-1 hangs
    0.223s     web-1 is unhealthy  because web-1 failed 2 checks in a row: no answer within 100ms
    0.223s     kill web-1  because web-1 is unhealthy: no answer within 100ms
    0.223s     claim web/0 for web-2, epoch 2  because web-1 is unhealthy: no answer within 100ms
    0.223s     hold the clients of web  because 0 of 1 actives serve, 0 of 1 standbys are ready
    0.223s     web is down  because 0 of 1 actives serve, 0 of 1 standbys are ready
    0.223s     start web-1 on a  because web-1 is unhealthy: no answer within 100ms
    0.224s     send the clients of web to web-2  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.224s     web is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.224s     failover of web/0 from web-1 to web-2 took 1.1ms  because web-1 is unhealthy: no answer within 100ms
    0.245s     web-1 is healthy  because web-1 passes its checks
    0.245s     web is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    3.000s   = requests to web: 278 answered, 0 held, 22 failed
    ");
}

#[test]
fn a_hung_active_that_nobody_can_replace_is_restarted_after_a_while() {
    let transcript = scenario(
        "
        service  web  active 1  standby 0
        hang     web-1
        advance  8s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web-1 hangs
    0.223s     web-1 is unhealthy  because web-1 failed 2 checks in a row: no answer within 100ms
    0.223s     web is down  because 0 of 1 actives serve, 0 of 0 standbys are ready
    5.223s     kill web-1  because web-1 is unhealthy: no answer within 100ms
    5.223s     hold the clients of web  because 0 of 1 actives serve, 0 of 0 standbys are ready
    5.223s     start web-1 on a  because web-1 is unhealthy: no answer within 100ms
    5.245s     web-1 is healthy  because web-1 passes its checks
    5.245s     claim web/0 for web-1, epoch 2  because web-1 is unhealthy: no answer within 100ms
    5.246s     send the clients of web to web-1  because 1 of 1 actives serve, 0 of 0 standbys are ready
    5.246s     web is redundant  because 1 of 1 actives serve, 0 of 0 standbys are ready
    5.247s     failover of web/0 to web-1 took 5023.7ms  because web-1 is unhealthy: no answer within 100ms
    ");
}

#[test]
fn each_restart_waits_twice_as_long() {
    let transcript = scenario(
        "
        service  web  active 1  standby 0  replace-after 10  backoff 100ms  backoff-max 1s
        ail      web  exits-at-once  5s
        kill     web-1
        advance  8s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web exits at once for 5s
    0.000s   * web-1 is killed
    0.000s     kill web-1  because the process of web-1 ended: killed by SIGKILL
    0.000s     web-1 died  because the process of web-1 ended: killed by SIGKILL
    0.000s     hold the clients of web  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.000s     web is down  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.000s     start web-1 on a  because the process of web-1 ended: killed by SIGKILL
    0.003s     kill web-1  because the process of web-1 ended: exit code 1
    0.003s     web-1 died  because the process of web-1 ended: exit code 1
    0.003s     start web-1 on a  because the process of web-1 ended: exit code 1
    0.006s     kill web-1  because the process of web-1 ended: exit code 1
    0.006s     web-1 died  because the process of web-1 ended: exit code 1
    0.106s     start web-1 on a  because waits 100ms after 2 failures
    0.109s     kill web-1  because the process of web-1 ended: exit code 1
    0.109s     web-1 died  because the process of web-1 ended: exit code 1
    0.309s     start web-1 on a  because waits 200ms after 3 failures
    0.312s     kill web-1  because the process of web-1 ended: exit code 1
    0.312s     web-1 died  because the process of web-1 ended: exit code 1
    0.739s     start web-1 on a  because waits 427ms after 4 failures
    0.742s     kill web-1  because the process of web-1 ended: exit code 1
    0.742s     web-1 died  because the process of web-1 ended: exit code 1
    1.563s     start web-1 on a  because waits 821ms after 5 failures
    1.566s     kill web-1  because the process of web-1 ended: exit code 1
    1.566s     web-1 died  because the process of web-1 ended: exit code 1
    2.568s     start web-1 on a  because waits 1.002s after 6 failures
    2.571s     kill web-1  because the process of web-1 ended: exit code 1
    2.571s     web-1 died  because the process of web-1 ended: exit code 1
    3.693s     start web-1 on a  because waits 1.122s after 7 failures
    3.696s     kill web-1  because the process of web-1 ended: exit code 1
    3.696s     web-1 died  because the process of web-1 ended: exit code 1
    4.775s     start web-1 on a  because waits 1.079s after 8 failures
    4.778s     kill web-1  because the process of web-1 ended: exit code 1
    4.778s     web-1 died  because the process of web-1 ended: exit code 1
    5.805s     start web-1 on a  because waits 1.026s after 9 failures
    5.827s     web-1 is healthy  because web-1 passes its checks
    5.827s     claim web/0 for web-1, epoch 2  because the process of web-1 ended: killed by SIGKILL
    5.828s     send the clients of web to web-1  because 1 of 1 actives serve, 0 of 0 standbys are ready
    5.828s     web is redundant  because 1 of 1 actives serve, 0 of 0 standbys are ready
    5.828s     failover of web/0 to web-1 took 5828.1ms  because the process of web-1 ended: killed by SIGKILL
    ");
}

#[test]
fn who_never_becomes_healthy_is_replaced_then_given_up_then_tried_again() {
    let transcript = scenario(
        "
        service  web  active 1  standby 0  replace-after 2  give-up-after 1  backoff 100ms  retry-after 5s
        ail      web  start-fails  4s
        kill     web-1
        advance  10s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web cannot be started for 4s
    0.000s   * web-1 is killed
    0.000s     kill web-1  because the process of web-1 ended: killed by SIGKILL
    0.000s     web-1 died  because the process of web-1 ended: killed by SIGKILL
    0.000s     hold the clients of web  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.000s     web is down  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.000s     start web-1 on a  because the process of web-1 ended: killed by SIGKILL
    0.002s     web-1 did not start  because web-1 could not be started: command not found
    0.002s     start web-1 on a  because web-1 could not be started: command not found
    0.004s     web-1 did not start  because web-1 could not be started: command not found
    0.004s     web-1 is replaced  because 2 starts in a row never became healthy
    0.004s     forget web-1  because 2 starts in a row never became healthy
    0.004s     create web-2 on a  because 0 of 1 declared instances exist
    0.004s     start web-2 on a  because 0 of 1 declared instances exist
    0.006s     web-2 did not start  because web-2 could not be started: command not found
    0.006s     start web-2 on a  because web-2 could not be started: command not found
    0.008s     web-2 did not start  because web-2 could not be started: command not found
    0.008s     web-2 is given up  because 1 replacement never became healthy either
    5.008s     start web-2 on a  because it was given up and the time for another try has come
    5.030s     web-2 is healthy  because web-2 passes its checks
    5.030s     claim web/0 for web-2, epoch 2  because the process of web-1 ended: killed by SIGKILL
    5.031s     send the clients of web to web-2  because 1 of 1 actives serve, 0 of 0 standbys are ready
    5.031s     web is redundant  because 1 of 1 actives serve, 0 of 0 standbys are ready
    5.031s     failover of web/0 from web-1 to web-2 took 5031.4ms  because the process of web-1 ended: killed by SIGKILL
    ");
}

#[test]
fn the_operator_may_try_sooner() {
    let transcript = scenario(
        "
        service  web  active 1  standby 0  replace-after 1  give-up-after 0  retry-after 1m
        ail      web-1  start-fails  1s
        kill     web-1
        advance  2s
        retry    web-1
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web-1 cannot be started for 1s
    0.000s   * web-1 is killed
    0.000s     kill web-1  because the process of web-1 ended: killed by SIGKILL
    0.000s     web-1 died  because the process of web-1 ended: killed by SIGKILL
    0.000s     hold the clients of web  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.000s     web is down  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.000s     start web-1 on a  because the process of web-1 ended: killed by SIGKILL
    0.002s     web-1 did not start  because web-1 could not be started: command not found
    0.002s     web-1 is given up  because 0 replacements never became healthy either
    2.000s   * the operator wants web-1 tried again
    2.000s     start web-1 on a  because the operator asked for another try
    2.022s     web-1 is healthy  because web-1 passes its checks
    2.022s     claim web/0 for web-1, epoch 2  because the process of web-1 ended: killed by SIGKILL
    2.023s     send the clients of web to web-1  because 1 of 1 actives serve, 0 of 0 standbys are ready
    2.023s     web is redundant  because 1 of 1 actives serve, 0 of 0 standbys are ready
    2.023s     failover of web/0 to web-1 took 2023.2ms  because the process of web-1 ended: killed by SIGKILL
    ");
}

#[test]
fn who_comes_back_does_not_take_its_slot_back() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  hooks
        kill     db-1
        advance  5s
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * db-1 is killed
    0.000s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.000s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     db is down  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: killed by SIGKILL
    0.000s     start db-1 on a  because the process of db-1 ended: killed by SIGKILL
    0.001s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.006s     send the clients of db to db-2  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.006s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.006s     failover of db/0 from db-1 to db-2 took 6.2ms  because the process of db-1 ended: killed by SIGKILL
    0.022s     db-1 is healthy  because db-1 passes its checks
    0.022s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    5.000s   = db is redundant; db-2 holds slot 0 at epoch 2; db-1 on a is standby, ready; db-2 on a is active, ready
    ");
}

#[test]
fn services_start_in_the_order_of_their_needs() {
    let transcript = scenario(
        "
        service  db   active 1  standby 0
        service  web  active 1  standby 0  needs db
        start    shown
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s     create db-1 on a  because 0 of 1 declared instances exist
    0.000s     start db-1 on a  because 0 of 1 declared instances exist
    0.000s     hold the clients of db  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.000s     create web-1 on a  because 0 of 1 declared instances exist
    0.000s     hold the clients of web  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.022s     db-1 is healthy  because db-1 passes its checks
    0.022s     claim db/0 for db-1, epoch 1  because it is the first active of slot 0
    0.023s     send the clients of db to db-1  because 1 of 1 actives serve, 0 of 0 standbys are ready
    0.023s     db is redundant  because 1 of 1 actives serve, 0 of 0 standbys are ready
    0.023s     start web-1 on a  because all that it needs is up
    0.045s     web-1 is healthy  because web-1 passes its checks
    0.045s     claim web/0 for web-1, epoch 1  because it is the first active of slot 0
    0.046s     send the clients of web to web-1  because 1 of 1 actives serve, 0 of 0 standbys are ready
    0.046s     web is redundant  because 1 of 1 actives serve, 0 of 0 standbys are ready
    ");
}

#[test]
fn a_lost_standby_is_started_again() {
    let transcript = scenario(
        "
        service  web  active 1  standby 1
        kill     web-2
        advance  2s
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web-2 is killed
    0.000s     kill web-2  because the process of web-2 ended: killed by SIGKILL
    0.000s     web-2 died  because the process of web-2 ended: killed by SIGKILL
    0.000s     web is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.000s     start web-2 on a  because the process of web-2 ended: killed by SIGKILL
    0.022s     web-2 is healthy  because web-2 passes its checks
    0.022s     web is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    2.000s   = web is redundant; web-1 holds slot 0 at epoch 1; web-1 on a is active, ready; web-2 on a is standby, ready
    ");
}

#[test]
fn the_loss_of_one_node_of_three_is_survived_and_made_good() {
    let transcript = scenario(
        "
        nodes    a b c
        service  db  active 1  standby 1  exclusive  hooks
        kill     node a
        advance  3s
        node     a back
        advance  3s
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * node a is lost
    0.000s     node a is lost  because the operator drills its loss
    0.000s     create db-3 on c  because 1 of 2 declared instances exist
    0.000s     start db-3 on c  because 1 of 2 declared instances exist
    0.000s     db-1 died  because the process of db-1 ended: it is gone
    0.000s     forget db-1  because node a is lost
    0.000s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: it is gone
    0.000s     hold the clients of db  because 0 of 1 actives serve, 0 of 1 standbys are ready
    0.000s     db is down  because 0 of 1 actives serve, 0 of 1 standbys are ready
    0.001s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.006s     send the clients of db to db-2  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.006s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.006s     failover of db/0 from db-1 to db-2 took 6.1ms  because the process of db-1 ended: it is gone
    0.022s     db-3 is healthy  because db-3 passes its checks
    0.022s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    3.000s   * node a is back
    3.000s     node a is back  because the operator put it back
    6.000s   = db is redundant; db-2 holds slot 0 at epoch 2; db-2 on b is active, ready; db-3 on c is standby, ready
    ");
}

#[test]
fn a_rollout_changes_one_at_a_time_and_moves_the_slot_by_a_switchover() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  hooks
        change   db  version 2
        advance  5s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator applies another file
    0.000s     stop db-2  because it runs from an earlier declaration
    0.000s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.010s     start db-2 on a  because it runs from an earlier declaration
    0.032s     db-2 is healthy  because db-2 passes its checks
    0.032s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.094s     demote db-1, epoch 1  because it runs from an earlier declaration
    0.100s     claim db/0 for db-2, epoch 2  because it runs from an earlier declaration
    0.101s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.106s     send the clients of db to db-2  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.106s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.106s     switchover of db/0 from db-1 to db-2 took 73.9ms  because it runs from an earlier declaration
    0.106s     stop db-1  because it runs from an earlier declaration
    0.106s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.107s     db is rolled out  because every process runs from the present declaration
    0.116s     start db-1 on a  because it runs from an earlier declaration
    0.138s     db-1 is healthy  because db-1 passes its checks
    0.138s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    5.000s   = requests to db: 493 answered, 7 held, 0 failed
    ");
}

#[test]
fn a_rollout_without_standbys_adds_an_instance_for_its_time() {
    let transcript = scenario(
        "
        service  web  active 1  standby 0
        change   web  version 2
        advance  5s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator applies another file
    0.000s     create web-2 on a  because 1 of 2 declared instances exist
    0.000s     start web-2 on a  because 1 of 2 declared instances exist
    0.022s     web-2 is healthy  because web-2 passes its checks
    0.022s     claim web/0 for web-2, epoch 2  because it runs from an earlier declaration
    0.023s     send the clients of web to web-2  because 1 of 1 actives serve, 1 of 0 standbys are ready
    0.023s     switchover of web/0 from web-1 to web-2 took 1.1ms  because it runs from an earlier declaration
    0.023s     stop web-1  because it runs from an earlier declaration
    0.024s     web is rolled out  because every process runs from the present declaration
    0.033s     forget web-1  because more instances than the 1 declared
    5.000s   = requests to web: 500 answered, 0 held, 0 failed
    ");
}

#[test]
fn a_rollout_of_what_does_not_work_leaves_the_active_alone() {
    let transcript = scenario(
        "
        service  web  active 1  standby 1  replace-after 2  give-up-after 1
        ail      web  start-fails  15s
        change   web  version 2
        advance  40s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web cannot be started for 15s
    0.000s   * the operator applies another file
    0.000s     stop web-2  because it runs from an earlier declaration
    0.000s     web is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.010s     start web-2 on a  because it runs from an earlier declaration
    0.012s     web-2 did not start  because web-2 could not be started: command not found
    0.012s     start web-2 on a  because web-2 could not be started: command not found
    0.014s     web-2 did not start  because web-2 could not be started: command not found
    0.014s     web-2 is replaced  because 2 starts in a row never became healthy
    0.014s     forget web-2  because 2 starts in a row never became healthy
    0.014s     create web-3 on a  because 1 of 2 declared instances exist
    0.014s     start web-3 on a  because 1 of 2 declared instances exist
    0.016s     web-3 did not start  because web-3 could not be started: command not found
    0.016s     start web-3 on a  because web-3 could not be started: command not found
    0.018s     web-3 did not start  because web-3 could not be started: command not found
    0.018s     web-3 is given up  because 1 replacement never became healthy either
    0.018s     write that this version of web is given up  because web-3 never became healthy with the new version: command not found; 1 replacement never became healthy either
    0.019s     web is rolled out no further  because web-3 never became healthy with the new version: command not found; 1 replacement never became healthy either
    0.019s     start web-3 on a as what worked last  because the new version was given up, and it goes back to what worked
    0.021s     web-3 did not start  because web-3 could not be started: command not found
    0.021s     start web-3 on a as what worked last  because web-3 could not be started: command not found
    0.023s     web-3 did not start  because web-3 could not be started: command not found
    0.023s     web-3 is replaced  because 2 starts in a row never became healthy
    0.023s     forget web-3  because 2 starts in a row never became healthy
    0.023s     create web-4 on a  because 1 of 2 declared instances exist
    0.023s     start web-4 on a as what worked last  because 1 of 2 declared instances exist
    0.025s     web-4 did not start  because web-4 could not be started: command not found
    0.025s     start web-4 on a as what worked last  because web-4 could not be started: command not found
    0.027s     web-4 did not start  because web-4 could not be started: command not found
    0.027s     web-4 is given up  because 1 replacement never became healthy either
    10.027s    start web-4 on a as what worked last  because it was given up and the time for another try has come
    10.029s    web-4 did not start  because web-4 could not be started: command not found
    10.029s    web-4 is given up  because 1 replacement never became healthy either
    20.029s    start web-4 on a as what worked last  because it was given up and the time for another try has come
    20.051s    web-4 is healthy  because web-4 passes its checks
    20.051s    web is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    40.000s  = requests to web: 4000 answered, 0 held, 0 failed
    ");
}

#[test]
fn a_switchover_holds_clients_and_loses_none() {
    let transcript = scenario(
        "
        service     db  active 1  standby 1  exclusive  hooks
        advance     1s
        switchover  db  db-2
        advance     3s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    1.000s   * the operator moves db to db-2
    1.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    1.000s     db is degraded  because the operator asked for a switchover
    1.062s     demote db-1, epoch 1  because the operator asked for a switchover
    1.067s     claim db/0 for db-2, epoch 2  because the operator asked for a switchover
    1.068s     promote db-2, epoch 2  because it holds the slot at epoch 2
    1.073s     send the clients of db to db-2  because 1 of 1 actives serve, 1 of 1 standbys are ready
    1.073s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    1.074s     answer 1: db-2 holds db/0
    1.074s     switchover of db/0 from db-1 to db-2 took 73.9ms  because the operator asked for a switchover
    4.000s   = requests to db: 393 answered, 7 held, 0 failed
    ");
}

#[test]
fn a_switchover_whose_target_dies_before_the_demotion_is_called_off() {
    let transcript = scenario(
        "
        service     db  active 1  standby 1  exclusive  hooks
        switchover  db
        advance     30ms
        kill        db-2
        advance     3s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator moves db
    0.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     db is degraded  because the operator asked for a switchover
    0.030s   * db-2 is killed
    0.030s     kill db-2  because the process of db-2 ended: killed by SIGKILL
    0.030s     db-2 died  because the process of db-2 ended: killed by SIGKILL
    0.030s     answer 1: db-2 is not ready any more; nothing was changed
    0.030s     send the clients of db to db-1  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.030s     start db-2 on a  because the process of db-2 ended: killed by SIGKILL
    0.052s     db-2 is healthy  because db-2 passes its checks
    0.052s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    3.030s   = requests to db: 300 answered, 3 held, 0 failed
    ");
}

#[test]
fn a_switchover_whose_target_dies_after_the_demotion_goes_to_the_next_in_the_order() {
    let transcript = scenario(
        "
        service     db  active 1  standby 2  exclusive  hooks
        switchover  db  db-2
        advance     69ms
        kill        db-2
        advance     3s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator moves db to db-2
    0.000s     hold the clients of db  because 0 of 1 actives serve, 2 of 2 standbys are ready
    0.000s     db is degraded  because the operator asked for a switchover
    0.062s     demote db-1, epoch 1  because the operator asked for a switchover
    0.067s     claim db/0 for db-2, epoch 2  because the operator asked for a switchover
    0.068s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.069s   * db-2 is killed
    0.069s     kill db-2  because the process of db-2 ended: killed by SIGKILL
    0.069s     db-2 died  because the process of db-2 ended: killed by SIGKILL
    0.069s     claim db/0 for db-1, epoch 3  because the operator asked for a switchover
    0.069s     start db-2 on a  because the process of db-2 ended: killed by SIGKILL
    0.070s     promote db-1, epoch 3  because it holds the slot at epoch 3
    0.075s     send the clients of db to db-1  because 1 of 1 actives serve, 1 of 2 standbys are ready
    0.075s     answer 1: db-1 holds db/0
    0.075s     switchover of db/0 to db-1 took 75.2ms  because the operator asked for a switchover
    0.091s     db-2 is healthy  because db-2 passes its checks
    0.091s     db is redundant  because 1 of 1 actives serve, 2 of 2 standbys are ready
    3.069s   = requests to db: 299 answered, 7 held, 0 failed
    ");
}

#[test]
fn a_switchover_that_nobody_gets_through_goes_on_with_whoever_is_ready() {
    let transcript = scenario(
        "
        service  db  active 1  standby 2  exclusive  hooks
        hook     db  promote  fails  3s
        switchover  db
        advance  30s
        ",
    );
    let claims: Vec<&str> = transcript
        .lines()
        .filter_map(|line| line.split("claim db/0 for ").nth(1))
        .collect();
    let tried: std::collections::BTreeSet<&str> = claims.iter().filter_map(|claim| claim.split(',').next()).collect();
    assert_eq!(tried.len(), 3, "{transcript}");
    assert!(transcript.contains("db is redundant"), "{transcript}");
}

#[test]
fn a_promotion_that_fails_is_tried_with_the_next() {
    let transcript = scenario(
        "
        service  db  active 1  standby 2  exclusive  hooks
        hook     db  promote  fails  5ms
        kill     db-1
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * on_promote of db fails for 5ms
    0.000s   * db-1 is killed
    0.000s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.000s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.000s     hold the clients of db  because 0 of 1 actives serve, 2 of 2 standbys are ready
    0.000s     db is down  because 0 of 1 actives serve, 2 of 2 standbys are ready
    0.000s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: killed by SIGKILL
    0.000s     start db-1 on a  because the process of db-1 ended: killed by SIGKILL
    0.001s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.006s     db-2 has a failed hook  because on_promote of db-2 failed: exit code 1
    0.006s     kill db-2  because on_promote of db-2 failed: exit code 1
    0.006s     claim db/0 for db-3, epoch 3  because the process of db-1 ended: killed by SIGKILL
    0.006s     start db-2 on a  because on_promote of db-2 failed: exit code 1
    0.007s     promote db-3, epoch 3  because it holds the slot at epoch 3
    0.012s     send the clients of db to db-3  because 1 of 1 actives serve, 0 of 2 standbys are ready
    0.012s     db is degraded  because 1 of 1 actives serve, 0 of 2 standbys are ready
    0.013s     failover of db/0 from db-1 to db-3 took 12.8ms  because the process of db-1 ended: killed by SIGKILL
    0.022s     db-1 is healthy  because db-1 passes its checks
    0.028s     db-2 is healthy  because db-2 passes its checks
    0.028s     db is redundant  because 1 of 1 actives serve, 2 of 2 standbys are ready
    ");
}

#[test]
fn a_standby_that_lacks_writes_is_held_back_for_who_has_them() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  hooks  follow  replace-after 10  backoff 500ms
        hook     db  follow  fails  20s
        kill     db-2
        advance  500ms
        ail      db-1  start-fails  1s
        kill     db-1
        advance  5s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * on_follow of db fails for 20s
    0.000s   * db-2 is killed
    0.000s     kill db-2  because the process of db-2 ended: killed by SIGKILL
    0.000s     db-2 died  because the process of db-2 ended: killed by SIGKILL
    0.000s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.000s     start db-2 on a  because the process of db-2 ended: killed by SIGKILL
    0.022s     db-2 is healthy  because db-2 passes its checks
    0.022s     let db-2 follow db-1, epoch 1  because db-1 is active at epoch 1
    0.027s     db-2 has a failed hook  because on_follow of db-2 failed: exit code 1
    0.500s   * db-1 cannot be started for 1s
    0.500s   * db-1 is killed
    0.500s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.500s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.500s     hold the clients of db  because 0 of 1 actives serve, 0 of 1 standbys are ready
    0.500s     db is down  because 0 of 1 actives serve, 0 of 1 standbys are ready
    0.500s     db is held back  because db-1 was active last and no standby is known to have all its data
    0.500s     start db-1 on a  because the process of db-1 ended: killed by SIGKILL
    0.502s     db-1 did not start  because db-1 could not be started: command not found
    0.502s     start db-1 on a  because db-1 could not be started: command not found
    0.504s     db-1 did not start  because db-1 could not be started: command not found
    1.074s     start db-1 on a  because waits 570ms after 2 failures
    1.076s     db-1 did not start  because db-1 could not be started: command not found
    2.253s     start db-1 on a  because waits 1.177s after 3 failures
    2.275s     db-1 is healthy  because db-1 passes its checks
    2.275s     claim db/0 for db-1, epoch 2  because the process of db-1 ended: killed by SIGKILL
    2.276s     promote db-1, epoch 2  because it holds the slot at epoch 2
    2.281s     let db-2 follow db-1, epoch 2  because db-1 is active at epoch 2
    2.281s     send the clients of db to db-1  because 1 of 1 actives serve, 0 of 1 standbys are ready
    2.281s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    2.281s     failover of db/0 to db-1 took 1781.4ms  because the process of db-1 ended: killed by SIGKILL
    2.286s     db-2 has a failed hook  because on_follow of db-2 failed: exit code 1
    3.286s     let db-2 follow db-1, epoch 2  because db-1 is active at epoch 2
    3.291s     db-2 has a failed hook  because on_follow of db-2 failed: exit code 1
    5.291s     let db-2 follow db-1, epoch 2  because db-1 is active at epoch 2
    5.296s     db-2 has a failed hook  because on_follow of db-2 failed: exit code 1
    ");
}

#[test]
fn a_standby_follows_the_new_active() {
    let transcript = scenario(
        "
        service  db  active 1  standby 2  exclusive  hooks  follow
        kill     db-1
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * db-1 is killed
    0.000s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.000s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.000s     hold the clients of db  because 0 of 1 actives serve, 2 of 2 standbys are ready
    0.000s     db is down  because 0 of 1 actives serve, 2 of 2 standbys are ready
    0.000s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: killed by SIGKILL
    0.000s     start db-1 on a  because the process of db-1 ended: killed by SIGKILL
    0.001s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.006s     let db-3 follow db-2, epoch 2  because db-2 is active at epoch 2
    0.006s     send the clients of db to db-2  because 1 of 1 actives serve, 0 of 2 standbys are ready
    0.006s     db is degraded  because 1 of 1 actives serve, 0 of 2 standbys are ready
    0.006s     failover of db/0 from db-1 to db-2 took 6.2ms  because the process of db-1 ended: killed by SIGKILL
    0.022s     db-1 is healthy  because db-1 passes its checks
    0.022s     let db-1 follow db-2, epoch 2  because db-2 is active at epoch 2
    0.027s     db is redundant  because 1 of 1 actives serve, 2 of 2 standbys are ready
    ");
}

#[test]
fn a_cold_standby_is_started_when_it_takes_the_slot() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  cold
        kill     db-1
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * db-1 is killed
    0.000s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.000s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     db is down  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: killed by SIGKILL
    0.000s     look db-1 over  because a cold standby starts when it takes a slot
    0.001s     start db-2 on a as active, epoch 2  because it holds the slot at epoch 2
    0.023s     db-2 is healthy  because db-2 passes its checks
    0.023s     send the clients of db to db-2  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.023s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.023s     failover of db/0 from db-1 to db-2 took 23.2ms  because the process of db-1 ended: killed by SIGKILL
    ");
}

#[test]
fn an_agent_that_comes_back_adopts_what_runs_and_does_nothing() {
    let transcript = scenario(
        "
        service  db   active 1  standby 1  exclusive  hooks  follow
        service  web  active 2  standby 1  needs db
        agent    dies
        advance  5s
        agent    back
        advance  5s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the agent is killed
    5.000s   * the agent is started
    5.000s     send the clients of db to db-1  because 1 of 1 actives serve, 1 of 1 standbys are ready
    5.000s     send the clients of web to web-1 web-2  because 2 of 2 actives serve, 1 of 1 standbys are ready
    5.000s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    5.000s     web is redundant  because 2 of 2 actives serve, 1 of 1 standbys are ready
    10.000s  = requests to db: 1000 answered, 0 held, 0 failed
    10.000s  = requests to web: 1000 answered, 0 held, 0 failed
    ");
}

#[test]
fn an_active_that_died_while_no_agent_ran_is_failed_over_when_one_does() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  hooks
        agent    dies
        kill     db-1
        advance  1s
        agent    back
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the agent is killed
    0.000s   * db-1 is killed
    1.000s   * the agent is started
    1.000s     claim db/0 for db-2, epoch 2  because nothing of db-1 runs any more
    1.000s     start db-1 on a  because nothing of it ran when the agent came up
    1.000s     hold the clients of db  because 0 of 1 actives serve, 0 of 1 standbys are ready
    1.000s     db is down  because 0 of 1 actives serve, 0 of 1 standbys are ready
    1.001s     promote db-2, epoch 2  because it holds the slot at epoch 2
    1.006s     send the clients of db to db-2  because 1 of 1 actives serve, 0 of 1 standbys are ready
    1.006s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    1.006s     failover of db/0 from db-1 to db-2 took 6.1ms  because nothing of db-1 runs any more
    1.022s     db-1 is healthy  because db-1 passes its checks
    1.022s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    ");
}

#[test]
fn while_paused_nothing_is_begun() {
    let transcript = scenario(
        "
        service  web  active 1  standby 1
        pause
        kill     web-1
        advance  2s
        resume
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator pauses automatic actions
    0.000s   * web-1 is killed
    0.000s     kill web-1  because the process of web-1 ended: killed by SIGKILL
    0.000s     web-1 died  because the process of web-1 ended: killed by SIGKILL
    0.000s     hold the clients of web  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     web is down  because 0 of 1 actives serve, 1 of 1 standbys are ready
    2.000s   * the operator lets automatic actions go on
    2.000s     claim web/0 for web-2, epoch 2  because the process of web-1 ended: killed by SIGKILL
    2.000s     start web-1 on a  because the process of web-1 ended: killed by SIGKILL
    2.001s     send the clients of web to web-2  because 1 of 1 actives serve, 0 of 1 standbys are ready
    2.001s     web is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    2.001s     failover of web/0 from web-1 to web-2 took 2001.1ms  because the process of web-1 ended: killed by SIGKILL
    2.022s     web-1 is healthy  because web-1 passes its checks
    2.022s     web is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    ");
}

#[test]
fn a_full_disk_stops_takeovers_and_nothing_else() {
    let transcript = scenario(
        "
        service  db   active 1  standby 1  exclusive  hooks
        service  web  active 1  standby 1
        store    full  1s
        kill     db-1
        advance  500ms
        kill     web-2
        advance  4s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the store cannot be written for 1s
    0.000s   * db-1 is killed
    0.000s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.000s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     db is down  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: killed by SIGKILL
    0.000s     start db-1 on a  because the process of db-1 ended: killed by SIGKILL
    0.001s     db could not be written yet  because the store could not be written: no space left on device
    0.022s     db-1 is healthy  because db-1 passes its checks
    0.101s     claim db/0 for db-2, epoch 3  because the process of db-1 ended: killed by SIGKILL
    0.102s     db could not be written yet  because the store could not be written: no space left on device
    0.302s     claim db/0 for db-2, epoch 4  because the process of db-1 ended: killed by SIGKILL
    0.303s     db could not be written  because the store could not be written: no space left on device
    0.500s   * web-2 is killed
    0.500s     kill web-2  because the process of web-2 ended: killed by SIGKILL
    0.500s     web-2 died  because the process of web-2 ended: killed by SIGKILL
    0.500s     web is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.500s     start web-2 on a  because the process of web-2 ended: killed by SIGKILL
    0.522s     web-2 is healthy  because web-2 passes its checks
    0.522s     web is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.703s     claim db/0 for db-2, epoch 5  because the process of db-1 ended: killed by SIGKILL
    0.704s     db could not be written  because the store could not be written: no space left on device
    1.504s     claim db/0 for db-2, epoch 6  because the process of db-1 ended: killed by SIGKILL
    1.505s     promote db-2, epoch 6  because it holds the slot at epoch 6
    1.510s     send the clients of db to db-2  because 1 of 1 actives serve, 1 of 1 standbys are ready
    1.510s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    1.510s     failover of db/0 from db-1 to db-2 took 1510.4ms  because the process of db-1 ended: killed by SIGKILL
    4.500s   = requests to db: 299 answered, 151 held, 0 failed
    4.500s   = requests to web: 450 answered, 0 held, 0 failed
    ");
}

#[test]
fn a_claim_whose_answer_is_lost_is_resolved_before_anybody_is_promoted() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  hooks
        store    unclear  250ms
        kill     db-1
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the store answers errors, whether it wrote or not for 250ms
    0.000s   * db-1 is killed
    0.000s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.000s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     db is down  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: killed by SIGKILL
    0.000s     start db-1 on a  because the process of db-1 ended: killed by SIGKILL
    0.001s     db could not be written yet  because the store could not be written: the answer did not come in time
    0.022s     db-1 is healthy  because db-1 passes its checks
    0.101s     claim db/0 for db-2, epoch 3  because the process of db-1 ended: killed by SIGKILL
    0.102s     db could not be written yet  because the store could not be written: the answer did not come in time
    0.302s     claim db/0 for db-2, epoch 4  because the process of db-1 ended: killed by SIGKILL
    0.303s     promote db-2, epoch 4  because it holds the slot at epoch 4
    0.308s     send the clients of db to db-2  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.308s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.308s     failover of db/0 from db-1 to db-2 took 308.3ms  because the process of db-1 ended: killed by SIGKILL
    ");
}

#[test]
fn an_emptied_node_is_left_only_when_another_is_ready() {
    let transcript = scenario(
        "
        nodes    a b
        service  db  active 1  standby 1  exclusive  hooks
        drain    a
        advance  5s
        undrain  a
        advance  2s
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator drains node a
    0.000s     node a is being emptied  because the operator drains the node
    0.000s     create db-3 on b  because 1 of 2 declared instances exist
    0.000s     start db-3 on b  because 1 of 2 declared instances exist
    0.022s     db-3 is healthy  because db-3 passes its checks
    0.022s     hold the clients of db  because 0 of 1 actives serve, 2 of 1 standbys are ready
    0.022s     db is degraded  because the operator drains the node
    0.084s     demote db-1, epoch 1  because the operator drains the node
    0.089s     claim db/0 for db-2, epoch 2  because the operator drains the node
    0.091s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.096s     send the clients of db to db-2  because 1 of 1 actives serve, 2 of 1 standbys are ready
    0.096s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.096s     stop db-1  because the operator drains the node
    0.096s     switchover of db/0 from db-1 to db-2 took 73.9ms  because the operator drains the node
    0.106s     forget db-1  because more instances than the 2 declared
    5.000s   * node a is back
    5.000s     node a is back  because the operator put it back
    7.000s   = db is redundant; db-2 holds slot 0 at epoch 2; db-2 on b is active, ready; db-3 on b is standby, ready
    ");
}

#[test]
fn a_surplus_active_ends_when_its_clients_have_finished_and_no_standby_in_its_place() {
    let transcript = scenario(
        "
        service  web  active 3  standby 1
        change   web  active 2
        advance  5s
        status
        change   web  active 3
        advance  3s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator applies another file
    0.000s     send the clients of web to web-1 web-2  because 2 of 2 actives serve, 1 of 1 standbys are ready
    0.062s     release web/2, last held by web-3  because more instances than the 3 declared
    0.063s     stop web-3  because more instances than the 3 declared
    0.073s     forget web-3  because more instances than the 3 declared
    5.000s   = web is redundant; web-1 holds slot 0 at epoch 1; web-2 holds slot 1 at epoch 2; web-1 on a is active, ready; web-2 on a is active, ready; web-4 on a is standby, ready
    5.000s   * the operator applies another file
    5.000s     create web-5 on a  because 3 of 4 declared instances exist
    5.000s     claim web/2 for web-4, epoch 4  because slot 2 had been released and was free
    5.000s     start web-5 on a  because 3 of 4 declared instances exist
    5.000s     web is degraded  because it grows from 2 to 3 actives: 2 serve so far, 0 of 1 standbys are ready
    5.001s     send the clients of web to web-1 web-2 web-4  because 3 of 3 actives serve, 0 of 1 standbys are ready
    5.022s     web-5 is healthy  because web-5 passes its checks
    5.022s     web is redundant  because 3 of 3 actives serve, 1 of 1 standbys are ready
    8.000s   = requests to web: 800 answered, 0 held, 0 failed
    ");
}

#[test]
fn a_surplus_exclusive_active_ends_and_no_standby_in_its_place() {
    let transcript = scenario(
        "
        service  db  active 2  standby 1  exclusive  hooks
        change   db  active 1
        advance  5s
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator applies another file
    0.000s     send the clients of db to db-1  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.062s     demote db-2, epoch 2  because more instances than the 2 declared
    0.067s     stop db-2  because more instances than the 2 declared
    0.067s     release db/1, last held by db-2  because more instances than the 2 declared
    0.077s     forget db-2  because more instances than the 2 declared
    5.000s   = db is redundant; db-1 holds slot 0 at epoch 1; db-1 on a is active, ready; db-3 on a is standby, ready
    ");
}

#[test]
fn more_actives_are_started_and_surplus_ones_demoted() {
    let transcript = scenario(
        "
        service  web  active 1  standby 1  hooks
        change   web  active 2
        advance  2s
        change   web  active 1
        advance  3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator applies another file
    0.000s     create web-3 on a  because 2 of 3 declared instances exist
    0.000s     claim web/1 for web-2, epoch 2  because it is the first active of slot 1
    0.000s     start web-3 on a  because 2 of 3 declared instances exist
    0.000s     web is degraded  because it grows from 1 to 2 actives: 1 serve so far, 0 of 1 standbys are ready
    0.001s     promote web-2, epoch 2  because it holds the slot at epoch 2
    0.006s     send the clients of web to web-1 web-2  because 2 of 2 actives serve, 0 of 1 standbys are ready
    0.022s     web-3 is healthy  because web-3 passes its checks
    0.022s     web is redundant  because 2 of 2 actives serve, 1 of 1 standbys are ready
    2.000s   * the operator applies another file
    2.000s     send the clients of web to web-1  because 1 of 1 actives serve, 1 of 1 standbys are ready
    2.062s     demote web-2, epoch 2  because more instances than the 2 declared
    2.067s     stop web-2  because more instances than the 2 declared
    2.067s     release web/1, last held by web-2  because more instances than the 2 declared
    2.077s     forget web-2  because more instances than the 2 declared
    ");
}

#[test]
fn a_removed_service_leaves_nothing_behind() {
    let transcript = scenario(
        "
        service  db   active 1  standby 1  exclusive  hooks
        service  web  active 1  standby 0
        remove   web
        advance  2s
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator applies another file
    0.000s     close the address of web  because the file no longer declares it
    0.000s     stop web-1  because the file no longer declares it
    0.000s     web is down  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.010s     forget web-1  because the file no longer declares it
    0.010s     release web/0, last held by web-1  because the file no longer declares it
    0.011s     web is removed  because the file no longer declares it
    2.000s   = db is redundant; db-1 holds slot 0 at epoch 1; db-1 on a is active, ready; db-2 on a is standby, ready
    ");
}

#[test]
fn everything_stops_in_reverse_order() {
    let transcript = scenario(
        "
        service  db   active 1  standby 1  exclusive  hooks
        service  web  active 1  standby 0  needs db
        down
        advance  2s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator takes everything down
    0.000s     close the address of web  because the operator takes everything down
    0.000s     stop web-1  because the operator takes everything down
    0.000s     web is down  because 0 of 1 actives serve, 0 of 0 standbys are ready
    0.010s     release web/0, last held by web-1  because the operator takes everything down
    0.010s     close the address of db  because the operator takes everything down
    0.010s     stop db-1  because the operator takes everything down
    0.010s     stop db-2  because the operator takes everything down
    0.010s     db is down  because 0 of 1 actives serve, 0 of 1 standbys are ready
    0.020s     release db/0, last held by db-1  because the operator takes everything down
    0.021s     everything is stopped  because the operator takes everything down
    ");
}

#[test]
fn a_proxy_that_starts_anew_is_told_everything_again() {
    let transcript = scenario(
        "
        service  web  active 1  standby 0
        proxy    dies  500ms
        advance  2s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the proxy is killed, back in 500ms
    0.500s     send the clients of web to web-1  because 1 of 1 actives serve, 0 of 0 standbys are ready
    2.000s   = requests to web: 150 answered, 50 held, 0 failed
    ");
}

#[test]
fn who_ignores_the_stop_signal_is_killed() {
    let transcript = scenario(
        "
        service     db  active 1  standby 1  exclusive  stop-timeout 800ms
        ail         db-1  ignores-stop  5s
        switchover  db
        advance     3s
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * db-1 ignores the stop signal for 5s
    0.000s   * the operator moves db
    0.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     db is degraded  because the operator asked for a switchover
    0.062s     stop db-1  because the operator asked for a switchover
    0.863s     claim db/0 for db-2, epoch 2  because the operator asked for a switchover
    0.863s     start db-1 on a  because the operator asked for a switchover
    0.864s     send the clients of db to db-2  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.864s     answer 1: db-2 holds db/0
    0.864s     switchover of db/0 from db-1 to db-2 took 864.4ms  because the operator asked for a switchover
    0.885s     db-1 is healthy  because db-1 passes its checks
    0.885s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    ");
}

#[test]
fn an_active_that_dies_while_a_broken_version_is_tried_runs_as_what_worked_last() {
    let transcript = scenario(
        "
        service  web  active 1  standby 1  retry-after 1m
        ail      web-2  never-healthy  5m
        change   web  version two  start-timeout 1s
        advance  1500ms
        kill     web-1
        advance  500ms
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * web-2 starts and never answers for 5m
    0.000s   * the operator applies another file
    0.000s     stop web-2  because it runs from an earlier declaration
    0.000s     web is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.010s     start web-2 on a  because it runs from an earlier declaration
    1.012s     web-2 did not start  because web-2 was not healthy within 1s, last check: connection refused
    1.012s     kill web-2  because web-2 was not healthy within 1s, last check: connection refused
    1.012s     start web-2 on a  because web-2 was not healthy within 1s, last check: connection refused
    1.500s   * web-1 is killed
    1.500s     kill web-1  because the process of web-1 ended: killed by SIGKILL
    1.500s     web-1 died  because the process of web-1 ended: killed by SIGKILL
    1.500s     hold the clients of web  because 0 of 1 actives serve, 0 of 1 standbys are ready
    1.500s     web is down  because 0 of 1 actives serve, 0 of 1 standbys are ready
    1.500s     start web-1 on a as what worked last  because the process of web-1 ended: killed by SIGKILL
    1.522s     web-1 is healthy  because web-1 passes its checks
    1.522s     claim web/0 for web-1, epoch 2  because the process of web-1 ended: killed by SIGKILL
    1.523s     send the clients of web to web-1  because 1 of 1 actives serve, 0 of 1 standbys are ready
    1.523s     web is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    1.523s     failover of web/0 to web-1 took 23.2ms  because the process of web-1 ended: killed by SIGKILL
    2.000s   = web is degraded; web-1 holds slot 0 at epoch 2; web-1 on a is active, ready; web-2 on a is standby, not ready (starting: web-2 was not healthy within 1s, last check: connection refused)
    ");
}

#[test]
fn a_version_whose_promotion_fails_is_given_up_and_the_one_before_serves_on() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  promote
        change   db  version two
        advance  100ms
        hook     db  promote  fails  20ms
        advance  105ms
        hook     db  promote  fails  15ms
        advance  1m
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator applies another file
    0.000s     stop db-2  because it runs from an earlier declaration
    0.000s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.010s     start db-2 on a  because it runs from an earlier declaration
    0.032s     db-2 is healthy  because db-2 passes its checks
    0.032s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.094s     stop db-1  because it runs from an earlier declaration
    0.100s   * on_promote of db fails for 20ms
    0.105s     claim db/0 for db-2, epoch 2  because it runs from an earlier declaration
    0.106s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.111s     db-2 has a failed hook  because on_promote of db-2 failed: exit code 1
    0.111s     kill db-2  because on_promote of db-2 failed: exit code 1
    0.111s     start db-1 on a as what worked last  because it runs from an earlier declaration
    0.111s     start db-2 on a  because on_promote of db-2 failed: exit code 1
    0.133s     db-1 is healthy  because db-1 passes its checks
    0.133s     claim db/0 for db-1, epoch 3  because it runs from an earlier declaration
    0.133s     db-2 is healthy  because db-2 passes its checks
    0.134s     promote db-1, epoch 3  because it holds the slot at epoch 3
    0.139s     send the clients of db to db-1  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.139s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.140s     switchover of db/0 to db-1 took 107.7ms  because it runs from an earlier declaration
    0.140s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.140s     db is degraded  because it runs from an earlier declaration
    0.202s     stop db-1  because it runs from an earlier declaration
    0.205s   * on_promote of db fails for 15ms
    0.212s     claim db/0 for db-2, epoch 4  because it runs from an earlier declaration
    0.213s     promote db-2, epoch 4  because it holds the slot at epoch 4
    0.219s     db-2 has a failed hook  because on_promote of db-2 failed: exit code 1
    0.219s     kill db-2  because on_promote of db-2 failed: exit code 1
    0.219s     start db-1 on a as what worked last  because it runs from an earlier declaration
    0.219s     start db-2 on a  because on_promote of db-2 failed: exit code 1
    0.241s     db-1 is healthy  because db-1 passes its checks
    0.241s     claim db/0 for db-1, epoch 5  because it runs from an earlier declaration
    0.241s     db-2 is healthy  because db-2 passes its checks
    0.242s     promote db-1, epoch 5  because it holds the slot at epoch 5
    0.247s     send the clients of db to db-1  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.247s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    0.248s     switchover of db/0 to db-1 took 107.7ms  because it runs from an earlier declaration
    0.248s     write that this version of db is given up  because db-2 took a slot with the new version and did not keep it, 2 times: on_promote failed: exit code 1
    0.249s     db is rolled out no further  because db-2 took a slot with the new version and did not keep it, 2 times: on_promote failed: exit code 1
    0.249s     stop db-2  because the new version was given up, and it goes back to what worked
    0.249s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.259s     start db-2 on a as what worked last  because the new version was given up, and it goes back to what worked
    0.281s     db-2 is healthy  because db-2 passes its checks
    0.281s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    60.205s  = db is redundant; db-1 holds slot 0 at epoch 5; db-1 on a is active, ready; db-2 on a is standby, ready
    ");
}

#[test]
fn a_promotion_of_a_standby_that_hangs_is_abandoned_when_the_old_active_is_back() {
    let transcript = scenario(
        "
        service  db  active 1  standby 1  exclusive  hooks  follow
        advance  100ms
        hang     db-2
        hook     db  promote  hangs  200ms
        kill     db-1
        advance  5s
        status
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.100s   * db-2 hangs
    0.100s   * on_promote of db hangs for 200ms
    0.100s   * db-1 is killed
    0.100s     kill db-1  because the process of db-1 ended: killed by SIGKILL
    0.100s     db-1 died  because the process of db-1 ended: killed by SIGKILL
    0.100s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.100s     db is down  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.100s     claim db/0 for db-2, epoch 2  because the process of db-1 ended: killed by SIGKILL
    0.100s     start db-1 on a  because the process of db-1 ended: killed by SIGKILL
    0.101s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.122s     db-1 is healthy  because db-1 passes its checks
    0.323s     db-2 is unhealthy  because db-2 failed 2 checks in a row: no answer within 100ms
    0.323s     kill db-2  because db-2 is unhealthy: no answer within 100ms
    0.323s     claim db/0 for db-1, epoch 3  because the process of db-1 ended: killed by SIGKILL
    0.323s     start db-2 on a  because db-2 is unhealthy: no answer within 100ms
    0.324s     promote db-1, epoch 3  because it holds the slot at epoch 3
    0.329s     send the clients of db to db-1  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.329s     db is degraded  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.330s     failover of db/0 to db-1 took 229.7ms  because the process of db-1 ended: killed by SIGKILL
    0.345s     db-2 is healthy  because db-2 passes its checks
    0.345s     let db-2 follow db-1, epoch 3  because db-1 is active at epoch 3
    0.350s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    5.100s   = db is redundant; db-1 holds slot 0 at epoch 3; db-1 on a is active, ready; db-2 on a is standby, ready
    ");
}

/// Plays a script in which no promise is broken.
fn scenario(script: &str) -> String {
    let played = match play(script) {
        Ok(played) => played,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(played.violation, None, "{played}");
    played.transcript
}

#[test]
fn a_switchover_asks_the_target_once_more_after_the_demotion() {
    let transcript = scenario(
        "
        service     db  active 1  standby 1  exclusive  hooks  standby-check
        switchover  db
        advance     3s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator moves db
    0.000s     hold the clients of db  because 0 of 1 actives serve, 1 of 1 standbys are ready
    0.000s     db is degraded  because the operator asked for a switchover
    0.062s     demote db-1, epoch 1  because the operator asked for a switchover
    0.067s     ask whether db-2 can take over  because db-2 is about to take over
    0.067s     claim db/0 for db-2, epoch 2  because the operator asked for a switchover
    0.068s     promote db-2, epoch 2  because it holds the slot at epoch 2
    0.074s     send the clients of db to db-2  because 1 of 1 actives serve, 0 of 1 standbys are ready
    0.074s     answer 1: db-2 holds db/0
    0.074s     switchover of db/0 from db-1 to db-2 took 74.0ms  because the operator asked for a switchover
    0.122s     db is redundant  because 1 of 1 actives serve, 1 of 1 standbys are ready
    3.000s   = requests to db: 293 answered, 7 held, 0 failed
    ");
}

#[test]
fn a_target_that_fails_its_standby_check_after_the_demotion_does_not_get_the_slot() {
    let transcript = scenario(
        "
        service     db  active 1  standby 2  exclusive  hooks  standby-check
        switchover  db  db-2
        advance     61ms
        ail         db-2  standby-check-fails  10s
        advance     5s
        clients
        ",
    );
    insta::assert_snapshot!(transcript, @r"
    0.000s   * the operator moves db to db-2
    0.000s     hold the clients of db  because 0 of 1 actives serve, 2 of 2 standbys are ready
    0.000s     db is degraded  because the operator asked for a switchover
    0.061s   * db-2 fails its standby check for 10s
    0.062s     demote db-1, epoch 1  because the operator asked for a switchover
    0.067s     ask whether db-2 can take over  because db-2 is about to take over
    1.067s     answer 1: db-2 could not take over: its standby check fails: connection refused; db-1 is promoted again
    1.067s     db is handed back  because db-2 could not take over: its standby check fails: connection refused
    1.067s     claim db/0 for db-1, epoch 2  because db-2 could not take over: its standby check fails: connection refused
    1.067s     db is down  because 0 of 1 actives serve, 1 of 2 standbys are ready
    1.068s     promote db-1, epoch 2  because it holds the slot at epoch 2
    1.073s     send the clients of db to db-1  because 1 of 1 actives serve, 1 of 2 standbys are ready
    1.073s     db is degraded  because 1 of 1 actives serve, 1 of 2 standbys are ready
    1.074s     failover of db/0 to db-1 took 6.1ms  because db-2 could not take over: its standby check fails: connection refused
    5.061s   = requests to db: 399 answered, 107 held, 0 failed
    ");
}
