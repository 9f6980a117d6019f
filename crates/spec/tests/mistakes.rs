//! What an operator reads about their mistakes: the file and the answer.

use insta::assert_snapshot;

#[test]
fn a_misspelt_key_is_named_with_the_right_one() {
    assert_snapshot!(mistakes(r#"
[service.db]
command = ["redis-server", "--port", "{port}"]
standbys = 1
"#), @r#"
    error: unknown key `standbys`
     --> shop.toml:3:1
      |
    3 | standbys = 1
      | ^^^^^^^^
      |
      = help: did you mean `standby`?
    "#);
}

#[test]
fn text_where_a_number_must_be() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
active = "2"
"#), @r#"
    error: `active` must be a whole number from 1 to 10000, not text
     --> shop.toml:3:10
      |
    3 | active = "2"
      |          ^^^
      |
      = help: write `active = 2`
    "#);
}

#[test]
fn a_command_line_in_place_of_an_array() {
    assert_snapshot!(mistakes(r#"
[service.db]
command = "redis-server --port {port}"
"#), @r#"
    error: `command` must be an array of program and arguments, not text
     --> shop.toml:2:11
      |
    2 | command = "redis-server --port {port}"
      |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write `command = ["redis-server", "--port", "{port}"]`
    "#);
}

#[test]
fn a_command_line_for_a_shell() {
    assert_snapshot!(mistakes(r#"
[service.db]
command = "./web | tee log"
"#), @r#"
    error: `command` must be an array of program and arguments, not text
     --> shop.toml:2:11
      |
    2 | command = "./web | tee log"
      |           ^^^^^^^^^^^^^^^^^
      |
      = help: write `command = ["sh", "-c", "./web | tee log"]`
    "#);
}

#[test]
fn a_floating_address_without_a_prefix() {
    assert_snapshot!(mistakes(r#"
[service.db]
command = ["db"]
exclusive = true
address = "10.0.0.100"
"#), @r#"
    error: `address` has no prefix: how many bits of it name the network
     --> shop.toml:4:11
      |
    4 | address = "10.0.0.100"
      |           ^^^^^^^^^^^^
      |
      = help: write `"10.0.0.100/24"`
    "#);
}

#[test]
fn a_floating_address_that_no_host_can_have() {
    assert_snapshot!(mistakes(r#"
[service.db]
command = ["db"]
exclusive = true
address = { ip = "10.0.0.0/24", interface = "/dev/eth0" }
"#), @r#"
    error: `ip` is the address of the network itself, which no host can have
     --> shop.toml:4:18
      |
    4 | address = { ip = "10.0.0.0/24", interface = "/dev/eth0" }
      |                  ^^^^^^^^^^^^^
      |
      = help: write `"10.0.0.1/24"`

    error: `interface` has a blank or a slash in it, as no interface's name
     --> shop.toml:4:45
      |
    4 | address = { ip = "10.0.0.0/24", interface = "/dev/eth0" }
      |                                             ^^^^^^^^^^^
      |
      = help: `ip -brief address` lists them, for example `interface = "eth0"`
    "#);
}

#[test]
fn a_floating_address_with_a_port() {
    assert_snapshot!(mistakes(r#"
[service.db]
command = ["db"]
exclusive = true
address = "[fd00::100]:5432"
"#), @r#"
    error: `address` is an address of a host, without a port
     --> shop.toml:4:11
      |
    4 | address = "[fd00::100]:5432"
      |           ^^^^^^^^^^^^^^^^^^
      |
      = help: write `"fd00::100/64"`
    "#);
}

#[test]
fn a_floating_address_of_a_service_that_is_not_exclusive() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
active = 2
vip = "10.0.0.100/24"

[service.shop]
command = ["./shop"]
active = 2
address = "10.0.0.100/24"
"#), @r#"
    error: unknown key `vip`
     --> shop.toml:4:1
      |
    4 | vip = "10.0.0.100/24"
      | ^^^
      |
      = help: did you mean `address`?

    error: `address` needs `active = 1`, but 2 are active
     --> shop.toml:9:11
      |
    8 | active = 2
      |          - the actives
    9 | address = "10.0.0.100/24"
      |           ^^^^^^^^^^^^^^^
      |
      = help: an address leads to one host, so the other actives would never be reached: write `active = 1`, or use `listen`, which spreads clients over all actives

    error: `address` needs `exclusive = true`
     --> shop.toml:9:11
      |
    9 | address = "10.0.0.100/24"
      |           ^^^^^^^^^^^^^^^
      |
      = help: an address must be on one host at a time, so the old holder has to be stopped for certain before the next takes over: add `exclusive = true`, or use `listen` in place of `address`
    "#);
}

#[test]
fn one_floating_address_for_two_services() {
    assert_snapshot!(mistakes(r#"
[service.db]
command = ["db"]
exclusive = true
address = "10.0.0.100/24"

[service.mail]
command = ["mail"]
exclusive = true
address = { ip = "10.0.0.100/16" }
"#), @r#"
    error: `db` and `mail` cannot both have the address 10.0.0.100
     --> shop.toml:9:11
      |
    4 | address = "10.0.0.100/24"
      |           --------------- taken by `db`
    ...
    9 | address = { ip = "10.0.0.100/16" }
      |           ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: they may be active on different hosts: give one of them another address
    "#);
}

#[test]
fn a_duration_without_a_unit() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "{port}"]
check = { http = "/healthz", every = 5, timeout = "2 s" }
"#), @r#"
    error: `every` must be a duration from `10ms` to `1h` in quotes, not a number
     --> shop.toml:3:38
      |
    3 | check = { http = "/healthz", every = 5, timeout = "2 s" }
      |                                      ^
      |
      = help: write `every = "5s"`

    error: `timeout`: `2 s` must not have spaces in it
     --> shop.toml:3:51
      |
    3 | check = { http = "/healthz", every = 5, timeout = "2 s" }
      |                                                   ^^^^^
      |
      = help: write `timeout = "2s"`
    "#);
}

#[test]
fn several_mistakes_in_several_services() {
    assert_snapshot!(mistakes(r#"
[service.db]
comand = ["redis-server"]
active = 0

[service.web]
command = ["./web", "--port", "{prot}"]
listen = "localhost:8080"
need = 3
needs = ["bd"]
colour = "blue"
"#), @r#"
    error: unknown key `comand`
     --> shop.toml:2:1
      |
    2 | comand = ["redis-server"]
      | ^^^^^^
      |
      = help: did you mean `command`?

    error: `active` must be a whole number from 1 to 10000
     --> shop.toml:3:10
      |
    3 | active = 0
      |          ^
      |
      = help: for example `active = 2`

    error: unknown placeholder `{prot}`
     --> shop.toml:6:32
      |
    6 | command = ["./web", "--port", "{prot}"]
      |                                ^^^^^^
      |
      = help: did you mean `{port}`? If not, write `{{prot}}` to keep the braces as they are

    error: `listen` must be an IP address and a port, and `localhost` is a host name
     --> shop.toml:7:10
      |
    7 | listen = "localhost:8080"
      |          ^^^^^^^^^^^^^^^^
      |
      = help: write `listen = "127.0.0.1:8080"`

    error: `need` is 3, but only 1 are active
     --> shop.toml:8:8
      |
    8 | need = 3
      |        ^
      |
      = help: write a `need` of at most 1, or raise `active`

    error: there is no service `bd`
     --> shop.toml:9:10
      |
    9 | needs = ["bd"]
      |          ^^^^
      |
      = help: did you mean `db`?

    error: unknown key `colour`
      --> shop.toml:10:1
       |
    10 | colour = "blue"
       | ^^^^^^
       |
       = help: possible here: `command`, `active`, `standby`, `need`, `exclusive`, `fence`, `standby_mode`, `listen`, `address`, `protocol`, `port`, `check`, `standby_check`, `needs`, `uses`, `mttf`, `mttr`, `spread`, `nodes`, `avoid`, `reserve`, `on_promote`, `on_demote`, `on_follow`, `env`, `dir`, `user`, `limits`, `start_timeout`, `stop`, `restart`, `logs`, `drain_timeout`, `hold`, `objective`
    "#);
}

#[test]
fn services_that_need_each_other() {
    assert_snapshot!(mistakes(r#"
[service.a]
command = ["a"]
needs = ["b"]

[service.b]
command = ["b"]
needs = ["c"]

[service.c]
command = ["c"]
needs = ["a"]
"#), @r#"
    error: services that need each other: a -> b -> c -> a
      --> shop.toml:3:10
       |
     3 | needs = ["b"]
       |          ^^^
    ...
     7 | needs = ["c"]
       |          --- needed by `b`
    ...
    11 | needs = ["a"]
       |          --- needed by `c`
       |
       = help: none of them could start first; take one out of `needs`
    "#);
}

#[test]
fn two_services_at_one_address() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "{port}"]
listen = "0.0.0.0:8080"

[service.api]
command = ["./api", "{port}"]
listen = "127.0.0.1:8080"
"#), @r#"
    error: `api` cannot listen on 127.0.0.1:8080: `web` has 0.0.0.0:8080
     --> shop.toml:7:10
      |
    3 | listen = "0.0.0.0:8080"
      |          -------------- taken by `web`
    ...
    7 | listen = "127.0.0.1:8080"
      |          ^^^^^^^^^^^^^^^^
      |
      = help: give one of them another port
    "#);
}

#[test]
fn a_placeholder_where_it_has_no_meaning() {
    assert_snapshot!(mistakes(r#"
[service.db]
command = ["./db", "--leader", "{active.host}:{active.port}"]
"#), @r#"
    error: `{active.host}` has no meaning in `command`
     --> shop.toml:2:33
      |
    2 | command = ["./db", "--leader", "{active.host}:{active.port}"]
      |                                 ^^^^^^^^^^^^^
      |
      = help: it can be used in `on_follow`, `standby_check`

    error: `{active.port}` has no meaning in `command`
     --> shop.toml:2:47
      |
    2 | command = ["./db", "--leader", "{active.host}:{active.port}"]
      |                                               ^^^^^^^^^^^^^
      |
      = help: it can be used in `on_follow`, `standby_check`
    "#);
}

#[test]
fn the_address_of_a_service_that_has_none() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "--db", "{service.db.address}", "--cache={service.cahce.adress}"]

[service.db]
command = ["./db"]
"#), @r#"
    error: `{service.db.address}` has no value: `db` has no `listen`
     --> shop.toml:2:30
      |
    2 | command = ["./web", "--db", "{service.db.address}", "--cache={service.cahce.adress}"]
      |                              ^^^^^^^^^^^^^^^^^^^^
      |
      = help: add `listen = "127.0.0.1:PORT"` to `[service.db]`

    error: unknown placeholder `{service.cahce.adress}`
     --> shop.toml:2:62
      |
    2 | command = ["./web", "--db", "{service.db.address}", "--cache={service.cahce.adress}"]
      |                                                              ^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: did you mean `{service.cahce.address}`?
    "#);
}

#[test]
fn a_port_that_was_turned_off() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "--port", "{port}"]
port = false
listen = "127.0.0.1:80"
check = { http = "/" }
"#), @r#"
    error: `{port}` has no value: the instances have no port
     --> shop.toml:2:32
      |
    2 | command = ["./web", "--port", "{port}"]
      |                                ^^^^^^
    3 | port = false
      |        ----- turned off here
      |
      = help: leave out `port = false`

    error: `listen` has nowhere to send clients: the instances have no port
     --> shop.toml:4:10
      |
    3 | port = false
      |        ----- turned off here
    4 | listen = "127.0.0.1:80"
      |          ^^^^^^^^^^^^^^
      |
      = help: leave out `port = false`

    error: the `http` check has nothing to connect to: the instances have no port
     --> shop.toml:5:9
      |
    3 | port = false
      |        ----- turned off here
    4 | listen = "127.0.0.1:80"
    5 | check = { http = "/" }
      |         ^^^^^^^^^^^^^^
      |
      = help: leave out `port = false`
    "#);
}

#[test]
fn more_needed_than_active() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
active = 2
need = 3
"#), @r#"
    error: `need` is 3, but only 2 are active
     --> shop.toml:4:8
      |
    3 | active = 2
      |          - the actives
    4 | need = 3
      |        ^
      |
      = help: write a `need` of at most 2, or raise `active`
    "#);
}

#[test]
fn too_many_instances() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
active = 10000
standby = 1
"#), @r#"
    error: `active` and `standby` are 10001 together
     --> shop.toml:4:11
      |
    4 | standby = 1
      |           ^
      |
      = help: at most 10000 instances are possible
    "#);
}

#[test]
fn port_zero() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "{port}"]
listen = "127.0.0.1:0"
"#), @r#"
    error: `listen` must not have port 0: clients could not know where to come to
     --> shop.toml:3:10
      |
    3 | listen = "127.0.0.1:0"
      |          ^^^^^^^^^^^^^
      |
      = help: choose a port, for example `listen = "127.0.0.1:8080"`
    "#);
}

#[test]
fn a_key_of_a_later_version() {
    assert_snapshot!(mistakes(r#"
[service.web]
systemd = "nginx"
scale = { max = 6 }
spread = "rack"
"#), @r#"
    error: `systemd` is not supported by this version
     --> shop.toml:2:1
      |
    2 | systemd = "nginx"
      | ^^^^^^^
      |
      = help: run the program itself: `command = ["PROGRAM", "ARGUMENT"]`

    error: `scale` is not supported by this version
     --> shop.toml:3:1
      |
    3 | scale = { max = 6 }
      | ^^^^^
      |
      = help: leave it out

    error: `spread = "rack"` is not supported by this version
     --> shop.toml:4:10
      |
    4 | spread = "rack"
      |          ^^^^^^
      |
      = help: possible: `"prefer"`, `"node"` or `"zone"`
    "#);
}

#[test]
fn two_kinds_of_check_and_none() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "{port}"]
check = { tcp = true, http = "/" }
standby_check = { every = "1s" }
"#), @r#"
    error: `tcp` and `http` cannot be together
     --> shop.toml:3:23
      |
    3 | check = { tcp = true, http = "/" }
      |           ---         ^^^^
      |           |
      |           the other one
      |
      = help: one check tries one thing; leave one of them out

    error: `standby_check` does not say what to try
     --> shop.toml:4:17
      |
    4 | standby_check = { every = "1s" }
      |                 ^^^^^^^^^^^^^^^^
      |
      = help: add exactly one of `tcp`, `http`, `grpc`, `exec`, for example `tcp = true`
    "#);
}

#[test]
fn an_http_check_of_a_whole_address() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "{port}"]
check = { http = "http://localhost:8080/health", status = 42 }
"#), @r#"
    error: `http` must be a path, not a whole address
     --> shop.toml:3:18
      |
    3 | check = { http = "http://localhost:8080/health", status = 42 }
      |                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write `http = "/health"`: the instance's own address is put before it

    error: `status` must be a whole number from 100 to 599
     --> shop.toml:3:59
      |
    3 | check = { http = "http://localhost:8080/health", status = 42 }
      |                                                           ^^
      |
      = help: for example `status = [200, 204]`
    "#);
}

#[test]
fn an_empty_command() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = []

[service.db]
command = [""]
"#), @r#"
    error: `command` is empty: there is nothing to run
     --> shop.toml:2:11
      |
    2 | command = []
      |           ^^
      |
      = help: for example `command = ["redis-server", "--port", "{port}", "--dir", "{data}"]`

    error: the program of `command` is empty
     --> shop.toml:5:12
      |
    5 | command = [""]
      |            ^^
      |
      = help: for example `command = ["redis-server", "--port", "{port}", "--dir", "{data}"]`
    "#);
}

#[test]
fn a_timeout_of_nothing() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "{port}"]
check = { tcp = true, timeout = "0s" }
on_promote = { command = ["true"], timeout = "-1s" }
"#), @r#"
    error: `timeout` must be a duration from `1ms` to `5m`
     --> shop.toml:3:33
      |
    3 | check = { tcp = true, timeout = "0s" }
      |                                 ^^^^
      |
      = help: for example `timeout = "500ms"`

    error: `timeout`: `-1s` must not be negative
     --> shop.toml:4:46
      |
    4 | on_promote = { command = ["true"], timeout = "-1s" }
      |                                              ^^^^^
      |
      = help: for example `timeout = "30s"`
    "#);
}

#[test]
fn a_name_that_is_none() {
    assert_snapshot!(mistakes(r#"
name = "My Shop"

[service.Web_1]
command = ["./web"]
"#), @r#"
    error: the name `My Shop` must begin with a letter from a to z
     --> shop.toml:1:8
      |
    1 | name = "My Shop"
      |        ^^^^^^^^^
      |
      = help: `my-shop` would be possible

    error: the service name `Web_1` must begin with a letter from a to z
     --> shop.toml:3:10
      |
    3 | [service.Web_1]
      |          ^^^^^
      |
      = help: `web-1` would be possible
    "#);
}

#[test]
fn a_number_in_the_environment() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
env = { PORT = 8080, DEBUG = true, "A=B" = "c", UNDERSTUDY_ROLE = "active" }
"#), @r#"
    error: `PORT` must be text in quotes, not a number
     --> shop.toml:3:16
      |
    3 | env = { PORT = 8080, DEBUG = true, "A=B" = "c", UNDERSTUDY_ROLE = "active" }
      |                ^^^^
      |
      = help: write `PORT = "8080"`

    error: `DEBUG` must be text in quotes, not `true`
     --> shop.toml:3:30
      |
    3 | env = { PORT = 8080, DEBUG = true, "A=B" = "c", UNDERSTUDY_ROLE = "active" }
      |                              ^^^^
      |
      = help: write `DEBUG = "true"`

    error: the variable name `A=B` must not contain `=`
     --> shop.toml:3:36
      |
    3 | env = { PORT = 8080, DEBUG = true, "A=B" = "c", UNDERSTUDY_ROLE = "active" }
      |                                    ^^^^^

    error: the variable name `UNDERSTUDY_ROLE` is Understudy's own: what begins with `UNDERSTUDY_` is set for each instance
     --> shop.toml:3:49
      |
    3 | env = { PORT = 8080, DEBUG = true, "A=B" = "c", UNDERSTUDY_ROLE = "active" }
      |                                                 ^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn a_service_in_the_wrong_place() {
    assert_snapshot!(mistakes(r#"
active = 2

[db]
command = ["./db"]
"#), @r#"
    error: unknown key `active`
     --> shop.toml:1:1
      |
    1 | active = 2
      | ^^^^^^
      |
      = help: `active` belongs to a service: write it below `[service.NAME]`

    error: unknown key `db`
     --> shop.toml:3:2
      |
    3 | [db]
      |  ^^
      |
      = help: write `[service.db]`
    "#);
}

#[test]
fn services_as_an_array() {
    assert_snapshot!(mistakes(r#"
[[service]]
name = "web"
command = ["./web"]
"#), @r#"
    error: `service` must be a table, each value a table `[service.NAME]`, not an array
     --> shop.toml:1:1
      |
    1 | [[service]]
      | ^^^^^^^^^^^
      |
      = help: write `[service.NAME]` for each service, with a name of your choice
    "#);
}

#[test]
fn a_brace_that_is_not_closed() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web", "--port={port"]
"#), @r#"
    error: `{port` is not closed
     --> shop.toml:2:29
      |
    2 | command = ["./web", "--port={port"]
      |                             ^^^^^
      |
      = help: write `{port}`, or `{{port` to keep the brace as it is
    "#);
}

#[test]
fn a_signal_and_a_mode_nobody_knows() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
stop = { signal = "term" }
standby_mode = "hot"
"#), @r#"
    error: `signal` must be `"SIGTERM"`, `"SIGINT"`, `"SIGQUIT"`, `"SIGHUP"`, `"SIGUSR1"`, `"SIGUSR2"` or `"SIGKILL"`, not `term`
     --> shop.toml:3:19
      |
    3 | stop = { signal = "term" }
      |                   ^^^^^^
      |
      = help: did you mean `SIGTERM`?

    error: `standby_mode` must be `"warm"` or `"cold"`, not `hot`
     --> shop.toml:4:16
      |
    4 | standby_mode = "hot"
      |                ^^^^^
    "#);
}

#[test]
fn a_relative_folder_and_a_size() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
dir = "work"
limits = { memory = "512M", open_files = 4 }
logs = { max_size = 1000000 }
"#), @r#"
    error: `dir` must be an absolute path or begin with `{data}`
     --> shop.toml:3:7
      |
    3 | dir = "work"
      |       ^^^^^^
      |
      = help: write `/…/work`, or `{data}/work` for a folder of each instance

    error: `memory`: `512M` has the unknown unit `M`; there are B, kB, MB, GB, TB and KiB, MiB, GiB, TiB
     --> shop.toml:4:21
      |
    4 | limits = { memory = "512M", open_files = 4 }
      |                     ^^^^^^
      |
      = help: write `memory = "512MB"`

    error: `open_files` must be a whole number from 16 to 1073741824
     --> shop.toml:4:42
      |
    4 | limits = { memory = "512M", open_files = 4 }
      |                                          ^
      |
      = help: for example `open_files = 65536`

    error: `max_size` must be a size from `4KiB` to `1TiB` in quotes, not a number
     --> shop.toml:5:21
      |
    5 | logs = { max_size = 1000000 }
      |                     ^^^^^^^
      |
      = help: write `max_size = "1000000B"`
    "#);
}

#[test]
fn a_longest_wait_shorter_than_the_first() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
restart = { backoff = "1m" }
"#), @r#"
    error: `backoff` is 1m, longer than `backoff_max`, 30s
     --> shop.toml:3:23
      |
    3 | restart = { backoff = "1m" }
      |                       ^^^^
      |
      = help: write `backoff_max = "1m"` or longer
    "#);
}

#[test]
fn a_service_that_needs_itself() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
needs = ["web"]
"#), @r#"
    error: `web` needs itself, so it could never start
     --> shop.toml:3:10
      |
    3 | needs = ["web"]
      |          ^^^^^
      |
      = help: leave it out
    "#);
}

#[test]
fn a_word_for_true_is_not_told_to_be_quoted() {
    assert_snapshot!(mistakes("[service.web]\ncommand = [\"x\"]\nexclusive = yes\n"), @r#"
    error: `yes` is text without quotes
     --> shop.toml:3:13
      |
    3 | exclusive = yes
      |             ^^^
      |
      = help: write `true`; if text is meant, `"yes"`
    "#);
}

#[test]
fn text_without_quotes() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = redis-server
active =
"#), @r#"
    error: `redis-server` is text without quotes
     --> shop.toml:2:11
      |
    2 | command = redis-server
      |           ^^^^^^^^^^^^
      |
      = help: write `"redis-server"`

    error: a value is missing after `=`
     --> shop.toml:3:9
      |
    3 | active =
      |         ^
      |
      = help: for example `active = 2` or `listen = "127.0.0.1:8080"`
    "#);
}

#[test]
fn an_array_that_is_not_closed() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web",

[service.db]
command = ["./db"]
active = 2
"#), @r#"
    error: the array that begins here is not closed
     --> shop.toml:2:11
      |
    2 | command = ["./web",
      |           ^
      |
      = help: add a `]` where it ends
    "#);
}

#[test]
fn a_key_that_is_there_twice() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["./web"]
command = ["./web2"]
"#), @r#"
    error: `command` is there twice
     --> shop.toml:3:1
      |
    3 | command = ["./web2"]
      | ^^^^^^^
      |
      = help: leave one of them out; a table has one heading
    "#);
}

#[test]
fn no_service_at_all() {
    assert_snapshot!(mistakes(r#"
name = "shop"
"#), @r#"
    error: no service is declared
     --> shop.toml:1:1
      |
    1 | name = "shop"
      | ^
      |
      = help: add one: a line `[service.web]`, and below it `command = ["./web", "--port", "{port}"]`
    "#);
}

#[test]
fn nothing_at_all() {
    assert_snapshot!(mistakes(r#"

"#), @r#"
    error: no service is declared
     --> shop.toml:1:1
      |
    1 |
      | ^
      |
      = help: add one: a line `[service.web]`, and below it `command = ["./web", "--port", "{port}"]`
    "#);
}

#[test]
fn a_running_standby_that_could_act() {
    assert_snapshot!(warnings(r#"
[service.db]
command = ["./db"]
exclusive = true
standby_mode = "warm"
"#), @r#"
    warning: a running standby of an exclusive service could act as if it were active: nothing tells it when it is
     --> shop.toml:4:16
      |
    4 | standby_mode = "warm"
      |                ^^^^^^
      |
      = help: add `on_promote`, or write `standby_mode = "cold"`
    "#);
}

#[test]
fn what_has_no_effect_without_a_standby() {
    assert_snapshot!(warnings(r#"
[service.db]
command = ["./db", "{port}"]
standby = 0
on_follow = ["./follow", "{active.host}"]
hold = { max = 10 }
"#), @r#"
    warning: `on_follow` has no effect: there is no standby
     --> shop.toml:4:13
      |
    4 | on_follow = ["./follow", "{active.host}"]
      |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: add a `standby`, or leave it out

    warning: `hold` has no effect without `listen`
     --> shop.toml:5:8
      |
    5 | hold = { max = 10 }
      |        ^^^^^^^^^^^^
      |
      = help: add `listen`, or leave it out
    "#);
}

#[test]
fn what_looks_like_a_placeholder_and_is_none() {
    assert_snapshot!(warnings(r#"
[service.db]
command = ["sh", "-c", "exec ./db --port ${port} --data { data }"]
"#), @r#"
    warning: `${port}` is no shell variable: `{port}` is filled in, the `$` stays
     --> shop.toml:2:43
      |
    2 | command = ["sh", "-c", "exec ./db --port ${port} --data { data }"]
      |                                           ^^^^^^
      |
      = help: write `${{port}}` for the shell's variable

    warning: `{ data }` is no placeholder and is passed on as it stands
     --> shop.toml:2:57
      |
    2 | command = ["sh", "-c", "exec ./db --port ${port} --data { data }"]
      |                                                         ^^^^^^^^
      |
      = help: did you mean `{data}`?
    "#);
}

fn mistakes(text: &str) -> String {
    match spec::parse(text.trim_start(), "shop.toml") {
        Ok(parsed) => format!("no mistake: {:#?}", parsed.cluster),
        Err(errors) => errors.render(false),
    }
}

fn warnings(text: &str) -> String {
    let found = match spec::parse(text.trim_start(), "shop.toml") {
        Ok(parsed) => parsed.warnings,
        Err(errors) => panic!("{errors}"),
    };
    let pictures: Vec<String> = found.iter().map(|warning| warning.render(false)).collect();
    pictures.join("\n\n")
}

#[test]
fn objectives_and_alerts_that_make_no_sense_are_told_with_what_would_be_right() {
    let web = |more: &str| format!("[service.web]\ncommand = [\"./web\"]\nobjective = {{ {more} }}\n");
    let alerts = |more: &str| format!("[service.web]\ncommand = [\"./web\"]\n[alerts]\n{more}\n");
    for (file, said) in [
        (
            web("availability = \"100%\""),
            "must be more than 0 % and less than 100 %",
        ),
        (web("availability = 99.9"), "\"99.9%\""),
        (web("availability = \"0.999\""), "write `\"99.9%\"`"),
        (web("availability = \"99.9\""), "write `\"99.9%\"`"),
        (web("latency = \"0ms\""), "a duration from `1ms` to `1m`"),
        (web("latency_share = \"95%\""), "has a meaning only beside `latency`"),
        (web("availabilty = \"99%\""), "did you mean `availability`?"),
        (
            alerts("webhook = [\"10.0.0.9:9000/hook\"]"),
            "write `\"http://10.0.0.9:9000/hook\"`",
        ),
        (
            alerts("webhook = [\"http://ann:secret@h/\"]"),
            "name it as `token_file`",
        ),
        (alerts("webhook = [\"http://\"]"), "has no host"),
        (alerts("alertmanager = [\"http://h:99999\"]"), "a port that is none"),
        (alerts("webhook = \"http://h/\""), "[\"http://h/\"]"),
        (
            alerts("token_file = \"alerts.token\""),
            "must be the absolute path of a file",
        ),
        (alerts("repeat = \"1s\""), "a duration from `1m`"),
        (alerts("mail = [\"a@b\"]"), "not supported by this version"),
    ] {
        let errors = mistakes(&file);
        assert!(errors.contains(said), "{file}\n{errors}");
    }
}

#[test]
fn a_node_that_is_wanted_and_not_wanted() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["web"]
nodes = ["a", "b"]
avoid = ["b"]
"#), @r#"
    error: `b` is in `nodes` and in `avoid`
     --> shop.toml:4:9
      |
    3 | nodes = ["a", "b"]
      |         ---------- its instances may be there
    4 | avoid = ["b"]
      |         ^^^^^
      |
      = help: with `nodes` no other node is used anyway: take `b` out of one of the two
    "#);
}

#[test]
fn more_instances_that_keep_apart_than_nodes() {
    assert_snapshot!(mistakes(r#"
[service.web]
command = ["web"]
active = 2
standby = 1
nodes = ["a", "b"]
spread = "node"
"#), @r#"
    error: 3 instances that keep apart do not fit on 2 nodes
     --> shop.toml:5:9
      |
    5 | nodes = ["a", "b"]
      |         ^^^^^^^^^^
    6 | spread = "node"
      |          ------ they keep apart
      |
      = help: name more nodes, declare fewer instances, or write `spread = "prefer"`
    "#);
}
