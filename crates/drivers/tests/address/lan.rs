//! Hosts in network namespaces of their own, on one switch. All of it is gone with the value.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

static LANS: AtomicU32 = AtomicU32::new(0);

/// A switch. Hosts are `10.77.0.N/24` and `fd77::N/64`, with the Ethernet address `02:00:00:00:00:0N`.
pub(crate) struct Lan {
    switch: Namespace,
}

/// A host: its own network namespace, and a runtime whose threads are all in it.
pub(crate) struct Host {
    namespace: Namespace,
    number: u8,
    runtime: Option<Runtime>,
}

struct Namespace(String);

impl Lan {
    pub(crate) fn new() -> Self {
        let number = LANS.fetch_add(1, Ordering::Relaxed);
        let switch = Namespace::new(format!("us-addr-{}-{number}", std::process::id()));
        switch.ip("link add name br0 type bridge mcast_snooping 0");
        switch.ip("link set br0 up");
        Self { switch }
    }

    pub(crate) fn host(&self, number: u8) -> Host {
        let namespace = Namespace::new(format!("{}-{number}", self.switch.0));
        let host = Host {
            runtime: Some(namespace.runtime()),
            namespace,
            number,
        };
        host.ip("link set lo up");
        self.plug(&host);
        host
    }

    /// Gives a host its interface, with the host's own addresses.
    pub(crate) fn plug(&self, host: &Host) {
        let Host { number, namespace, .. } = host;
        self.switch.ip(&format!(
            "link add name p{number} type veth peer name eth0 address {} netns {}",
            host.mac(),
            namespace.0
        ));
        self.switch.ip(&format!("link set p{number} master br0 up"));
        host.ip("link set eth0 up");
        host.ip(&format!("addr add 10.77.0.{number}/24 dev eth0"));
        host.ip(&format!("addr add fd77::{number}/64 dev eth0 nodad"));
        eventually("the link is up", || host.ip("link show eth0").contains("state UP"));
    }
}

impl Host {
    pub(crate) fn mac(&self) -> String {
        format!("02:00:00:00:00:{:02x}", self.number)
    }

    /// Runs `ip` here.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.namespace.ip(words)
    }

    /// Loads rules of nftables here.
    pub(crate) fn nft(&self, rules: &str) {
        self.namespace.within("nft", &[rules], "nftables");
    }

    pub(crate) fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.as_ref().unwrap().spawn(future)
    }

    /// Runs a future here, to its end.
    pub(crate) fn run<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let task = self.spawn(future);
        self.runtime.as_ref().unwrap().block_on(task).unwrap()
    }

    /// The agent here dies: nothing of it runs on, and nothing is tidied up.
    pub(crate) fn kill_agent(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
        self.runtime = Some(self.namespace.runtime());
    }

    /// Runs on a thread that is in this namespace.
    pub(crate) fn on_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&self.namespace.0);
                work()
            });
            thread.join().unwrap()
        })
    }

    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        let shown = self.ip("-o addr show");
        shown.split_whitespace().any(|word| {
            let address = word.split('/').next().unwrap_or_default();
            address.parse() == Ok(ip)
        })
    }

    /// The Ethernet address that this host believes another to have.
    pub(crate) fn neighbour(&self, ip: IpAddr) -> Option<String> {
        let shown = self.ip(&format!("neigh show {ip} dev eth0"));
        let mut words = shown.split_whitespace().skip_while(|word| *word != "lladdr");
        words.nth(1).map(str::to_owned)
    }
}

impl Namespace {
    fn new(name: String) -> Self {
        let namespace = Self(name);
        run("ip", &["netns", "add", &namespace.0], "iproute2");
        namespace
    }

    fn ip(&self, words: &str) -> String {
        let mut args = vec!["-n", &self.0];
        args.extend(words.split_whitespace());
        run("ip", &args, "iproute2")
    }

    fn within(&self, program: &str, args: &[&str], package: &str) -> String {
        run(program, &["--version"], package);
        let words = [&["netns", "exec", &self.0, program], args].concat();
        run("ip", &words, "iproute2")
    }

    fn runtime(&self) -> Runtime {
        let name = self.0.clone();
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || enter(&name));
        builder.build().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// Waits for a condition; ten seconds at most.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "not so in ten seconds: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).unwrap();
}

fn run(program: &str, args: &[&str], package: &str) -> String {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!("`{program}` is missing: apt-get install --no-install-recommends {package} ({error})")
    });
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.success(),
        "{program} {}: {err} (these tests need root, as for `ip netns add`)",
        args.join(" ")
    );
    out
}
